"""What a policy looks at, and what it says of it."""

from __future__ import annotations

from dataclasses import dataclass

from edgebus_detection.messages import Box, Detections, Frame, GroundTruth

__all__ = ["Example", "Judgement"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One frame with everything that is known of it.

    Attributes:
        frame: The picture, as the camera sent it.
        detections: What the model saw in it.
        truth: What is really in it; None on a real camera.
        second: What a second model saw in it; None where it was not asked.
    """

    frame: Frame
    detections: Detections
    truth: GroundTruth | None = None
    second: tuple[Box, ...] | None = None

    @property
    def camera(self) -> str:
        """Name of the camera."""
        return self.detections.camera

    @property
    def index(self) -> int:
        """Frame number of that camera."""
        return self.detections.index


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A policy's opinion of one example.

    Attributes:
        wrong: Whether the model was wrong, or too unsure to be trusted.
        score: How wrong: higher is worse; comparable within a policy.
        reason: In words, for the person who looks at the sample.
    """

    wrong: bool
    score: float
    reason: str
