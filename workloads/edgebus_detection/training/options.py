"""Settings of the training of detectors, beyond those that any workload has."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from edgebus_detection.labels.settings import LabelSettings

Fraction = Annotated[float, Field(ge=0, le=1)]


class AugmentSettings(BaseModel):
    """Random changes of a picture before it is trained on.

    A camera that does not move gains sharper boxes from small changes; few or very alike pictures
    ask for larger ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    flip: Fraction = 0.5
    """Probability of a mirror image."""
    scale: Annotated[float, Field(ge=0, le=4)] = 0.3
    """Largest change of size: a factor from 1 / (1 + scale) to 1 + scale."""
    translate: Fraction = 0.1
    """Largest shift, as a part of width and height."""
    brightness: Fraction = 0.1
    """Largest change of brightness, as a part of the full range."""
    contrast: Annotated[float, Field(ge=0, le=4)] = 0.2
    """Largest change of contrast: a factor from 1 / (1 + contrast) to 1 + contrast."""
    min_visible: Fraction = 0.3
    """Part of a box that must stay visible; with less it becomes an ignore region."""


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
