"""Each operator rule against ONNX Runtime, on graphs made here."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgebus.training.graph import TorchGraph, UnsupportedGraphError, check_supported

SHAPE = (1, 4, 12, 10)


def graph_of(nodes, *, inits=None, shape=SHAPE, opset=13, outputs=("y",)):
    """A model whose input `x` has the shape; outputs keep an open shape."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in (inits or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, ends, tensors)
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
    )


def both(model, batch=1, seed=0):
    """Outputs of ONNX Runtime, picture by picture, and of torch, as one batch."""
    rng = np.random.default_rng(seed)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = rng.normal(size=(batch, *shape[1:])).astype(np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = [session.run(None, {"x": x[i : i + 1]}) for i in range(batch)]
    graph = TorchGraph(model, scope="all")
    with torch.no_grad():
        found = graph(torch.from_numpy(x))
    return rows, [found[name].numpy() for name in graph.output_names]


def node(op, inputs=("x", "w"), outputs=("y",), **attributes):
    return helper.make_node(op, list(inputs), list(outputs), **attributes)


W = np.random.default_rng(1).normal(size=(6, 4, 3, 3)).astype(np.float32)
B = np.random.default_rng(2).normal(size=6).astype(np.float32)
KERNEL = {"kernel_shape": [3, 3]}
# Something with weights must be in every graph: a 1 x 1 convolution before or after the operator.
POINT = np.random.default_rng(3).normal(size=(4, 4, 1, 1)).astype(np.float32)

CONVS = {
    "plain": ("Conv", W, {}),
    "pads": ("Conv", W, {"pads": [1, 1, 1, 1]}),
    "uneven pads": ("Conv", W, {"pads": [0, 1, 2, 1], "strides": [2, 1]}),
    "dilated": ("Conv", W, {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    "groups": ("Conv", W[:, :2], {"group": 2}),
    "valid": ("Conv", W, {"auto_pad": "VALID"}),
    "transposed": ("ConvTranspose", W.transpose(1, 0, 2, 3), {"strides": [2, 2]}),
    "transposed, output padding": (
        "ConvTranspose",
        W.transpose(1, 0, 2, 3),
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    ),
}


@pytest.mark.parametrize("case", CONVS)
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions(case, bias):
    op, weight, attributes = CONVS[case]
    inits = {"w": np.ascontiguousarray(weight)} | ({"b": B} if bias else {})
    names = ("x", "w", "b") if bias else ("x", "w")
    model = graph_of([node(op, names, **attributes)], inits=inits)
    for rows, found in [both(model, batch=3)]:
        np.testing.assert_allclose(np.concatenate([r[0] for r in rows]), found[0], atol=2e-5)


# name: (operator set, nodes after a convolution that gives "c" of the input's shape, initializers)
i64 = lambda *v: np.array(v, np.int64)  # noqa: E731
f32 = lambda *v: np.array(v, np.float32)  # noqa: E731
AFTER = {
    "relu": (13, [node("Relu", ["c"])], {}),
    "leaky": (13, [node("LeakyRelu", ["c"], alpha=0.2)], {}),
    "elu": (13, [node("Elu", ["c"], alpha=0.7)], {}),
    "prelu": (13, [node("PRelu", ["c", "k"])], {"k": f32(0.1, 0.2, 0.3, 0.4).reshape(4, 1, 1)}),
    "hard sigmoid": (13, [node("HardSigmoid", ["c"], alpha=0.3, beta=0.4)], {}),
    "hard swish": (14, [node("HardSwish", ["c"])], {}),
    "tanh softplus": (13, [node("Softplus", ["c"], ["t"]), node("Tanh", ["t"])], {}),
    "silu": (13, [node("Sigmoid", ["c"], ["s"]), node("Mul", ["s", "c"])], {}),
    "sigmoid that is used twice": (
        13,
        [
            node("Sigmoid", ["c"], ["s"]),
            node("Mul", ["c", "s"], ["m"]),
            node("Add", ["m", "s"]),
        ],
        {},
    ),
    "clip by attributes": (6, [node("Clip", ["c"], min=-0.5, max=0.5)], {}),
    "clip by inputs": (13, [node("Clip", ["c", "", "hi"])], {"hi": f32(0.3).reshape(())}),
    "arithmetic": (
        13,
        [
            node("Sub", ["c", "k"], ["a"]),
            node("Div", ["a", "k"], ["b"]),
            node("Abs", ["b"], ["d"]),
            node("Pow", ["d", "e"], ["f"]),
            node("Sqrt", ["f"], ["h"]),
            node("Neg", ["h"], ["i"]),
            node("Exp", ["i"]),
        ],
        {"k": f32(2.0), "e": f32(2.0)},
    ),
    "extremes": (13, [node("Max", ["c", "k"], ["a"]), node("Min", ["a", "c", "x"])], {"k": f32(0)}),
    "softmax over an axis": (13, [node("Softmax", ["c"], axis=1)], {}),
    "softmax from an axis on": (11, [node("Softmax", ["c"], axis=2)], {}),
    "max pool": (13, [node("MaxPool", ["c"], kernel_shape=[5, 5], pads=[2, 2, 2, 2])], {}),
    "max pool, uneven": (
        13,
        [node("MaxPool", ["c"], kernel_shape=[2, 2], pads=[0, 1, 1, 0], strides=[2, 2])],
        {},
    ),
    "max pool, ceiling": (
        13,
        [node("MaxPool", ["c"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)],
        {},
    ),
    "average pool": (
        13,
        [node("AveragePool", ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])],
        {},
    ),
    "average pool counts the border": (
        13,
        [node("AveragePool", ["c"], kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1)],
        {},
    ),
    "global pools": (
        13,
        [
            node("GlobalAveragePool", ["c"], ["a"]),
            node("GlobalMaxPool", ["c"], ["b"]),
            node("Add", ["a", "b"]),
        ],
        {},
    ),
    "batch norm": (
        13,
        [node("BatchNormalization", ["c", "g", "h", "m", "v"], epsilon=1e-3)],
        {
            "g": f32(1, 2, 3, 4),
            "h": f32(0, 1, 0, -1),
            "m": f32(0.1, 0, 0.2, 0),
            "v": f32(1, 2, 1, 0.5),
        },
    ),
    "resize nearest, floor": (
        11,
        [
            node(
                "Resize",
                ["c", "r", "k"],
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        ],
        {"r": f32(), "k": f32(1, 1, 2, 2)},
    ),
    "resize nearest, half pixel, whole factors": (
        13,
        [node("Resize", ["c", "", "k"], mode="nearest")],
        {"k": f32(1, 1, 2, 3)},
    ),
    "resize nearest down": (
        13,
        [
            node(
                "Resize",
                ["c", "", "", "n"],
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        ],
        {"n": i64(1, 4, 6, 5)},
    ),
    "resize linear, sizes": (
        13,
        [
            node(
                "Resize",
                ["c", "", "", "n"],
                mode="linear",
                coordinate_transformation_mode="pytorch_half_pixel",
            )
        ],
        {"n": i64(1, 4, 24, 15)},
    ),
    "resize linear, corners": (
        13,
        [
            node(
                "Resize",
                ["c", "", "k"],
                mode="linear",
                coordinate_transformation_mode="align_corners",
            )
        ],
        {"k": f32(1, 1, 2, 2)},
    ),
    "pad": (13, [node("Pad", ["c", "p", "f"])], {"p": i64(0, 0, 1, 2, 0, 0, 0, 1), "f": f32(0.5)}),
    "reshape with zero": (13, [node("Reshape", ["c", "k"])], {"k": i64(0, 2, -1)}),
    "flatten, product": (
        13,
        [node("Flatten", ["c"], ["f"]), node("MatMul", ["f", "m"])],
        {"m": np.random.default_rng(5).normal(size=(480, 3)).astype(np.float32)},
    ),
    "flatten, gemm": (
        13,
        [
            node("Flatten", ["c"], ["f"]),
            node("Gemm", ["f", "m", "n"], transB=1, alpha=0.5, beta=2.0),
        ],
        {
            "m": np.random.default_rng(5).normal(size=(3, 480)).astype(np.float32),
            "n": f32(1, 2, 3),
        },
    ),
    "transpose": (13, [node("Transpose", ["c"], perm=[0, 2, 3, 1])], {}),
    "squeeze, unsqueeze": (
        13,
        [node("Unsqueeze", ["c", "a"], ["u"]), node("Squeeze", ["u", "a"])],
        {"a": i64(-1)},
    ),
    "squeeze, unsqueeze by attributes": (
        11,
        [node("Unsqueeze", ["c"], ["u"], axes=[1, 3]), node("Squeeze", ["u"], axes=[1, 3])],
        {},
    ),
    "slice with step": (
        13,
        [node("Slice", ["c", "s", "e", "a", "t"])],
        {"s": i64(1, -8), "e": i64(1000, -1), "a": i64(2, 3), "t": i64(2, 1)},
    ),
    "slice by attributes": (9, [node("Slice", ["c"], starts=[1], ends=[3], axes=[1])], {}),
    "split by attribute": (
        11,
        [node("Split", ["c"], ["p", "q"], axis=1, split=[1, 3]), node("Add", ["p", "q"])],
        {},
    ),
    "split by input": (
        13,
        [node("Split", ["c", "k"], ["p", "q"], axis=1), node("Concat", ["q", "p"], axis=1)],
        {"k": i64(3, 1)},
    ),
    "split in equal parts": (
        13,
        [node("Split", ["c"], ["p", "q"], axis=1), node("Mul", ["p", "q"])],
        {},
    ),
    "gather": (
        13,
        [node("Gather", ["c", "one"], ["p"], axis=1), node("Gather", ["p", "some"], axis=2)],
        {"one": np.array(-2, np.int64), "some": i64(0, -1, 3)},
    ),
    "reduce": (13, [node("ReduceMean", ["c"], axes=[2, 3], keepdims=0)], {}),
    "reduce by input": (18, [node("ReduceMax", ["c", "a"], keepdims=1)], {"a": i64(1)}),
    "expand": (13, [node("Expand", ["c", "k"])], {"k": i64(2, 1, 4, 12, 10)}),
    "shapes computed by the graph": (
        13,
        [
            node("Shape", ["c"], ["s"]),
            node("Gather", ["s", "last"], ["width"], axis=0),
            node("Unsqueeze", ["width", "zero"], ["w1"]),
            node("Constant", [], ["rest"], value_ints=[1, -1]),
            node("Concat", ["rest", "w1"], ["to"], axis=0),
            node("Reshape", ["c", "to"]),
        ],
        {"last": np.array(3, np.int64), "zero": i64(0)},
    ),
    "constants": (
        13,
        [
            node("Constant", [], ["k"], value_float=0.5),
            node("ConstantOfShape", ["n"], ["z"], value=numpy_helper.from_array(f32(2))),
            node("Add", ["z", "k"], ["zk"]),
            node("Mul", ["c", "zk"]),
        ],
        {"n": i64(10)},
    ),
    "dropout and identity": (13, [node("Dropout", ["c"], ["d"]), node("Identity", ["d"])], {}),
}


@pytest.mark.parametrize("case", AFTER)
def test_operators(case):
    opset, nodes, inits = AFTER[case]
    model = graph_of(
        [node("Conv", ["x", "point"], ["c"]), *nodes],
        inits={"point": POINT, **inits},
        opset=opset,
    )
    rows, found = both(model)
    np.testing.assert_allclose(rows[0][0], found[0], atol=2e-5)
    # Batch 1 may be baked in: the batch must be the pictures one by one.
    rows, found = both(model, batch=3)
    singles = np.stack([r[0] for r in rows])
    np.testing.assert_allclose(singles.reshape(-1), found[0].reshape(-1), rtol=1e-5, atol=2e-5)


BAD = {
    "unknown operator": (13, [node("LRN", ["c"], size=3)], {}, "LRN", "operator not known"),
    "foreign domain": (
        13,
        [helper.make_node("Gelu", ["c"], ["y"], domain="com.microsoft")],
        {},
        "com.microsoft::Gelu",
        "operator not known",
    ),
    "automatic padding": (
        13,
        [node("MaxPool", ["c"], kernel_shape=[3, 3], auto_pad="SAME_UPPER")],
        {},
        "MaxPool",
        "auto_pad = 'SAME_UPPER'",
    ),
    "cubic": (13, [node("Resize", ["c", "", "k"], mode="cubic")], {"k": f32(1, 1, 2, 2)}, "Resize",
              "mode = 'cubic'"),
    "nearest of other rounding": (
        13,
        [node("Resize", ["c", "", "k"], mode="nearest", nearest_mode="ceil")],
        {"k": f32(1, 1, 2, 2)},
        "Resize",
        "nearest_mode = 'ceil'",
    ),
    "nearest, half pixel, broken factor": (
        13,
        [node("Resize", ["c", "", "k"], mode="nearest")],
        {"k": f32(1, 1, 1.5, 1.5)},
        "Resize",
        "whole factors",
    ),
    "channels resized": (
        13,
        [node("Resize", ["c", "", "k"], mode="linear")],
        {"k": f32(1, 2, 2, 2)},
        "Resize",
        "last two",
    ),
    "reflecting pad": (
        13,
        [node("Pad", ["c", "p"], mode="reflect")],
        {"p": i64(0, 0, 1, 1, 0, 0, 1, 1)},
        "Pad",
        "mode = 'reflect'",
    ),
    "shape out of the picture": (
        13,
        [
            node("ReduceMax", ["c"], ["m"], axes=[0, 1, 2, 3], keepdims=0),
            node("Cast", ["m"], ["n"], to=TensorProto.INT64),
            node("Unsqueeze", ["n", "zero"], ["s"]),
            node("Reshape", ["c", "s"]),
        ],
        {"zero": i64(0)},
        "Reshape",
        "must be constant",
    ),
    "backward slice": (
        13,
        [node("Slice", ["c", "s", "e", "a", "t"])],
        {"s": i64(-1), "e": i64(-1000), "a": i64(2), "t": i64(-1)},
        "Slice",
        "steps",
    ),
    "training batch norm": (
        14,
        [node("BatchNormalization", ["c", "g", "g", "g", "g"], training_mode=1)],
        {"g": f32(1, 1, 1, 1)},
        "BatchNormalization",
        "training_mode = 1",
    ),
    "cast to halves": (13, [node("Cast", ["c"], to=TensorProto.FLOAT16)], {}, "Cast", "to = 10"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_known_is_refused_by_name(case):
    opset, nodes, inits, op, words = BAD[case]
    model = graph_of(
        [node("Conv", ["x", "point"], ["c"]), *nodes],
        inits={"point": POINT, **inits},
        opset=opset,
    )
    with pytest.raises(UnsupportedGraphError) as caught:
        check_supported(model)
    assert [p.op for p in caught.value.problems] == [op]
    assert words in str(caught.value)


def test_every_problem_is_named_not_only_the_first():
    nodes = [
        node("Conv", ["x", "point"], ["c"], auto_pad="SAME_UPPER"),
        helper.make_node("LRN", ["c"], ["d"], name="norm", size=3),
        helper.make_node("NonZero", ["d"], ["y"], name="find"),
    ]
    with pytest.raises(UnsupportedGraphError) as caught:
        check_supported(graph_of(nodes, inits={"point": POINT}).SerializeToString())
    assert [(p.op, p.node) for p in caught.value.problems] == [
        ("Conv", "c"),
        ("LRN", "norm"),
        ("NonZero", "find"),
    ]


def test_subgraphs_and_halves_are_refused():
    body = helper.make_graph(
        [], "b", [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)]
    )
    branch = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    model = graph_of(
        [node("Conv", ["x", "h"], ["c"]), branch], inits={"h": POINT.astype(np.float16)}
    )
    with pytest.raises(UnsupportedGraphError, match=r"1 tensor\(s\) of type FLOAT16") as caught:
        check_supported(model)
    assert "a graph of its own" in str(caught.value)


def test_inputs_must_be_one_float_picture():
    model = graph_of([node("Conv", ["x", "point"])], inits={"point": POINT}, shape=(2, 4, 8, 8))
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1]))
    with pytest.raises(UnsupportedGraphError, match="exactly one"):
        check_supported(model)
    model.graph.input.pop()
    with pytest.raises(UnsupportedGraphError, match="batch fixed to 2"):
        check_supported(model)
    model = graph_of([node("Conv", ["x", "point"])], inits={"point": POINT})
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    with pytest.raises(UnsupportedGraphError, match="input of UINT8"):
        check_supported(model)


def test_weights_listed_as_inputs_are_weights():
    model = graph_of([node("Conv", ["x", "point"])], inits={"point": POINT})
    model.graph.input.append(helper.make_tensor_value_info("point", TensorProto.FLOAT, POINT.shape))
    assert TorchGraph(model, scope="all").trainable == POINT.size
