"""The YOLOX objective: pictures, augmentation, assignment, loss, distillation. Needs torch."""

from edgebus_detection.training.yolox.head import Anchors, YoloxHead, decode_boxes
from edgebus_detection.training.yolox.images import LabelledImage
from edgebus_detection.training.yolox.loss import Target, yolox_loss
from edgebus_detection.training.yolox.objective import (
    HeadMismatchError,
    Picture,
    YoloxObjective,
    targets_of,
)

__all__ = [
    "Anchors",
    "HeadMismatchError",
    "LabelledImage",
    "Picture",
    "Target",
    "YoloxHead",
    "YoloxObjective",
    "decode_boxes",
    "targets_of",
    "yolox_loss",
]
