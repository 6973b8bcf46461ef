"""Mining of frames that the model got wrong: examples, policies, tracking, the reference model."""

from typing import TypeAlias

from edgebus import mining
from edgebus_detection.messages import Detections, Frame, GroundTruth

__all__ = ["Example"]

Example: TypeAlias = mining.Example[Frame, Detections, GroundTruth]
"""One frame with everything that is known of it."""
