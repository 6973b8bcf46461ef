"""Encoding of a source's picture as a JPEG: size, drift, quality; without bus and clock."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from edgebus_camera.settings import ViewSettings
from edgebus_camera.sources import SourceFrame
from edgebus_detection.emulation.drift import DriftScript, EffectName, condition_of
from edgebus_detection.emulation.effects import Effects
from edgebus_detection.messages import Box
from edgebus_detection.vision import Image, encode_jpeg


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """A picture ready to be sent.

    Attributes:
        jpeg: The picture, without a record.
        index: Frame number of this camera.
        width: Width in pixels.
        height: Height in pixels.
        boxes: Ground truth, or None where it is unknown.
        condition: Light and weather, one word.
        effects: Strengths of the drift effects that are on.
        encode_ms: Milliseconds that the encoding took.
    """

    jpeg: bytes
    index: int
    width: int
    height: int
    boxes: tuple[Box, ...] | None
    condition: str
    effects: Mapping[EffectName, float]
    encode_ms: float


class View:
    """Encoder of one camera's frames.

    Args:
        settings: Size, quality, drift and seed.
    """

    def __init__(self, settings: ViewSettings) -> None:
        self._settings = settings
        self._script = DriftScript(steps=settings.drift)
        self._effects = Effects(seed=settings.seed)

    def encode(self, frame: SourceFrame, *, time_s: float) -> EncodedFrame:
        """Scale, change and encode a picture.

        Args:
            frame: From the source.
            time_s: Seconds since the camera's first frame, for the drift script.

        Raises:
            edgebus_detection.vision.ImageError: It cannot be encoded.
        """
        image, boxes = self._fit(frame.image, frame.boxes)
        strengths = self._script.at(time_s)
        lights = frame.lights() if frame.lights is not None and "dusk" in strengths else None
        image, moved = self._effects.apply(
            image, boxes or (), strengths, index=frame.index, lights=lights
        )
        begun = time.perf_counter()
        jpeg = encode_jpeg(image, quality=self._settings.quality)
        return EncodedFrame(
            jpeg=jpeg,
            index=frame.index,
            width=image.shape[1],
            height=image.shape[0],
            boxes=None if boxes is None else tuple(moved),
            condition=condition_of(strengths, plain=frame.condition),
            effects=strengths,
            encode_ms=(time.perf_counter() - begun) * 1000,
        )

    def _fit(self, image: Image, boxes: Sequence[Box] | None) -> tuple[Image, Sequence[Box] | None]:
        """Scale to the size that was set, and clip boxes to the picture."""
        rows, columns = image.shape[:2]
        width, height = self._settings.width, self._settings.height
        if width is None:
            width = columns if height is None else max(1, round(columns * height / rows))
        if height is None:
            height = max(1, round(rows * width / columns))
        if boxes is not None:
            boxes = _scaled(boxes, width / columns, height / rows, width=width, height=height)
        if (width, height) == (columns, rows):
            return image, boxes
        shrinks = width < columns
        way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(image, (width, height), interpolation=way), np.uint8), boxes


def _scaled(
    boxes: Sequence[Box], across: float, down: float, *, width: int, height: int
) -> list[Box]:
    fitted = []
    for box in boxes:
        x1, y1 = min(box.x1 * across, width), min(box.y1 * down, height)
        x2, y2 = min(box.x2 * across, width), min(box.y2 * down, height)
        if x2 > x1 and y2 > y1:
            fitted.append(box.model_copy(update={"x1": x1, "y1": y1, "x2": x2, "y2": y2}))
    return fitted
