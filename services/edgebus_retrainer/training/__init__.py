"""The training core of the retrainer: no bus, no clock, usable as a plain function."""

from edgebus_retrainer.training._augment import AugmentSettings
from edgebus_retrainer.training._batches import Batch, Batches
from edgebus_retrainer.training._errors import (
    HeadMismatchError,
    NothingToTrainOnError,
    TrainingDivergedError,
    TrainingError,
    UnreadableImageError,
)
from edgebus_retrainer.training._finetune import (
    FinetuneResult,
    FinetuneSettings,
    Step,
    finetune,
    pick_device,
)
from edgebus_retrainer.training._head import Anchors, YoloxHead, decode_boxes
from edgebus_retrainer.training._images import LabelledImage, Places, Prepare
from edgebus_retrainer.training._loss import LossParts, Target, targets_of, yolox_loss

__all__ = [
    "Anchors",
    "AugmentSettings",
    "Batch",
    "Batches",
    "FinetuneResult",
    "FinetuneSettings",
    "HeadMismatchError",
    "LabelledImage",
    "LossParts",
    "NothingToTrainOnError",
    "Places",
    "Prepare",
    "Step",
    "Target",
    "TrainingDivergedError",
    "TrainingError",
    "UnreadableImageError",
    "YoloxHead",
    "decode_boxes",
    "finetune",
    "pick_device",
    "targets_of",
    "yolox_loss",
]
