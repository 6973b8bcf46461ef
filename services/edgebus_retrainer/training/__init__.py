"""The training core of the retrainer: no bus, usable as a plain function."""

from edgebus_retrainer.training._augment import AugmentSettings
from edgebus_retrainer.training._batches import Batch, Batches
from edgebus_retrainer.training._checkpoint import Checkpoints, Snapshot
from edgebus_retrainer.training._errors import (
    CheckpointError,
    DeviceError,
    HeadMismatchError,
    NothingToTrainOnError,
    TrainingDivergedError,
    TrainingError,
    UnreadableImageError,
)
from edgebus_retrainer.training._finetune import FinetuneResult, finetune
from edgebus_retrainer.training._head import Anchors, YoloxHead, decode_boxes
from edgebus_retrainer.training._images import LabelledImage, Places, Prepare
from edgebus_retrainer.training._loss import LossParts, Target, targets_of, yolox_loss
from edgebus_retrainer.training._run import Step
from edgebus_retrainer.training._settings import FinetuneSettings
from edgebus_retrainer.training._team import Team, alone, join_team, pick_device

__all__ = [
    "Anchors",
    "AugmentSettings",
    "Batch",
    "Batches",
    "CheckpointError",
    "Checkpoints",
    "DeviceError",
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
    "Team",
    "TrainingDivergedError",
    "TrainingError",
    "UnreadableImageError",
    "YoloxHead",
    "alone",
    "decode_boxes",
    "finetune",
    "join_team",
    "pick_device",
    "targets_of",
    "yolox_loss",
]
