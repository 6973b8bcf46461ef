"""Pre-processing: a picture as a model's input tensor, and the way of boxes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from edgebus_detection.vision.boxes import Boxes
from edgebus_detection.vision.images import Image, check_image
from edgebus_detection.vision.spec import InputSpec

Tensor: TypeAlias = npt.NDArray[Any]
"""float32 or uint8, [1, 3, H, W] or [1, H, W, 3]."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Placement of a picture in a model's input: ``input = picture * scale + offset``.

    Attributes:
        scale_x, scale_y: Input pixels per picture pixel.
        dx, dy: Input pixels of the border left of and above the picture.
    """

    scale_x: float
    scale_y: float
    dx: float
    dy: float

    def to_image(self, boxes: Boxes) -> Boxes:
        """Boxes [n, 4] of the input in pixels of the picture; not clipped."""
        return ((boxes - self._offset) / self._scale).astype(np.float32, copy=False)

    def to_input(self, boxes: Boxes) -> Boxes:
        """Boxes [n, 4] of the picture in pixels of the input."""
        return (boxes * self._scale + self._offset).astype(np.float32, copy=False)

    @property
    def _scale(self) -> Boxes:
        return np.array([self.scale_x, self.scale_y] * 2, np.float32)

    @property
    def _offset(self) -> Boxes:
        return np.array([self.dx, self.dy] * 2, np.float32)


class Preprocessor:
    """Resizes, pads, orders and normalises pictures for one model."""

    def __init__(self, spec: InputSpec) -> None:
        """Read what the model asks for.

        Raises:
            ValueError: The specification contradicts itself.
        """
        mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
        neutral = not mean.any() and np.all(std == 1)
        if spec.dtype == "uint8" and not neutral:
            msg = f"input {spec.name}: a uint8 input takes plain pixels (mean 0, std 1)"
            raise ValueError(msg)
        self.spec = spec
        self._normal = None if neutral else (mean.reshape(3, 1, 1), std.reshape(3, 1, 1))

    def place(self, width: int, height: int) -> tuple[Placement, tuple[int, int]]:
        """Placement of a picture of this size, and the (width, height) it is resized to."""
        spec = self.spec
        if spec.resize == "stretch":
            size = (spec.width, spec.height)
            return Placement(spec.width / width, spec.height / height, 0.0, 0.0), size
        ratio = min(spec.width / width, spec.height / height)
        size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
        dx, dy = (0, 0)
        if spec.anchor == "center":
            dx, dy = (spec.width - size[0]) // 2, (spec.height - size[1]) // 2
        return Placement(size[0] / width, size[1] / height, float(dx), float(dy)), size

    def prepare(self, image: Image) -> tuple[Tensor, Placement]:
        """The model's input for a BGR picture.

        Args:
            image: uint8 [height, width, 3].

        Returns:
            The tensor, contiguous, with a batch of 1, and where the picture lies in it.

        Raises:
            ImageError: The array is no such picture.
        """
        check_image(image)
        spec = self.spec
        rows, columns = image.shape[:2]
        placement, size = self.place(columns, rows)
        if size != (columns, rows):
            image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR).astype(
                np.uint8, copy=False
            )
        if size != (spec.width, spec.height):
            canvas = np.full((spec.height, spec.width, 3), spec.pad_value, np.uint8)
            x, y = int(placement.dx), int(placement.dy)
            canvas[y : y + size[1], x : x + size[0]] = image
            image = canvas
        if spec.color == "RGB":
            image = image[..., ::-1]
        planes = np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.dtype(spec.dtype))
        if self._normal is not None:
            mean, std = self._normal
            planes -= mean
            planes /= std
        if spec.layout == "NHWC":
            return np.ascontiguousarray(planes.transpose(1, 2, 0))[None], placement
        return planes[None], placement
