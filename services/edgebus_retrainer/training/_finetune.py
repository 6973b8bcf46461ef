"""Training a graph further: plain, seeded, without clock or bus."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from edgebus.artifacts import Update
from edgebus.inference.graph import TorchGraph, TrainScope
from edgebus_retrainer.training._augment import AugmentSettings
from edgebus_retrainer.training._batches import Batches
from edgebus_retrainer.training._errors import HeadMismatchError, TrainingDivergedError
from edgebus_retrainer.training._head import YoloxHead
from edgebus_retrainer.training._images import LabelledImage, Prepare
from edgebus_retrainer.training._loss import targets_of, yolox_loss

__all__ = ["FinetuneResult", "FinetuneSettings", "Step", "finetune", "pick_device"]

LEARNING_RATES: dict[TrainScope, float] = {
    "biases": 1e-3,
    "biases+scales": 1e-3,
    "head": 2e-4,
    "all": 2e-5,
}
"""Peak learning rates that learn the new domain without erasing the old one."""

_START = 10  # steps whose mean loss is the level that divergence is measured against


class FinetuneSettings(BaseModel):
    """How to train.

    Attributes:
        steps: Optimiser steps.
        batch: Pictures per step.
        replay_share: Part of each batch that comes from earlier data.
        learning_rate: Peak; None takes what suits the graph's scope.
        warmup: Part of the steps over which the learning rate rises.
        final: Learning rate at the end as a part of the peak; a cosine leads there.
        clip_norm: Longest gradient.
        diverged_at: Multiple of the loss at the start that ends the run.
        threads: CPU threads; None leaves torch's setting.
        seed: Decides order and augmentation: equal seeds give equal updates on one machine.
        augment: How far pictures are changed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(default=200, ge=1)
    batch: int = Field(default=8, ge=1, le=1024)
    replay_share: float = Field(default=0.5, ge=0, lt=1)
    learning_rate: float | None = Field(default=None, gt=0)
    warmup: float = Field(default=0.05, ge=0, le=1)
    final: float = Field(default=0.05, ge=0, le=1)
    clip_norm: float = Field(default=10.0, gt=0)
    diverged_at: float = Field(default=5.0, gt=1)
    threads: int | None = Field(default=None, ge=1)
    seed: int = 0
    augment: AugmentSettings = AugmentSettings()


@dataclass(frozen=True, slots=True)
class Step:
    """One step done.

    Attributes:
        step: Number of the step, from 1.
        steps: Number of steps in all.
        loss: Loss of its batch: box, objectness and class together.
        box, objectness, classes: Its parts, without weights.
        matched: Predictions that answered for a box.
        learning_rate: Learning rate of the step.
    """

    step: int
    steps: int
    loss: float
    box: float
    objectness: float
    classes: float
    matched: int
    learning_rate: float


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """What a run brought.

    Attributes:
        update: What changed, to be applied to the tensors that the graph was made with.
        steps: Steps done.
        stopped: Whether it was stopped before its end.
        losses: Loss of each step.
        unreadable: Names of pictures that were left out.
        trainable: How many numbers were trained.
        device: Where, for example ``cpu``.
    """

    update: Update
    steps: int
    stopped: bool
    losses: tuple[float, ...]
    unreadable: tuple[str, ...]
    trainable: int
    device: str


def pick_device(device: str = "auto") -> torch.device:
    """The named device; "auto" takes CUDA where there is one, else the CPU."""
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def finetune(
    graph: TorchGraph,
    *,
    head: YoloxHead,
    prepare: Prepare,
    new: Sequence[LabelledImage],
    replay: Sequence[LabelledImage] = (),
    settings: FinetuneSettings | None = None,
    device: str = "auto",
    on_step: Callable[[Step], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> FinetuneResult:
    """Train a YOLOX-style graph on new pictures without unlearning the earlier ones.

    AdamW without weight decay (batch norm is folded: weights carry the scale of the features),
    warm-up, cosine. The graph is changed in place and ends on the device.

    Args:
        graph: The graph; its scope says what is trained.
        head: Shape and meaning of its output.
        prepare: Makes the model's input of a picture.
        new: Pictures of the domain to learn.
        replay: Pictures of what the model knew before.
        settings: How to train.
        device: Torch device, or "auto".
        on_step: Called after each step.
        stop: Asked after each step; true ends the run early with what was learnt so far.

    Raises:
        NothingToTrainOnError: There is no readable picture.
        HeadMismatchError: The output does not have the head's shape.
        TrainingDivergedError: The loss or a gradient is not finite, or the loss grew too far.
    """
    config = FinetuneSettings() if settings is None else settings
    where = pick_device(device)
    peak = config.learning_rate or LEARNING_RATES[graph.scope]
    batches = Batches(
        new=new,
        replay=replay,
        size=config.batch,
        replay_share=config.replay_share,
        prepare=prepare,
        augmentation=config.augment,
        seed=config.seed,
    )
    graph.to(where)
    anchors = head.anchors(where)
    parameters = list(graph.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=peak, weight_decay=0.0)
    losses: list[float] = []
    stopped = False
    with _threads(config.threads):
        for number in range(1, config.steps + 1):
            rate = peak * _schedule(number, config)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = batches.next()
            raw = _raw(graph, head, torch.from_numpy(batch.inputs).to(where))
            parts = yolox_loss(raw, targets_of(batch, where), anchors)
            optimizer.zero_grad(set_to_none=True)
            parts.total.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
            losses.append(float(parts.total.detach()))
            _check(losses, finite=math.isfinite(float(norm)), peak=peak, limit=config.diverged_at)
            optimizer.step()
            if on_step is not None:
                on_step(
                    Step(
                        step=number,
                        steps=config.steps,
                        loss=losses[-1],
                        box=float(parts.box),
                        objectness=float(parts.objectness),
                        classes=float(parts.classes),
                        matched=parts.matched,
                        learning_rate=rate,
                    )
                )
            if stop is not None and stop():
                stopped = number < config.steps
                break
    return FinetuneResult(
        update=graph.update(),
        steps=len(losses),
        stopped=stopped,
        losses=tuple(losses),
        unreadable=tuple(batches.unreadable),
        trainable=graph.trainable,
        device=str(where),
    )


def _raw(graph: TorchGraph, head: YoloxHead, inputs: Tensor) -> Tensor:
    name = head.output or graph.output_names[0]
    raw: Tensor = graph(inputs, logits=True)[name]
    wanted = (len(inputs), head.predictions, 5 + head.classes)
    if raw.shape != wanted:
        raise HeadMismatchError(output=name, found=tuple(raw.shape), wanted=wanted)
    return raw


def _schedule(step: int, settings: FinetuneSettings) -> float:
    """Part of the peak learning rate at a step (from 1): linear rise, then a cosine."""
    rise = settings.warmup * settings.steps
    if step <= rise:
        return step / rise
    done = (step - rise) / max(1.0, settings.steps - rise)
    return settings.final + (1 - settings.final) * (1 + math.cos(math.pi * done)) / 2


def _check(losses: Sequence[float], *, finite: bool, peak: float, limit: float) -> None:
    begin = losses[:_START]
    start = sum(begin) / len(begin)
    recent = losses[-_START:]
    level = sum(recent) / len(recent)
    grown = len(losses) >= 2 * _START and level > limit * start
    if not finite or not math.isfinite(losses[-1]) or grown:
        raise TrainingDivergedError(
            step=len(losses), loss=losses[-1], start=start, learning_rate=peak
        )


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
