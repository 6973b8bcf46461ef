"""Known detection heads, by the shapes of their outputs.

Pre-processing is that of the networks' authors: YOLOX (0.2 and later), YOLOv6, FastestDet, NanoDet
(first release, GFL head) and YOLOv8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from edgebus_detection.vision.spec import DecoderSpec

TRAINABLE_HEADS: Final = frozenset({"yolox"})
"""Kinds of heads that the retrainer has a loss for."""

Shape = tuple[int, ...]
# Number of classes for input (height, width) and output shapes, or None where it is another head.
Reader = Callable[[int, int, tuple[Shape, ...]], int | None]

_PYRAMID: Final = (8, 16, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """One known head.

    Attributes:
        classes: Gives the number of classes if the shapes are this head's.
        expects: The outputs in words, for errors.
        input: Fields of the `InputSpec` beyond name, size and layout.
        decoder: How to read it.
    """

    classes: Reader
    expects: str
    input: dict[str, Any] = field(default_factory=dict)
    decoder: DecoderSpec


def recognise(height: int, width: int, outputs: tuple[Shape, ...]) -> dict[str, int]:
    """Names of the heads whose outputs have these shapes, and their number of classes."""
    found = {name: head.classes(height, width, outputs) for name, head in HEADS.items()}
    return {name: classes for name, classes in found.items() if classes is not None}


def _cells(height: int, width: int, strides: tuple[int, ...]) -> list[int]:
    return [-(-height // stride) * -(-width // stride) for stride in strides]


def _yolox(height: int, width: int, outputs: tuple[Shape, ...]) -> int | None:
    cells = sum(_cells(height, width, _PYRAMID))
    if len(outputs) == 1 and outputs[0][:2] == (1, cells) and len(outputs[0]) == 3:
        return outputs[0][2] - 5 if outputs[0][2] > 5 else None
    return None


def _yolov8(height: int, width: int, outputs: tuple[Shape, ...]) -> int | None:
    cells = sum(_cells(height, width, _PYRAMID))
    if len(outputs) == 1 and len(outputs[0]) == 3 and outputs[0][0] == 1 and outputs[0][2] == cells:
        return outputs[0][1] - 4 if outputs[0][1] > 4 else None
    return None


def _fastestdet(height: int, width: int, outputs: tuple[Shape, ...]) -> int | None:
    grid = (-(-height // 16), -(-width // 16))
    if len(outputs) == 1 and len(outputs[0]) == 4 and outputs[0][2:] == grid:
        return outputs[0][1] - 5 if outputs[0][0] == 1 and outputs[0][1] > 5 else None
    return None


def _nanodet(height: int, width: int, outputs: tuple[Shape, ...]) -> int | None:
    if len(outputs) != 2 * len(_PYRAMID) or any(len(shape) != 3 for shape in outputs):
        return None
    cells = sorted(_cells(height, width, _PYRAMID))
    boxes = sorted(shape[1] for shape in outputs if shape[2] == 32)
    scores = sorted((shape[1], shape[2]) for shape in outputs if shape[2] != 32)
    widths = {classes for _, classes in scores}
    if boxes != cells or [count for count, _ in scores] != cells or len(widths) != 1:
        return None
    return widths.pop()


HEADS: Final[dict[str, Head]] = {
    "yolox": Head(
        classes=_yolox,
        expects="one output [1, cells of strides 8, 16 and 32, 5 + classes], boxes in grid units",
        decoder=DecoderSpec(kind="yolox", strides=_PYRAMID),
    ),
    "yolox-decoded": Head(
        classes=_yolox,
        expects="the same, boxes in pixels",
        decoder=DecoderSpec(kind="yolox-decoded", strides=_PYRAMID),
    ),
    "yolov6": Head(
        classes=_yolox,
        expects="the same, boxes in pixels, every objectness 1",
        input={"color": "RGB", "std": (255.0, 255.0, 255.0), "anchor": "center"},
        decoder=DecoderSpec(kind="yolox-decoded", strides=_PYRAMID),
    ),
    "fastestdet": Head(
        classes=_fastestdet,
        expects="one output [1, 5 + classes, height / 16, width / 16]",
        input={"std": (255.0, 255.0, 255.0), "resize": "stretch"},
        decoder=DecoderSpec(kind="fastestdet", strides=(16,), nms_iou=0.45),
    ),
    "nanodet": Head(
        classes=_nanodet,
        expects="three outputs [1, cells, classes] and three [1, cells, 32]",
        input={
            "mean": (103.53, 116.28, 123.675),
            "std": (57.375, 57.12, 58.395),
            "anchor": "center",
        },
        decoder=DecoderSpec(kind="nanodet", strides=_PYRAMID),
    ),
    "yolov8": Head(
        classes=_yolov8,
        expects="one output [1, 4 + classes, cells of strides 8, 16 and 32]",
        input={"color": "RGB", "std": (255.0, 255.0, 255.0), "anchor": "center"},
        decoder=DecoderSpec(kind="yolov8", strides=_PYRAMID),
    ),
}
