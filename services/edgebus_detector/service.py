"""The detector: the generic serving service for detection, with settings of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from edgebus.contracts import Segment
from edgebus.serving.service import ModelService, ModelServiceSettings
from edgebus_detection.messages import CAMERA_FRAME, DETECTIONS

Fraction = Annotated[float, Field(ge=0, le=1)]


class DetectorSettings(ModelServiceSettings):
    """Settings of the detector, section `detector` of a node's file."""

    workload: Segment = "detection"
    """Workload whose inputs are answered."""
    threshold: Fraction | None = None
    """Lowest score that is published; the model's own by default."""
    nms_iou: Fraction | None = None
    """Overlap above which two boxes of a class are one; the model's own by default."""
    novelty: bool = True
    """Measure how unlike the model's reference pictures each frame is, where the bundle can."""


class Detector(ModelService[DetectorSettings]):
    """Finds objects in the newest frame of each camera and swaps models without a gap."""

    name = "detector"
    publishes = (DETECTIONS, *ModelService.publishes)
    subscribes = (CAMERA_FRAME, *ModelService.subscribes)

    def load_options(self) -> Mapping[str, Any]:
        """Threshold, overlap and novelty."""
        return self.settings.model_dump(include={"threshold", "nms_iou", "novelty"})
