"""Samples of the detection workload, as the framework's store sees them."""

from __future__ import annotations

from edgebus.contracts import SampleFacts
from edgebus.samples import SampleRefusedError
from edgebus_detection.messages import Sample
from edgebus_detection.vision import ImageError, decode_jpeg

__all__ = ["check_picture", "sample_facts"]


def sample_facts(sample: Sample) -> SampleFacts:
    """The facts of a sample; its stream is the camera."""
    record = sample.record
    return SampleFacts(
        id=record.id,
        time=record.time,
        source=record.source,
        traceparent=record.traceparent,
        stream=record.camera,
        index=record.index,
        captured=record.captured,
        split=record.split,
        policy=record.policy,
        reason=record.reason,
        score=record.score,
        model=record.model,
        truths=None if record.truth is None else len(record.truth),
    )


def check_picture(sample: Sample) -> None:
    """Decode the picture and compare its size.

    Raises:
        SampleRefusedError: It cannot be decoded or is not what its record says.
    """
    record = sample.record
    try:
        height, width = decode_jpeg(sample.jpeg).shape[:2]
    except ImageError as error:
        raise SampleRefusedError(sample=record.id, reason=str(error)) from error
    if (width, height) != (record.width, record.height):
        reason = (
            f"the picture is {width} x {height}, its record says {record.width} x {record.height}"
        )
        raise SampleRefusedError(sample=record.id, reason=reason)
