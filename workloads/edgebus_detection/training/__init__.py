"""Training of detectors: assignment, loss, augmentation, distillation."""

from edgebus_detection.training.augment import AugmentSettings
from edgebus_detection.training.head import Anchors, YoloxHead, decode_boxes
from edgebus_detection.training.images import LabelledImage, Places, Prepare
from edgebus_detection.training.loss import Target, yolox_loss
from edgebus_detection.training.objective import (
    HeadMismatchError,
    Picture,
    YoloxObjective,
    targets_of,
)

__all__ = [
    "Anchors",
    "AugmentSettings",
    "HeadMismatchError",
    "LabelledImage",
    "Picture",
    "Places",
    "Prepare",
    "Target",
    "YoloxHead",
    "YoloxObjective",
    "decode_boxes",
    "targets_of",
    "yolox_loss",
]
