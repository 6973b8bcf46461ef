"""Pictures with boxes, and how they become a model's input."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from edgebus.training.finetune import UnreadableItemError

__all__ = ["Boxes", "Image", "LabelledImage", "Labels", "Places", "Prepare", "no_boxes"]

Image: TypeAlias = npt.NDArray[np.uint8]
"""BGR, [height, width, 3]."""
Boxes: TypeAlias = npt.NDArray[np.float32]
"""[n, 4]: x1, y1, x2, y2 in pixels."""
Labels: TypeAlias = npt.NDArray[np.int64]
"""[n]: index of the class."""


class Places(Protocol):
    """Where a picture lies in the model's input."""

    def to_input(self, boxes: Boxes, /) -> Boxes:
        """Boxes of the picture in pixels of the model's input."""
        ...


class Prepare(Protocol):
    """Makes the model's input of a picture, as `Preprocessor.prepare` does."""

    def __call__(self, image: Image, /) -> tuple[npt.NDArray[Any], Places]:
        """The tensor, float32 [1, C, H, W] or [C, H, W], and where the picture lies in it."""
        ...


def no_boxes() -> Boxes:
    """An empty list of boxes."""
    return np.zeros((0, 4), np.float32)


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """A picture, decoded when it is needed, with what is on it.

    Attributes:
        name: What errors call it.
        source: The encoded picture or the path of its file.
        boxes: What is on it; none is legal and makes it a negative example.
        labels: Class index of each box.
        ignore: Regions about which nothing is known (uncertain, or of a class that the model does
            not have): what the model says there is neither right nor wrong.
    """

    name: str
    source: bytes | Path
    boxes: Boxes = field(default_factory=no_boxes)
    labels: Labels = field(default_factory=lambda: np.zeros(0, np.int64))
    ignore: Boxes = field(default_factory=no_boxes)

    def __post_init__(self) -> None:
        """Check the labels.

        Raises:
            ValueError: Boxes and labels do not fit each other, or a box is not finite or empty.
        """
        if len(self.boxes) != len(self.labels):
            msg = f"picture {self.name!r}: {len(self.boxes)} boxes, {len(self.labels)} labels"
            raise ValueError(msg)
        for what, boxes in (("boxes", self.boxes), ("ignore", self.ignore)):
            if boxes.ndim != 2 or boxes.shape[1] != 4:
                msg = f"picture {self.name!r}: {what} of shape {boxes.shape}; use [n, 4]"
                raise ValueError(msg)
            bad = ~np.isfinite(boxes).all(1) | (boxes[:, 2:] <= boxes[:, :2]).any(1)
            if bad.any():
                first = boxes[bad][0].tolist()
                msg = f"picture {self.name!r}: {what} hold {first}, which has no area"
                raise ValueError(msg)

    def load(self) -> Image:
        """Decode the picture.

        Raises:
            UnreadableItemError: It is none.
            OSError: The file is not there.
        """
        data = self.source if isinstance(self.source, bytes) else self.source.read_bytes()
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        if image is None:
            reason = f"{len(data)} bytes that OpenCV cannot decode"
            raise UnreadableItemError(name=self.name, reason=reason)
        return np.asarray(image, np.uint8)
