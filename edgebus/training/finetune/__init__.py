"""Fine-tuning of an ONNX graph on items of any kind: no bus, usable as a plain function."""

from edgebus.training.finetune._batches import Batch, Batches
from edgebus.training.finetune._checkpoint import Checkpoints, Snapshot
from edgebus.training.finetune._errors import (
    CheckpointError,
    DeviceError,
    NothingToTrainOnError,
    TrainingDivergedError,
    TrainingError,
    UnreadableItemError,
)
from edgebus.training.finetune._finetune import FinetuneResult, finetune
from edgebus.training.finetune._objective import Loss, Objective, Outputs, Total
from edgebus.training.finetune._run import TrainStep
from edgebus.training.finetune._team import Team, alone, join_team, pick_device

__all__ = [
    "Batch",
    "Batches",
    "CheckpointError",
    "Checkpoints",
    "DeviceError",
    "FinetuneResult",
    "Loss",
    "NothingToTrainOnError",
    "Objective",
    "Outputs",
    "Snapshot",
    "Team",
    "Total",
    "TrainStep",
    "TrainingDivergedError",
    "TrainingError",
    "UnreadableItemError",
    "alone",
    "finetune",
    "join_team",
    "pick_device",
]
