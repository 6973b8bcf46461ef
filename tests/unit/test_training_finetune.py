"""Training a small YOLOX-style graph: it learns, it keeps, it says when it cannot."""

import cv2
import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgebus.artifacts import apply_update
from edgebus.inference.graph import TorchGraph
from edgebus_retrainer.training import (
    AugmentSettings,
    FinetuneSettings,
    HeadMismatchError,
    LabelledImage,
    NothingToTrainOnError,
    TrainingDivergedError,
    YoloxHead,
    decode_boxes,
    finetune,
)

SIDE, CLASSES = 32, 2
HEAD = YoloxHead(height=SIDE, width=SIDE, classes=CLASSES, strides=(8, 16))


def network(seed=0):
    """Stride 8 and 16 under one head: [1, 16 + 4, 5 + 2], scores after a sigmoid, batch 1."""
    rng = np.random.default_rng(seed)
    tensors, nodes = {}, []

    def conv(name, x, y, inputs, outputs, kernel, stride=1, bias=0.0):
        fan = inputs * kernel * kernel
        weight = rng.normal(size=(outputs, inputs, kernel, kernel)) * (2 / fan) ** 0.5
        tensors[f"{name}.w"] = weight.astype(np.float32)
        tensors[f"{name}.b"] = np.full(outputs, bias, np.float32)
        pads = [kernel // 2] * 4
        nodes.append(
            helper.make_node(
                "Conv", [x, f"{name}.w", f"{name}.b"], [y], strides=[stride] * 2, pads=pads
            )
        )

    def relu(x, y):
        nodes.append(helper.make_node("Relu", [x], [y]))

    conv("a", "images", "a", 3, 12, 3, 2)
    relu("a", "ar")
    conv("b", "ar", "b", 12, 24, 3, 2)
    relu("b", "br")
    conv("c", "br", "c", 24, 24, 3, 2)
    relu("c", "c8")
    conv("d", "c8", "d", 24, 24, 3, 2)
    relu("d", "c16")
    for level in ("8", "16"):
        conv(f"box{level}", f"c{level}", f"box{level}", 24, 4, 1)
        # Boxes begin at the size of a cell, or most never meet what they shall cover.
        tensors[f"box{level}.w"] *= 0.05
        conv(f"obj{level}", f"c{level}", f"obj{level}", 24, 1, 1, bias=-2.0)
        conv(f"cls{level}", f"c{level}", f"cls{level}", 24, CLASSES, 1)
        parts = [f"box{level}"]
        for part in ("obj", "cls"):
            nodes.append(helper.make_node("Sigmoid", [f"{part}{level}"], [f"{part}{level}.score"]))
            parts.append(f"{part}{level}.score")
        nodes.append(helper.make_node("Concat", parts, [f"all{level}"], axis=1))
        nodes.append(helper.make_node("Reshape", [f"all{level}", "flat"], [f"flat{level}"]))
    nodes.append(helper.make_node("Concat", ["flat8", "flat16"], ["flat_all"], axis=2))
    nodes.append(helper.make_node("Transpose", ["flat_all"], ["output"], perm=[0, 2, 1]))
    inits = [numpy_helper.from_array(v, k) for k, v in tensors.items()]
    inits.append(numpy_helper.from_array(np.array([1, 5 + CLASSES, -1], np.int64), "flat"))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 20, 5 + CLASSES])],
        inits,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


class Same:
    def to_input(self, boxes):
        return boxes


def prepare(image):
    return (image.astype(np.float32).transpose(2, 0, 1)[None] - 114) / 64, Same()


def scene(index, *, dark=False):
    """One coloured square on grey: blue is class 0, red is class 1."""
    rng = np.random.default_rng(index)
    size = int(rng.integers(8, 15))
    x, y = (int(v) for v in rng.integers(1, SIDE - size - 1, 2))
    label = int(rng.integers(0, 2))
    image = np.full((SIDE, SIDE, 3), 100, np.uint8)
    image[y : y + size, x : x + size] = (220, 40, 40) if label == 0 else (40, 40, 220)
    if dark:
        image = (image * 0.25).astype(np.uint8)
    return LabelledImage(
        name=f"{index}",
        source=cv2.imencode(".png", image)[1].tobytes(),
        boxes=np.float32([[x, y, x + size, y + size]]),
        labels=np.array([label]),
    )


SETTINGS = FinetuneSettings(
    steps=60,
    learning_rate=5e-3,
    replay_share=0.0,
    threads=1,
    augment=AugmentSettings(scale=0, translate=0, brightness=0, contrast=0),
)


def train(graph, new, replay=(), **changes):
    more = {k: changes.pop(k) for k in ("on_step", "stop", "head") if k in changes}
    return finetune(
        graph,
        prepare=prepare,
        new=new,
        replay=replay,
        settings=SETTINGS.model_copy(update=changes),
        device="cpu",
        **({"head": HEAD} | more),
    )


def test_it_learns_one_picture_by_heart():
    picture = scene(3)
    graph = TorchGraph(network(), scope="all")
    result = train(
        graph,
        [picture],
        steps=150,
        learning_rate=2e-3,
        augment=SETTINGS.augment.model_copy(update={"flip": 0.0}),
    )
    assert np.mean(result.losses[-5:]) < 0.2 * np.mean(result.losses[:5])
    tensor, _ = prepare(picture.load())
    with torch.no_grad():
        rows = graph(torch.from_numpy(tensor))["output"][0]
    best = int((rows[:, 4] * rows[:, 5:].max(1).values).argmax())
    boxes = decode_boxes(rows[:, :4], HEAD.anchors(torch.device("cpu")))
    assert int(rows[best, 5:].argmax()) == int(picture.labels[0])
    np.testing.assert_allclose(boxes[best].numpy(), picture.boxes[0], atol=2.0)


@pytest.mark.parametrize("scope", ["biases", "biases+scales", "head", "all"])
def test_the_loss_falls_whatever_is_trained(scope):
    graph = TorchGraph(network(), scope=scope)
    result = train(graph, [scene(i) for i in range(24)])
    assert result.steps == 60
    assert not result.stopped
    assert result.trainable == graph.trainable
    assert np.mean(result.losses[-10:]) < 0.93 * np.mean(result.losses[:5])


def test_the_update_is_what_was_trained():
    model = network()
    graph = TorchGraph(model)
    before = {name: value.copy() for name, value in graph.tensors().items()}
    result = train(graph, [scene(i) for i in range(8)], steps=5)
    rebuilt = apply_update(before, result.update)
    for name, value in graph.tensors().items():
        assert value.tobytes() == rebuilt[name].tobytes(), name
    assert any(not np.array_equal(rebuilt[name], before[name]) for name in before)


def test_equal_seeds_give_equal_updates():
    updates = [
        train(TorchGraph(network()), [scene(i) for i in range(8)], steps=6, seed=seed).update
        for seed in (1, 1, 2)
    ]
    first, second, other = (
        np.concatenate([v.reshape(-1) for v in u.replace.values()]) for u in updates
    )
    assert first.tobytes() == second.tobytes()
    assert first.tobytes() != other.tobytes()


def test_replay_keeps_what_was_known():
    model = network()
    graph = TorchGraph(model, scope="all")
    day = [scene(i) for i in range(24)]
    train(graph, day, steps=200)
    known = graph.tensors()
    dusk = [scene(i, dark=True) for i in range(100, 124)]

    def loss_by_day(replay):
        second = TorchGraph(model, known, scope="all")
        train(second, dusk, replay, replay_share=0.5, steps=120, learning_rate=5e-3)
        # One step at no learning rate to speak of measures the loss.
        return np.mean(train(second, day, steps=6, learning_rate=1e-12).losses)

    assert loss_by_day(day) < 0.8 * loss_by_day(())


def test_every_step_is_reported_and_a_stop_is_obeyed():
    seen = []
    result = train(
        TorchGraph(network()),
        [scene(0)],
        on_step=seen.append,
        stop=lambda: len(seen) == 4,
    )
    assert [s.step for s in seen] == [1, 2, 3, 4]
    assert all(s.steps == 60 and s.matched > 0 for s in seen)
    assert seen[0].learning_rate < seen[3].learning_rate == pytest.approx(5e-3, rel=0.01)
    assert result.stopped
    assert result.steps == 4
    assert result.losses == tuple(s.loss for s in seen)


def test_divergence_is_an_error_not_a_model():
    with pytest.raises(TrainingDivergedError, match="lower the learning rate") as caught:
        train(
            TorchGraph(network(), scope="all"),
            [scene(i) for i in range(8)],
            learning_rate=1e6,
            steps=60,
        )
    assert caught.value.step < 60
    assert caught.value.learning_rate == 1e6


def test_pictures_that_are_not_finite_are_an_error():
    def poisoned(image):
        tensor, place = prepare(image)
        return tensor * np.float32("nan"), place

    with pytest.raises(TrainingDivergedError, match="step 1"):
        finetune(
            TorchGraph(network()), head=HEAD, prepare=poisoned, new=[scene(0)], settings=SETTINGS
        )


def test_empty_pictures_teach_silence():
    empty = LabelledImage(
        name="empty",
        source=cv2.imencode(".png", np.full((SIDE, SIDE, 3), 100, np.uint8))[1].tobytes(),
    )
    graph = TorchGraph(network())
    result = train(graph, [empty], steps=40)
    assert result.losses[-1] < 0.7 * result.losses[0]


def test_unreadable_pictures_are_reported():
    broken = LabelledImage(name="broken", source=b"\xff\xd8 torn")
    result = train(TorchGraph(network()), [scene(0), broken], steps=3)
    assert result.unreadable == ("broken",)
    with pytest.raises(NothingToTrainOnError):
        train(TorchGraph(network()), [broken])


@pytest.mark.parametrize(
    "changes", [{"classes": 3}, {"strides": (8, 16, 32)}, {"height": 64}], ids=str
)
def test_another_head_is_refused(changes):
    fields = {"height": SIDE, "width": SIDE, "classes": CLASSES, "strides": (8, 16)} | changes
    with pytest.raises(HeadMismatchError, match=r"\(8, 20, 7\)"):
        train(TorchGraph(network()), [scene(0)], head=YoloxHead(**fields))


def test_torch_has_its_threads_back():
    before = torch.get_num_threads()
    train(TorchGraph(network()), [scene(0)], steps=1, threads=1)
    assert torch.get_num_threads() == before
