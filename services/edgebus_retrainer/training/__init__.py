"""The training core of the retrainer: no bus, usable as a plain function."""

from edgebus_retrainer.training._augment import AugmentSettings
from edgebus_retrainer.training._batches import Batch, Batches
from edgebus_retrainer.training._checkpoint import Checkpoints, Snapshot
from edgebus_retrainer.training._errors import (
    CheckpointError,
    HeadMismatchError,
    NothingToTrainOnError,
    TrainingDivergedError,
    TrainingError,
    UnreadableImageError,
)
from edgebus_retrainer.training._finetune import FinetuneResult, finetune, pick_device
from edgebus_retrainer.training._head import Anchors, YoloxHead, decode_boxes
from edgebus_retrainer.training._images import LabelledImage, Places, Prepare
from edgebus_retrainer.training._loss import LossParts, Target, targets_of, yolox_loss
from edgebus_retrainer.training._run import Step
from edgebus_retrainer.training._settings import FinetuneSettings

__all__ = [
    "Anchors",
    "AugmentSettings",
    "Batch",
    "Batches",
    "CheckpointError",
    "Checkpoints",
    "FinetuneResult",
    "FinetuneSettings",
    "HeadMismatchError",
    "LabelledImage",
    "LossParts",
    "NothingToTrainOnError",
    "Places",
    "Prepare",
    "Snapshot",
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
