"""The training core of the retrainer: no bus, no clock, usable as a plain function."""

from edgebus_retrainer.training._augment import AugmentSettings
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
from edgebus_retrainer.training._head import YoloxHead
from edgebus_retrainer.training._images import LabelledImage, Places, Prepare

__all__ = [
    "AugmentSettings",
    "FinetuneResult",
    "FinetuneSettings",
    "HeadMismatchError",
    "LabelledImage",
    "NothingToTrainOnError",
    "Places",
    "Prepare",
    "Step",
    "TrainingDivergedError",
    "TrainingError",
    "UnreadableImageError",
    "YoloxHead",
    "finetune",
    "pick_device",
]
