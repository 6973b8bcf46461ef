"""Between samples and what the database keeps of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import cv2
import numpy as np

from edgebus_detection.messages import Sample
from edgebus_retrainer.samples._tables import SampleRow

__all__ = [
    "EPOCH",
    "SampleRefusedError",
    "check_picture",
    "edge_of",
    "micros",
    "place_of",
    "row_of",
]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SampleRefusedError(ValueError):
    """A sample is no use for training.

    Attributes:
        sample: Its id.
        reason: Why.
    """

    def __init__(self, *, sample: str, reason: str) -> None:
        super().__init__(f"sample {sample} refused: {reason}")
        self.sample = sample
        self.reason = reason


def row_of(sample: Sample, *, file: str, received: datetime) -> SampleRow:
    """What the database keeps of a sample."""
    record = sample.record
    return SampleRow(
        id=record.id,
        received=micros(received),
        captured=micros(record.captured),
        source=record.source,
        camera=record.stream,
        place=place_of(record.source, record.stream),
        frame=record.input,
        frame_index=record.index,
        model=record.model.name,
        model_version=record.model.version,
        model_digest=record.model.digest,
        split=record.split,
        policy=record.policy,
        reason=record.reason,
        score=record.score,
        width=record.width,
        height=record.height,
        boxes=None if record.truth is None else len(record.truth),
        file=file,
        size=len(sample.jpeg),
        job=None,
    )


def check_picture(sample: Sample) -> None:
    """Decode the picture and compare its size.

    Raises:
        SampleRefusedError: It cannot be decoded or is not what its record says.
    """
    data: Any = np.frombuffer(sample.jpeg, dtype=np.uint8)
    image: Any = cv2.imdecode(data, cv2.IMREAD_COLOR)
    record = sample.record
    if image is None:
        raise SampleRefusedError(
            sample=record.id, reason=f"its JPEG of {len(sample.jpeg)} bytes cannot be decoded"
        )
    height, width = image.shape[:2]
    if (width, height) != (record.width, record.height):
        reason = (
            f"the picture is {width} x {height}, its record says {record.width} x {record.height}"
        )
        raise SampleRefusedError(sample=record.id, reason=reason)


def micros(time: datetime) -> int:
    """Microseconds since 1970, as the tables keep times."""
    return (time - EPOCH) // timedelta(microseconds=1)


def edge_of(source: str) -> str:
    """The node of a collector, ``site/node/collector``."""
    parts = source.split("/")
    return parts[1] if len(parts) > 1 else source


def place_of(source: str, camera: str) -> str:
    """Node and camera, as in the name of that camera's own model."""
    return f"{edge_of(source)}.{camera}"
