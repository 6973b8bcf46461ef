"""The training of a job: labelled items in, an update of the weights out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgebus.training.job_spec import Phase, Report, StepDone
from edgebus.training.settings import TrainSettings
from edgebus.training.trainer import (
    ItemT,
    Material,
    Trainer,
    TrainingFailedError,
    count_labelled,
)

if TYPE_CHECKING:
    from edgebus.training.finetune import FinetuneResult, Team

CHECKPOINT = "checkpoint.safetensors"
"""File in a job's folder."""

_MOST_VALIDATED = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Items and settings that the processes of a job share."""

    new: Sequence[Any]
    replay: Sequence[Any]
    validation: Sequence[Any]
    settings: TrainSettings


def learn(trainer: Trainer[ItemT], material: Material[ItemT], *, report: Report) -> FinetuneResult:
    """Train the incumbent's graph; an interrupted job goes on from its last checkpoint.

    Args:
        trainer: The workload's trainer of the job.
        material: Labelled items; what turns out to be unreadable is named in `unusable`.
        report: Gets each step.

    Raises:
        TrainingFailedError: It diverged, no item can be read, or devices are missing.
    """
    # torch takes seconds to import and is of no use to the service itself.
    from edgebus.training.finetune import TrainingError, join_team

    settings = trainer.spec.settings
    new, replay, validation = (trainer.learnables(part) for part in _parts(settings, material))
    plan = _Plan(
        new=new,
        replay=replay,
        validation=validation,
        settings=settings.model_copy(update={"threads": trainer.threads}),
    )
    try:
        with join_team(settings.device) as team:
            devices = str(team.device) if team.size == 1 else f"{team.size} x {team.device.type}"
            detail = (
                f"{settings.scope} on {devices}, {trainer.threads} threads, "
                f"{len(validation)} items to validate on"
            )
            report(Phase(phase="training", detail=detail))
            result = _train(trainer, team.broadcast(plan), team, report=report)
    except TrainingError as error:
        raise TrainingFailedError(str(error)) from error
    material.unusable.extend(result.warnings)
    material.unusable.extend(f"{name} cannot be decoded" for name in result.unreadable)
    return result


def assist(trainer: Trainer[ItemT]) -> None:
    """Be one of the further processes of a job: wait for the first one's plan, and train with it.

    What goes wrong, goes wrong at the first one too, which reports it.
    """
    from edgebus.training.finetune import TrainingError, join_team

    with suppress(TrainingError), join_team(trainer.spec.settings.device) as team:
        _train(trainer, team.broadcast(None), team, report=lambda event: None)


def _train(trainer: Trainer[ItemT], plan: _Plan, team: Team, *, report: Report) -> FinetuneResult:
    from edgebus.training.finetune import Checkpoints, finetune
    from edgebus.training.graph import TorchGraph

    spec, base = trainer.spec, trainer.base
    settings = spec.settings
    return finetune(
        TorchGraph(base.graph_bytes(), base.tensors(), scope=settings.scope),
        objective=trainer.objective(),
        new=plan.new,
        replay=plan.replay,
        validation=plan.validation,
        settings=plan.settings,
        team=team,
        checkpoints=Checkpoints(
            spec.folder / CHECKPOINT,
            every_s=settings.checkpoint_s,
            every_steps=settings.checkpoint_steps,
        ),
        on_step=lambda step: report(
            StepDone(step=step.step, steps=step.steps, loss=round(step.loss, 5))
        ),
    )


def _parts(
    settings: TrainSettings, material: Material[ItemT]
) -> tuple[Sequence[ItemT], Sequence[ItemT], Sequence[ItemT]]:
    """Items of the new domain, earlier ones, and a validation split of both."""
    new, aside = _validation_split(
        material.new,
        share=min(settings.validation_share, _MOST_VALIDATED / len(material.new)),
        min_labelled=settings.validation_min_items,
    )
    if not aside or not material.replay or not settings.replay_share:
        return new, material.replay, aside
    share = min(settings.validation_share, len(aside) / len(material.replay))
    replay, known = _validation_split(material.replay, share=share, min_labelled=1)
    return new, replay, (*aside, *known)


def _validation_split(
    items: Sequence[ItemT], *, share: float, min_labelled: int
) -> tuple[tuple[ItemT, ...], tuple[ItemT, ...]]:
    """Split training items into those to train on and those to validate on.

    Whole groups of neighbours are set aside, drawn by a digest of their names, so that the same
    items always fall on the same side. Nothing is where that leaves fewer than `min_labelled`
    items with labels: a loss on a handful of items is chance, and few samples are better
    learnt from.

    Args:
        items: Training items.
        share: Part to set aside, at most.
        min_labelled: Items with labels that are needed to validate on.

    Returns:
        To train on, and to validate on, both in the given order.
    """
    groups = Counter(item.group for item in items)
    chosen: set[str] = set()
    room = share * len(items)
    for group in sorted(groups, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if groups[group] <= room:
            chosen.add(group)
            room -= groups[group]
    aside = tuple(item for item in items if item.group in chosen)
    if count_labelled(aside) < min_labelled:
        return tuple(items), ()
    return tuple(item for item in items if item.group not in chosen), aside
