"""The result of a detection run as `summary.json`; its JSON Schema is `schemas/summary.json`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edgebus.lab import Bytes, Count, Summary, SummaryPart

Fraction = Annotated[float, Field(ge=0, le=1)]


class MapFigures(SummaryPart):
    """Accuracy on held-out frames, in the three phases of a closed loop.

    Absent where there was no such phase, or no ground truth on the bus.
    """

    before_drift: Fraction | None = Field(
        default=None, description="First model, no scripted effect active."
    )
    after_drift: Fraction | None = Field(
        default=None,
        description="First model, effects at their final strength (without a script: all frames).",
    )
    after_loop: Fraction | None = Field(
        default=None, description="A later model, the same effects."
    )
    recovered: float | None = Field(
        default=None,
        description="(after_loop - after_drift) / (before_drift - after_drift); "
        "1 means all that drift cost.",
    )


class Frames(SummaryPart):
    """Counts of frames."""

    total: Count = Field(default=0, description="Seen on the bus.")
    answered: Count = 0
    dropped: Count = Field(
        default=0, description="Passed over by the detector for a newer one, and counted by it."
    )
    dropped_in_swap: Count = Field(
        default=0, description="Of those, from the load of a new model until its first answers."
    )
    unserved: Count = Field(
        default=0, description="Sent while no detector was there to answer (start, restart, end)."
    )
    failed: Count = Field(
        default=0,
        description="Neither answered nor counted as dropped while a detector served, "
        "or dead-lettered.",
    )
    torn: Count = Field(
        default=0,
        description="Answered by a model that nobody released, by two models, or by an older "
        "model after a newer one in one life of a detector.",
    )
    held_out: Count = Field(default=0, description="Answered, with ground truth, never trained on.")


class Latency(SummaryPart):
    """From capture to boxes, in milliseconds, over all answered frames."""

    p50_ms: float | None = None
    p95_ms: float | None = None
    max_ms: float | None = None


class DetectionBytes(Bytes):
    """Payload bytes on the bus."""

    frames: Count = Field(default=0, description="Frames; in a fleet they stay on their host.")


class CameraBytes(SummaryPart):
    """Payload bytes of one camera; models come to its node: `nodes[].received_bytes`."""

    up: Count = Field(default=0, description="Its samples.")
    frames: Count = Field(default=0, description="Its frames.")


class CameraSummary(SummaryPart):
    """The same figures for one camera."""

    camera: str = Field(description="node/camera")
    map: MapFigures = MapFigures()
    map50: MapFigures = MapFigures()
    frames: Frames = Frames()
    latency: Latency = Latency()
    fps: float | None = Field(default=None, description="Answered frames per second.")
    bytes: CameraBytes = CameraBytes()
    versions: tuple[int, ...] = Field(default=(), description="Versions that answered, in order.")


class DetectionSummary(Summary):
    """The result of one run of `edgebus up` with cameras and detectors."""

    bytes: DetectionBytes = DetectionBytes()
    map: MapFigures = Field(
        default=MapFigures(),
        description="COCO mAP (mean over IoU .50:.95) on held-out frames of all cameras.",
    )
    map50: MapFigures = Field(default=MapFigures(), description="The same at IoU .50.")
    frames: Frames = Frames()
    latency: Latency = Latency()
    cameras: tuple[CameraSummary, ...] = ()

    @property
    def faults(self) -> str:
        """Frames that failed, or were torn."""
        broken = (("failed", self.frames.failed), ("were torn", self.frames.torn))
        return ", ".join(f"{number} frames {what}" for what, number in broken if number)
