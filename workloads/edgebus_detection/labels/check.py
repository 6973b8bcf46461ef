"""Check of a sample's picture."""

from __future__ import annotations

from edgebus.contracts import SampleRefusedError
from edgebus_detection.messages import Sample
from edgebus_detection.vision import ImageError, decode_picture


def check_picture(sample: Sample) -> None:
    """Decode the picture and compare its size.

    Raises:
        SampleRefusedError: It cannot be decoded or is not what its record says.
    """
    record = sample.record
    try:
        height, width = decode_picture(sample.jpeg).shape[:2]
    except ImageError as error:
        raise SampleRefusedError(sample=record.id, reason=str(error)) from error
    if (width, height) != (record.width, record.height):
        reason = (
            f"the picture is {width} x {height}, its record says {record.width} x {record.height}"
        )
        raise SampleRefusedError(sample=record.id, reason=reason)
