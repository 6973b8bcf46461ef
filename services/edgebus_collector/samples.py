"""The message that a chosen frame becomes."""

from __future__ import annotations

from dataclasses import dataclass

from edgebus.contracts import Consent, DriftState
from edgebus_collector.selection import Choice
from edgebus_detection.messages import Frame, Sample, SampleRecord, Verdict

__all__ = ["Surroundings", "make_sample"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a sample's record says beyond the frame itself.

    Attributes:
        drift: State of the camera; None where nobody watches.
        feedback: What operators said of the frame.
        consent: What the persons in front of the camera agreed to.
        retention: Class that says how long the sample may be kept.
    """

    drift: DriftState | None = None
    feedback: tuple[Verdict, ...] = ()
    consent: Consent = "unstated"
    retention: str = "standard"


def make_sample(
    choice: Choice,
    *,
    source: str,
    traceparent: str | None = None,
    around: Surroundings | None = None,
) -> Sample:
    """The message of a chosen frame: its JPEG with the sample's record in place of the frame's.

    Raises:
        PayloadError: The record does not fit into a JPEG segment (64 KiB; some 400 boxes).
    """
    example = choice.example
    frame: Frame = example.frame
    around = around or Surroundings()
    record = SampleRecord(
        traceparent=traceparent,
        source=source,
        input=frame.record.id,
        stream=example.camera,
        index=example.index,
        captured=frame.record.captured,
        width=frame.record.width,
        height=frame.record.height,
        split=choice.split,
        policy=choice.policy,
        reason=choice.reason,
        score=choice.score,
        model=example.detections.model,
        detections=example.detections.boxes,
        truth=None if example.truth is None else example.truth.boxes,
        policy_scores=choice.scores,
        novelty=example.detections.novelty,
        drift=around.drift,
        feedback=around.feedback,
        consent=around.consent,
        retention=around.retention,
    )
    return Sample.build(frame.jpeg, record)
