"""How to train."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from edgebus.training.graph import TrainScope
from edgebus_retrainer.training._augment import AugmentSettings

__all__ = ["LEARNING_RATES", "FinetuneSettings", "rate_at"]

LEARNING_RATES: dict[TrainScope, float] = {
    "biases": 1e-3,
    "biases+scales": 1e-3,
    "head": 2e-4,
    "all": 2e-5,
}
"""Peak learning rates that learn the new domain without erasing the old one."""


class FinetuneSettings(BaseModel):
    """How to train.

    Attributes:
        steps: Optimiser steps.
        batch: Pictures per step.
        replay_share: Part of each batch that comes from earlier data.
        remember: On earlier pictures the graph is held to what it said before the run, with this
            weight, so that nothing is forgotten; 0: their labels are learnt instead.
        classes: Classes that labels of new pictures speak of: where the graph saw others before the
            run, these pictures do not say that there is nothing; None: all.
        balance: Pictures of a class that is on less than this part of a pool are drawn more often,
            by the square root of what it lacks (repeat factor sampling); 0: all equally often.
        learning_rate: Peak; None takes what suits the graph's scope.
        warmup: Part of the steps over which the learning rate rises.
        final: Learning rate at the end as a part of the peak; a cosine leads there.
        clip_norm: Longest gradient.
        average: The outcome is a moving average of the weights over about this part of the steps;
            0: the last weights.
        validate_every: Where there are pictures to validate on, their loss is measured each time
            that this part of the steps is done.
        patience: After so many measurements without a better one the run ends; None: never.
        diverged_at: Multiple of the loss at the start that ends the run.
        precision: "bfloat16" computes the graph in mixed precision, on CUDA only; the loss, the
            weights and the optimiser stay float32.
        threads: CPU threads; None leaves torch's setting.
        seed: Decides order and augmentation: equal seeds give equal updates on one machine.
        augment: How far pictures are changed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(default=200, ge=1)
    batch: int = Field(default=8, ge=1, le=1024)
    replay_share: float = Field(default=0.5, ge=0, lt=1)
    remember: float = Field(default=1.0, ge=0)
    classes: tuple[int, ...] | None = None
    balance: float = Field(default=0.0, ge=0, le=1)
    learning_rate: float | None = Field(default=None, gt=0)
    warmup: float = Field(default=0.05, ge=0, le=1)
    final: float = Field(default=0.05, ge=0, le=1)
    clip_norm: float = Field(default=10.0, gt=0)
    average: float = Field(default=0.05, ge=0, le=1)
    validate_every: float = Field(default=0.1, gt=0, le=1)
    patience: int | None = Field(default=3, ge=1)
    diverged_at: float = Field(default=5.0, gt=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: int | None = Field(default=None, ge=1)
    seed: int = 0
    augment: AugmentSettings = AugmentSettings()

    @property
    def validation_interval(self) -> int:
        """Steps between two measurements of the validation loss."""
        return max(1, round(self.validate_every * self.steps))


def rate_at(step: int, settings: FinetuneSettings) -> float:
    """Part of the peak learning rate at a step (from 1): linear rise, then a cosine."""
    rise = settings.warmup * settings.steps
    if step <= rise:
        return step / rise
    done = (step - rise) / max(1.0, settings.steps - rise)
    return settings.final + (1 - settings.final) * (1 + math.cos(math.pi * done)) / 2
