"""The training of a job: labelled pictures in, an update of the weights out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgebus.artifacts import Bundle, Update
from edgebus.training.settings import TrainSettings
from edgebus_detection.models import detection_spec, input_spec
from edgebus_retrainer.jobs._clock import Report
from edgebus_retrainer.labels import Labelled
from edgebus_retrainer.material import Material, set_aside
from edgebus_retrainer.spec import JobSpec, Phase, StepDone

if TYPE_CHECKING:
    from edgebus.training.finetune import FinetuneResult, Team
    from edgebus_detection.training import LabelledImage

__all__ = ["CHECKPOINT", "Learnt", "TrainingFailedError", "assist", "learn"]

CHECKPOINT = "checkpoint.safetensors"
"""File in a job's folder."""

_MOST_VALIDATED = 64


class TrainingFailedError(RuntimeError):
    """The training itself went wrong; the cause is a `TrainingError`, which needs torch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What the training brought.

    Attributes:
        update: What changes in the incumbent's weights.
        losses: Loss of each step.
        validation: Steps and the loss on pictures that were set aside.
        validated_on: How many these are.
        best_step: The step whose weights are the outcome; None: the last.
        resumed_at: Steps that were done before a crash.
    """

    update: Update
    losses: tuple[float, ...]
    validation: tuple[tuple[int, float], ...]
    validated_on: int
    best_step: int | None
    resumed_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What the processes of a job that train together have to agree on."""

    new: list[LabelledImage]
    replay: list[LabelledImage]
    validation: list[LabelledImage]
    settings: TrainSettings
    classes: tuple[int, ...] | None


def learn(
    spec: JobSpec, base: Bundle, material: Material, *, threads: int, report: Report
) -> Learnt:
    """Train the incumbent's graph; an interrupted job goes on from its last checkpoint.

    Args:
        spec: The job.
        base: The incumbent.
        material: Labelled pictures; what turns out to be no picture is named in `unusable`.
        threads: CPU threads.
        report: Told of each step.

    Raises:
        TrainingFailedError: It diverged, no picture can be read, or devices are missing.
    """
    # torch takes seconds to import and is of no use to the service itself.
    from edgebus.training.finetune import TrainingError, join_team

    settings = spec.settings
    new, replay, validation = _parts(spec, material)
    plan = _Plan(
        new=_pictures(new),
        replay=_pictures(replay),
        validation=_pictures(validation),
        settings=settings.model_copy(update={"threads": threads}),
        classes=_spoken_of(spec, base),
    )
    try:
        with join_team(settings.device) as team:
            devices = str(team.device) if team.size == 1 else f"{team.size} x {team.device.type}"
            detail = (
                f"{settings.scope} on {devices}, {threads} threads, "
                f"{len(validation)} pictures to validate on"
            )
            report(Phase(phase="training", detail=detail))
            result = _train(spec, base, team.broadcast(plan), team, report=report)
    except TrainingError as error:
        raise TrainingFailedError(str(error)) from error
    material.unusable.extend(result.warnings)
    material.unusable.extend(f"picture {name} cannot be decoded" for name in result.unreadable)
    return Learnt(
        update=result.update,
        losses=result.losses,
        validation=result.validation,
        validated_on=len(validation),
        best_step=result.best_step,
        resumed_at=result.resumed_at,
    )


def assist(spec: JobSpec) -> None:
    """Be one of the further processes of a job: wait for the first one's plan, and train with it.

    What goes wrong, goes wrong at the first one too, who tells it.
    """
    from edgebus.training.finetune import TrainingError, join_team

    with suppress(TrainingError), join_team(spec.settings.device) as team:
        plan = team.broadcast(None)
        _train(spec, Bundle.open(spec.base), plan, team, report=lambda event: None)


def _train(
    spec: JobSpec, base: Bundle, plan: _Plan, team: Team, *, report: Report
) -> FinetuneResult:
    from edgebus.training.finetune import Checkpoints, finetune
    from edgebus.training.graph import TorchGraph
    from edgebus_detection.training import YoloxHead, YoloxObjective
    from edgebus_detection.vision import Preprocessor

    settings = spec.settings
    described, picture = detection_spec(base.manifest), input_spec(base.manifest)
    return finetune(
        TorchGraph(base.graph_bytes(), base.tensors(), scope=settings.scope),
        objective=YoloxObjective(
            head=YoloxHead(
                height=picture.height,
                width=picture.width,
                classes=len(described.classes),
                strides=described.decoder.strides,
            ),
            prepare=Preprocessor(picture).prepare,
            augmentation=spec.augment,
            classes=plan.classes,
        ),
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


def _spoken_of(spec: JobSpec, base: Bundle) -> tuple[int, ...] | None:
    """The classes that labels of samples speak of; None: all of the model."""
    if spec.labels.classes is None:
        return None
    return tuple(detection_spec(base.manifest).classes.index(name) for name in spec.labels.classes)


def _parts(
    spec: JobSpec, material: Material
) -> tuple[Sequence[Labelled], Sequence[Labelled], Sequence[Labelled]]:
    """Pictures of the new domain, earlier ones, and those of both that say when to stop."""
    settings = spec.settings
    new, aside = set_aside(
        material.new,
        share=min(settings.validation_share, _MOST_VALIDATED / len(material.new)),
        min_boxes=settings.validation_min_items,
    )
    if not aside or not material.replay or not settings.replay_share:
        return new, material.replay, aside
    share = min(settings.validation_share, len(aside) / len(material.replay))
    replay, known = set_aside(material.replay, share=share, min_boxes=1)
    return new, replay, (*aside, *known)


def _pictures(labelled: Sequence[Labelled]) -> list[LabelledImage]:
    from edgebus_detection.training import LabelledImage

    return [
        LabelledImage(
            name=picture.key,
            source=picture.path,
            boxes=picture.truth.boxes,
            labels=picture.truth.labels,
            ignore=picture.truth.ignore,
        )
        for picture in labelled
    ]
