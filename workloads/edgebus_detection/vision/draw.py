"""Boxes and captions on pictures, legible on small frames too."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import cv2
import numpy as np

from edgebus_detection.messages import Box
from edgebus_detection.vision.conversions import certainty
from edgebus_detection.vision.images import Image, check_image

Color: TypeAlias = tuple[int, int, int]

# Okabe and Ito's palette, told apart by colour-blind people too (jfly.uni-koeln.de/color), as BGR,
# without black, which street scenes have enough of.
_PALETTE: tuple[Color, ...] = (
    (0, 159, 230),
    (233, 180, 86),
    (115, 158, 0),
    (66, 228, 240),
    (178, 114, 0),
    (0, 94, 213),
    (167, 121, 204),
)
# The classes of street scenes first, so that they never share a colour.
_FIXED = {"person": 0, "bicycle": 2, "car": 1, "bus": 6, "truck": 5, "motorcycle": 3, "dog": 4}
_FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """Style of drawn boxes.

    Attributes:
        min_side: Pictures whose longer side is smaller are enlarged to it first, 0 for never.
        labels: Write class and score at each box.
        line: `solid` for detections, `corners` for ground truth under them.
        color: One colour (BGR) for all boxes instead of one per class.
    """

    min_side: int = 640
    labels: bool = True
    line: Literal["solid", "corners"] = "solid"
    color: Color | None = None


def draw_boxes(image: Image, boxes: Sequence[Box], *, style: Style | None = None) -> Image:
    """A copy of the picture with boxes, low scores below high ones.

    Args:
        image: BGR, uint8 [height, width, 3].
        boxes: In pixels of `image`.
        style: Their style.

    Returns:
        BGR, at least `style.min_side` pixels on its longer side.

    Raises:
        ImageError: The array is no such picture.
    """
    check_image(image)
    style = style or Style()
    canvas, factor = _enlarge(image, style.min_side)
    thickness = max(1, round(max(canvas.shape[:2]) / 420))
    order = sorted(boxes, key=certainty)
    corners = [
        tuple(round(value * factor) for value in (box.x1, box.y1, box.x2, box.y2)) for box in order
    ]
    for box, (x1, y1, x2, y2) in zip(order, corners, strict=True):
        color = style.color or color_of(box.label)
        if style.line == "solid":
            cv2.rectangle(canvas, (x1, y1), (x2, y2), color, thickness, cv2.LINE_AA)
        else:
            _corners(canvas, (x1, y1, x2, y2), color, thickness)
    # Labels last, so that no line crosses them.
    if style.labels:
        for box, (x1, y1, _x2, _y2) in zip(order, corners, strict=True):
            text = box.label if box.score is None else f"{box.label} {box.score:.2f}"
            _tag(canvas, text, (x1, y1), style.color or color_of(box.label))
    return canvas


def caption(image: Image, text: str, *, detail: str = "") -> Image:
    """A copy of the picture below a dark strip with `text` on its left and `detail` on its right.

    Only characters of ASCII are drawn; OpenCV's fonts have no others.
    """
    check_image(image)
    width = image.shape[1]
    scale = max(0.45, width / 1100)
    height = round(44 * scale)
    strip = np.full((height, width, 3), 32, np.uint8)
    base = round(height * 0.68)
    cv2.putText(strip, text, (round(10 * scale), base), _FONT, scale, (245,) * 3, 1, cv2.LINE_AA)
    if detail:
        (length, _), _ = cv2.getTextSize(detail, _FONT, scale, 1)
        left = width - length - round(10 * scale)
        cv2.putText(strip, detail, (left, base), _FONT, scale, (190,) * 3, 1, cv2.LINE_AA)
    return cast("Image", np.concatenate([strip, image], axis=0))


def color_of(label: str) -> Color:
    """The colour (BGR) of a class: the same in every picture and every process."""
    number = _FIXED.get(label)
    if number is None:
        number = hashlib.sha256(label.encode()).digest()[0]
    return _PALETTE[number % len(_PALETTE)]


def _enlarge(image: Image, side: int) -> tuple[Image, float]:
    longest = max(image.shape[:2])
    if longest >= side:
        return image.copy(), 1.0
    # A whole factor where one fits, so that the pixels of small frames stay even.
    factor = float(-(-side // longest))
    larger = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return larger.astype(np.uint8, copy=False), factor


def _corners(canvas: Image, box: tuple[int, ...], color: Color, thickness: int) -> None:
    x1, y1, x2, y2 = box
    arm = max(4, round(min(x2 - x1, y2 - y1) * 0.25))
    for x, y, dx, dy in ((x1, y1, 1, 1), (x2, y1, -1, 1), (x1, y2, 1, -1), (x2, y2, -1, -1)):
        cv2.line(canvas, (x, y), (x + dx * arm, y), color, thickness, cv2.LINE_AA)
        cv2.line(canvas, (x, y), (x, y + dy * arm), color, thickness, cv2.LINE_AA)


def _tag(canvas: Image, text: str, place: tuple[int, int], color: Color) -> None:
    """A filled label above the box, or inside it where the picture ends."""
    left, top = place
    scale = max(0.4, max(canvas.shape[:2]) / 1500)
    (width, height), base = cv2.getTextSize(text, _FONT, scale, 1)
    pad = max(2, round(4 * scale))
    tall = height + base + pad
    x = min(max(0, left), max(0, canvas.shape[1] - width - 2 * pad))
    y = top - tall if top >= tall else max(0, min(top, canvas.shape[0] - tall))
    cv2.rectangle(canvas, (x, y), (x + width + 2 * pad, y + tall), color, cv2.FILLED)
    blue, green, red = color
    bright = 0.114 * blue + 0.587 * green + 0.299 * red > 110
    ink = (20, 20, 20) if bright else (250, 250, 250)
    origin = (x + pad, y + height + pad // 2 + 1)
    cv2.putText(canvas, text, origin, _FONT, scale, ink, 1, cv2.LINE_AA)
