"""Small changes of a picture that keep its boxes right."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edgebus_detection.training.options import AugmentSettings
from edgebus_detection.vision import Boxes, Image, Truth

_FILL = (114, 114, 114)


@dataclass(frozen=True, slots=True)
class Example:
    """A decoded picture with its boxes."""

    image: Image
    truth: Truth


def augment(example: Example, settings: AugmentSettings, rng: np.random.Generator) -> Example:
    """Change an example at random; takes the same random numbers whatever is on the picture.

    Args:
        example: The example; it is not changed.
        settings: How far.
        rng: Where chance comes from.
    """
    height, width = example.image.shape[:2]
    flip = rng.random() < settings.flip
    factor = float(np.exp(rng.uniform(-1, 1) * np.log1p(settings.scale)))
    shift = rng.uniform(-1, 1, 2) * settings.translate * (width, height)
    gain = float(np.exp(rng.uniform(-1, 1) * np.log1p(settings.contrast)))
    offset = float(rng.uniform(-1, 1)) * settings.brightness * 255

    # x' = a x + b, about the middle of the picture, with pixel centres at half numbers.
    ax, ay = (-factor if flip else factor), factor
    bx = width / 2 - ax * width / 2 + shift[0]
    by = height / 2 - ay * height / 2 + shift[1]
    # Contrast about mid grey, then brightness: one table, done before the fill is added.
    table = np.clip((np.arange(256) - 128.0) * gain + 128.0 + offset, 0, 255).astype(np.uint8)
    image = np.asarray(cv2.LUT(example.image, table), np.uint8)
    # warpAffine counts from the centre of the first pixel: shift by half a pixel and back.
    matrix = np.array(
        [[ax, 0, bx + 0.5 * ax - 0.5], [0, ay, by + 0.5 * ay - 0.5]],
        np.float64,
    )
    image = np.asarray(
        cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=_FILL),
        np.uint8,
    )
    boxes = _move(example.truth.boxes, (ax, ay), (bx, by))
    kept = _clip(boxes, width, height)
    area, left = _area(boxes), _area(kept)
    seen = left >= settings.min_visible * area
    ignore = _clip(_move(example.truth.ignore, (ax, ay), (bx, by)), width, height)
    # Less than that is too little to learn from, and too much to be called background.
    lost = ~seen & (left > 0)
    truth = Truth(
        kept[seen & (left > 0)],
        example.truth.labels[seen & (left > 0)],
        np.concatenate([ignore[_area(ignore) > 0], kept[lost]]),
    )
    return Example(image, truth)


def _move(boxes: Boxes, factors: tuple[float, float], offsets: tuple[float, float]) -> Boxes:
    moved = boxes * np.array(factors * 2, np.float32) + np.array(offsets * 2, np.float32)
    if factors[0] < 0:
        moved = moved[:, [2, 1, 0, 3]]
    return moved.astype(np.float32)


def _clip(boxes: Boxes, width: int, height: int) -> Boxes:
    return boxes.clip(0, np.array([width, height, width, height], np.float32))


def _area(boxes: Boxes) -> Boxes:
    sides = (boxes[:, 2:] - boxes[:, :2]).clip(0)
    area: Boxes = sides[:, 0] * sides[:, 1]
    return area
