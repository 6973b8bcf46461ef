"""Pictures with boxes, and how they become a model's input."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgebus.training.finetune import UnreadableItemError
from edgebus_detection.vision import Image, ImageError, Truth, decode_picture


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """A picture, decoded when it is needed, with its true boxes.

    Attributes:
        name: Its name in errors.
        source: The encoded picture or the path of its file.
        truth: Its boxes; none makes it a negative example. Regions to ignore are uncertain, or of
            a class that the model does not have.
    """

    name: str
    source: bytes | Path
    truth: Truth = field(default_factory=Truth.none)

    def __post_init__(self) -> None:
        """Check the boxes.

        Raises:
            ValueError: One is not finite or has no area.
        """
        for what, boxes in (("boxes", self.truth.boxes), ("ignore", self.truth.ignore)):
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
        try:
            return decode_picture(data)
        except ImageError as error:
            raise UnreadableItemError(name=self.name, reason=error.reason) from error
