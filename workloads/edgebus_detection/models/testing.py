"""A minimal detection model for tests and guides.

It finds red and blue squares: one convolution measures the mean colour of each cell of 8 x 8
pixels, and says so in the form of a YOLOX head.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgebus.artifacts import (
    Array,
    Bundle,
    EngineRequirements,
    TensorSpec,
    write_bundle,
)
from edgebus.artifacts.graph import declare_external
from edgebus.artifacts.tensors import TensorFile, dump_tensors
from edgebus.serving.probe import make_probe
from edgebus_detection.models.spec import detection_manifest
from edgebus_detection.vision import DecoderSpec, Image, InputSpec

TINY_CLASSES = ("person", "car")
"""Red squares are persons, blue ones cars."""

_CELL = 8


def tiny_tensors(*, gain: float = 0.25) -> dict[str, Array]:
    """The weights; `gain` says how surely a square of a colour is something."""
    weight = np.zeros((7, 3, _CELL, _CELL), np.float32)
    mean = 1 / _CELL**2
    # channels are blue, green, red; rows are tx, ty, log w, log h, objectness, person, car
    weight[4, 0], weight[4, 1], weight[4, 2] = gain * mean / 2, -gain * mean, gain * mean / 2
    weight[5, 0], weight[5, 2] = -gain * mean, gain * mean
    weight[6, 0], weight[6, 2] = gain * mean, -gain * mean
    bias = np.array([0.5, 0.5, 0, 0, -gain * 60, 0, 0], np.float32)
    return {"conv.weight": weight, "conv.bias": bias}


def tiny_onnx(*, width: int = 64, height: int = 48, gain: float = 0.25) -> onnx.ModelProto:
    """The whole model as one ONNX file, weights inside."""
    cells = (height // _CELL) * (width // _CELL)
    nodes = [
        helper.make_node(
            "Conv",
            ["images", "conv.weight", "conv.bias"],
            ["planes"],
            kernel_shape=[_CELL, _CELL],
            strides=[_CELL, _CELL],
        ),
        helper.make_node("Reshape", ["planes", "shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("Slice", ["rows", "zero", "four", "axis"], ["place"]),
        helper.make_node("Slice", ["rows", "four", "seven", "axis"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("Concat", ["place", "scores"], ["output"], axis=2),
    ]
    numbers: dict[str, Any] = {
        "shape": [1, 7, cells],
        "zero": [0],
        "four": [4],
        "seven": [7],
        "axis": [2],
    }
    initializers = [
        *(numpy_helper.from_array(v, name) for name, v in tiny_tensors(gain=gain).items()),
        *(numpy_helper.from_array(np.array(v, np.int64), name) for name, v in numbers.items()),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, height, width])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, cells, 7])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    return model


def tiny_bundle(
    folder: Path,
    *,
    name: str = "tiny",
    version: int = 1,
    width: int = 64,
    height: int = 48,
    gain: float = 0.25,
    probe: bool = True,
) -> Bundle:
    """Write the model as a bundle with a probe.

    Args:
        folder: Where; see `write_bundle`.
        name: Name of the model.
        version: Its version.
        width: Columns of the input, a multiple of 8.
        height: Rows of the input, a multiple of 8.
        gain: See `tiny_tensors`; another value is another model.
        probe: Whether it carries a self-test.
    """
    model = tiny_onnx(width=width, height=height, gain=gain)
    weights = dump_tensors(tiny_tensors(gain=gain))
    declare_external(model, TensorFile.parse(weights, file="weights.safetensors"))
    cells = (height // _CELL) * (width // _CELL)
    manifest = detection_manifest(
        name=name,
        version=version,
        picture=InputSpec(name="images", height=height, width=width),
        outputs=(TensorSpec(name="output", shape=(1, cells, 7)),),
        decoder=DecoderSpec(kind="yolox", strides=(_CELL,), score_threshold=0.3),
        classes=TINY_CLASSES,
        engine=EngineRequirements(opset=13, ir_version=8),
    )
    return write_bundle(
        folder,
        manifest=manifest,
        graph=model.SerializeToString(deterministic=True),
        weights=weights,
        probe=make_probe if probe else None,
    )


def tiny_picture(
    *, red: tuple[int, int] | None = (1, 2), blue: tuple[int, int] | None = (4, 5)
) -> Image:
    """A grey-green picture of 64 x 48 with a red and a blue square.

    Args:
        red: Row and column of the red cell, of 6 rows and 8 columns; None for none.
        blue: The same for the blue one.

    Returns:
        uint8 [48, 64, 3], BGR. A square in cell (r, c) covers x 8c to 8c + 8, y 8r to 8r + 8.
    """
    picture = np.full((48, 64, 3), (60, 120, 60), np.uint8)
    for cell, color in ((red, (0, 0, 250)), (blue, (250, 0, 0))):
        if cell is not None:
            y, x = cell[0] * _CELL, cell[1] * _CELL
            picture[y : y + _CELL, x : x + _CELL] = color
    return picture
