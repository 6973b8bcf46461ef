"""Small real models for the tests of bundles: two convolutions with a FastestDet-like head."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgebus.artifacts import Bundle, Update
from edgebus_detection.models import import_onnx

CLASSES = ("car", "person")


def tiny_onnx(
    *,
    seed: int = 0,
    size: int = 32,
    channels: int = 8,
    batch: int | str = 1,
    poison: float | None = None,
) -> onnx.ModelProto:
    """32x32 pictures in, [1, 7, 2, 2] out; `channels` makes it larger."""
    rng = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> TensorProto:
        values = rng.normal(0, 0.1, shape).astype(np.float32)
        if poison is not None and name == "stem.bias":
            values[0] = poison
        return numpy_helper.from_array(values, name)

    nodes = [
        helper.make_node(
            "Conv",
            ["images", "stem.weight", "stem.bias"],
            ["a"],
            kernel_shape=[4, 4],
            strides=[4, 4],
        ),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node(
            "Conv",
            ["b", "head.weight", "head.bias"],
            ["output"],
            kernel_shape=[4, 4],
            strides=[4, 4],
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, size, size])],
        [
            helper.make_tensor_value_info(
                "output", TensorProto.FLOAT, [batch, 5 + len(CLASSES), size // 16, size // 16]
            )
        ],
        [
            weight("stem.weight", channels, 3, 4, 4),
            weight("stem.bias", channels),
            weight("head.weight", 5 + len(CLASSES), channels, 4, 4),
            weight("head.bias", 5 + len(CLASSES)),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def tiny_file(folder: Path, **options: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.onnx"
    path.write_bytes(tiny_onnx(**options).SerializeToString())  # type: ignore[arg-type]
    return path


def tiny_bundle(folder: Path, *, name: str = "tiny", version: int = 1, **options: object) -> Bundle:
    """A bundle at ``folder/name-version``."""
    return import_onnx(
        tiny_file(folder / "onnx", **options),
        name=name,
        version=version,
        out=folder / f"{name}-{version}",
        classes=CLASSES,
    )


def small_update(bundle: Bundle, *, seed: int = 1) -> Update:
    """New biases and per-channel scales for all weights."""
    rng = np.random.default_rng(seed)
    tensors = bundle.tensors()
    return Update(
        replace={
            name: value + rng.normal(0, 0.01, value.shape).astype(np.float32)
            for name, value in tensors.items()
            if value.ndim == 1
        },
        scale={
            name: rng.normal(1, 0.05, value.shape[0]).astype(np.float32)
            for name, value in tensors.items()
            if value.ndim == 4
        },
    )
