"""What a training job does, from its material to its card."""

from edgebus_retrainer.jobs._card import CARD, ModelCard
from edgebus_retrainer.jobs._curves import draw_curves
from edgebus_retrainer.jobs._job import UntrainableError, run_job
from edgebus_retrainer.jobs._learning import CHECKPOINT, TrainingFailedError, assist

__all__ = [
    "CARD",
    "CHECKPOINT",
    "ModelCard",
    "TrainingFailedError",
    "UntrainableError",
    "assist",
    "draw_curves",
    "run_job",
]
