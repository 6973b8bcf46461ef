"""Settings of the training of detectors, beyond those that any workload has."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from edgebus_detection.labels.settings import LabelSettings
from edgebus_detection.training.augment import AugmentSettings

__all__ = ["DetectionTraining"]


class DetectionTraining(BaseModel):
    """Labels, augmentation, and what is left out of a job."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    labels: LabelSettings = LabelSettings()
    """Label sources of samples."""
    augment: AugmentSettings = AugmentSettings()
    """Random changes of a picture before it is trained on."""
    min_measured_boxes: Annotated[int, Field(ge=1)] = 5
    """Boxes that a class needs on the held-out pictures of a domain to be measured there: mAP is a
    mean over classes, and the precision of a class of two boxes is chance."""
    leak_distance: Annotated[int, Field(ge=-1, le=256)] = 8
    """Bits of 256 in which the hash of a training picture that is left out differs from a held-out
    one's at most; -1: none is left out."""
