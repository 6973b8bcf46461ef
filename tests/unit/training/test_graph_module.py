"""TorchGraph as a whole: weights, scopes, updates, logits."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgebus.artifacts import Update, apply_update
from edgebus.training.graph import (
    GraphError,
    GraphWeightsError,
    TorchGraph,
    UnsupportedGraphError,
    check_supported,
    interpolate,
)

RNG = np.random.default_rng(0)


def random(*shape):
    return RNG.normal(size=shape).astype(np.float32)


TENSORS = {
    "stem.weight": random(8, 3, 3, 3),
    "stem.bias": random(8),
    "norm.gain": random(8),
    "norm.bias": random(8),
    "norm.mean": random(8),
    "norm.var": np.abs(random(8)) + 0.5,
    "box.weight": random(4, 8, 1, 1),
    "score.weight": random(2, 8, 1, 1),
    "score.bias": random(2),
}


def detector(external=False):
    """Stem, batch norm, SiLU, then boxes beside scores, as a YOLOX head has them."""
    n = helper.make_node
    nodes = [
        n("Conv", ["x", "stem.weight", "stem.bias"], ["a"], pads=[1, 1, 1, 1]),
        n("BatchNormalization", ["a", *(f"norm.{k}" for k in ("gain", "bias", "mean", "var"))],
          ["b"]),
        n("Sigmoid", ["b"], ["s"]),
        n("Mul", ["b", "s"], ["c"]),
        n("Conv", ["c", "box.weight"], ["box"]),
        n("Conv", ["c", "score.weight", "score.bias"], ["raw"]),
        n("Sigmoid", ["raw"], ["score"]),
        n("Concat", ["box", "score"], ["both"], axis=1),
        n("Reshape", ["both", "shape"], ["flat"]),
        n("Transpose", ["flat"], ["y"], perm=[0, 2, 1]),
    ]  # fmt: skip
    inits = [numpy_helper.from_array(v, k) for k, v in TENSORS.items()]
    if external:
        for tensor in inits:
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="weights.safetensors")
    inits.append(numpy_helper.from_array(np.array([1, 6, -1], np.int64), "shape"))
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 6, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 30, 6])],
        inits,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def served(tensors, x):
    """What ONNX Runtime computes with these tensors."""
    model = detector()
    for tensor in model.graph.initializer:
        if tensor.name in tensors:
            tensor.CopyFrom(numpy_helper.from_array(tensors[tensor.name], tensor.name))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": x[i : i + 1]})[0] for i in range(len(x))])


def nudge(graph, seed=1):
    """Stand-in for training: every parameter a bit off."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def test_weights_come_from_outside():
    x = random(3, 3, 6, 5)
    graph = TorchGraph(detector(external=True).SerializeToString(), TENSORS)
    with torch.no_grad():
        y = graph(torch.from_numpy(x))["y"].numpy()
    np.testing.assert_allclose(y, served({}, x), atol=1e-5)
    assert graph.tensors().keys() == TENSORS.keys()
    assert graph.input_name == "x"
    assert graph.input_shape == (1, 3, 6, 5)


def test_support_is_checked_without_weights():
    check_supported(detector(external=True))


def test_missing_weights_are_named():
    tensors = {k: v for k, v in TENSORS.items() if k != "box.weight"}
    with pytest.raises(GraphWeightsError, match=r"box\.weight.*missing") as caught:
        TorchGraph(detector(external=True), tensors)
    assert caught.value.name == "box.weight"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            np.zeros((8, 4, 1, 1), np.float32),
            r"shape \(8, 4, 1, 1\), the graph wants \(4, 8, 1, 1\)",
        ),
        (np.zeros((4, 8, 1, 1), np.float64), "float64"),
    ],
)
def test_weights_that_do_not_fit_are_refused(value, words):
    with pytest.raises(GraphWeightsError, match=words):
        TorchGraph(detector(), {**TENSORS, "box.weight": value})


def test_external_tensors_that_are_no_weights_are_refused():
    model = detector(external=True)
    shape = model.graph.initializer[-1]
    shape.ClearField("raw_data")
    shape.data_location = TensorProto.EXTERNAL
    with pytest.raises(UnsupportedGraphError, match="keep it inside"):
        check_supported(model)


def test_garbage_is_no_graph():
    with pytest.raises(GraphError, match="7 bytes that are no ONNX model"):
        check_supported(b"\x08garbag")


def test_a_picture_of_another_size_is_refused():
    graph = TorchGraph(detector())
    with pytest.raises(ValueError, match=r"\(1, 3, 7, 5\).*\(1, 3, 6, 5\)"):
        graph(torch.zeros(1, 3, 7, 5))


def test_a_free_batch_runs_directly():
    model = detector()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    for tensor in model.graph.initializer:
        if tensor.name == "shape":
            tensor.CopyFrom(numpy_helper.from_array(np.array([0, 6, -1], np.int64), "shape"))
    x = random(3, 3, 6, 5)
    with torch.no_grad():
        y = TorchGraph(model)(torch.from_numpy(x))["y"].numpy()
    np.testing.assert_allclose(y, served({}, x), atol=1e-5)


def test_logits_stand_where_the_scores_stood():
    graph, x = TorchGraph(detector()), torch.from_numpy(random(2, 3, 6, 5))
    scores, logits = graph(x)["y"], graph(x, logits=True)["y"]
    torch.testing.assert_close(scores[..., 4:], logits[..., 4:].sigmoid())
    torch.testing.assert_close(scores[..., :4], logits[..., :4], rtol=0, atol=0)


def test_intermediate_tensors_by_name():
    graph = TorchGraph(detector(), outputs=("raw", "s"))
    x = torch.from_numpy(random(2, 3, 6, 5))
    found = graph(x)
    assert found["raw"].shape == (2, 2, 6, 5)
    # Asked for, the sigmoid of the activation is not fused away.
    assert float(found["s"].detach().min()) > 0
    assert graph.output_names == ("raw", "s")
    with pytest.raises(GraphError, match="no tensor"):
        TorchGraph(detector(), outputs=("nothing",))


CONVOLUTIONS = {"stem.weight", "box.weight", "score.weight"}
BIASES = {"stem.bias", "norm.bias", "score.bias"}


@pytest.mark.parametrize(
    ("scope", "replaced", "scaled"),
    [
        ("biases", BIASES, set()),
        ("biases+scales", BIASES, CONVOLUTIONS),
        ("all", BIASES | CONVOLUTIONS | {"norm.gain"}, set()),
    ],
)
def test_scopes_change_what_they_say(scope, replaced, scaled):
    graph = TorchGraph(detector(), scope=scope)
    nudge(graph)
    update = graph.update()
    assert set(update.replace) == replaced
    assert set(update.scale) == scaled
    assert graph.trainable == sum(
        v.size for u in (update.replace, update.scale) for v in u.values()
    )


def test_the_head_is_the_last_layers():
    graph = TorchGraph(detector(), scope="head", head_depth=1)
    nudge(graph)
    assert set(graph.update().replace) == {"box.weight", "score.weight", "score.bias"}


def test_an_unknown_scope_is_refused():
    with pytest.raises(GraphError, match="biases\\+scales"):
        TorchGraph(detector(), scope="weights")


def test_nothing_changed_is_an_empty_update():
    update = TorchGraph(detector()).update()
    assert not update.replace
    assert not update.scale


@pytest.mark.parametrize("scope", ["biases", "biases+scales", "head", "all"])
def test_an_update_rebuilds_the_trained_tensors_to_the_bit(scope):
    graph, x = TorchGraph(detector(), scope=scope), random(2, 3, 6, 5)
    nudge(graph)
    rebuilt = apply_update(TENSORS, graph.update())
    for name, value in graph.tensors().items():
        assert value.tobytes() == rebuilt[name].tobytes(), name
    # What torch computes with: a graph made of the rebuilt tensors gives the same bits.
    with torch.no_grad():
        trained = graph(torch.from_numpy(x))["y"]
        again = TorchGraph(detector(), rebuilt)(torch.from_numpy(x))["y"]
    assert torch.equal(trained, again)
    np.testing.assert_allclose(trained.numpy(), served(rebuilt, x), atol=1e-5)


def test_every_parameter_gets_a_gradient():
    graph = TorchGraph(detector(), scope="biases+scales")
    graph(torch.from_numpy(random(4, 3, 6, 5)), logits=True)["y"].square().sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in graph.parameters())


def test_interpolation_goes_a_part_of_the_way():
    update = Update(replace={"b": np.float32([3.0])}, scale={"w": np.float32([2.0, 0.0])})
    old = {"b": np.float32([1.0]), "w": np.float32([[1.0], [4.0]])}
    half = apply_update(old, interpolate(old, update, 0.5))
    np.testing.assert_array_equal(half["b"], [2.0])
    np.testing.assert_array_equal(half["w"], [[1.5], [2.0]])
    full = apply_update(old, interpolate(old, update, 1.0))
    np.testing.assert_array_equal(full["w"], [[2.0], [0.0]])
    with pytest.raises(ValueError, match=r"alpha = 1\.5"):
        interpolate(old, update, 1.5)


def test_tensors_that_the_graph_does_not_read_stay():
    graph = TorchGraph(detector(), {**TENSORS, "spare": np.float32([1.0])})
    nudge(graph)
    assert graph.tensors()["spare"].tolist() == [1.0]


def test_tied_weights_are_one_parameter():
    model = detector()
    model.graph.node[5].input[1] = "box.weight"
    model.graph.node[8].input[1] = "shape8"
    model.graph.initializer.append(
        numpy_helper.from_array(np.array([1, 8, -1], np.int64), "shape8")
    )
    del model.graph.node[5].input[2]
    graph = TorchGraph(model, scope="all")
    x = random(2, 3, 6, 5)
    session = ort.InferenceSession(onnx.ModelProto.SerializeToString(_open(model)))
    expected = np.concatenate([session.run(None, {"x": x[i : i + 1]})[0] for i in range(2)])
    with torch.no_grad():
        np.testing.assert_allclose(graph(torch.from_numpy(x))["y"].numpy(), expected, atol=1e-5)
    assert "box.weight" in graph.tensors()


def _open(model):
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model
