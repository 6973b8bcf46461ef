"""Training a graph further: plain, seeded, without a bus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from edgebus.artifacts import Update
from edgebus.training.graph import TorchGraph
from edgebus_retrainer.training._checkpoint import Checkpoints
from edgebus_retrainer.training._errors import CheckpointError
from edgebus_retrainer.training._head import YoloxHead
from edgebus_retrainer.training._images import LabelledImage, Prepare
from edgebus_retrainer.training._run import Run, Step
from edgebus_retrainer.training._settings import FinetuneSettings
from edgebus_retrainer.training._team import Team, alone

__all__ = ["FinetuneResult", "finetune"]


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """What a run brought.

    Attributes:
        update: What changed, to be applied to the tensors that the graph was made with.
        steps: Steps done.
        stopped: Whether it ended before its last step: it was asked to, or its validation loss
            fell no more.
        losses: Loss of each step.
        validation: Steps and the validation loss after them; empty without such pictures.
        best_step: The step whose weights are the outcome; None: the last.
        resumed_at: Steps that an interrupted run had done before; 0: none.
        unreadable: Names of pictures that were left out.
        warnings: What went wrong without ending the run.
        trainable: How many numbers were trained.
        device: Where, for example ``cpu`` or ``cuda:0``.
    """

    update: Update
    steps: int
    stopped: bool
    losses: tuple[float, ...]
    validation: tuple[tuple[int, float], ...]
    best_step: int | None
    resumed_at: int
    unreadable: tuple[str, ...]
    warnings: tuple[str, ...]
    trainable: int
    device: str


def finetune(
    graph: TorchGraph,
    *,
    head: YoloxHead,
    prepare: Prepare,
    new: Sequence[LabelledImage],
    replay: Sequence[LabelledImage] = (),
    validation: Sequence[LabelledImage] = (),
    settings: FinetuneSettings | None = None,
    team: Team | None = None,
    checkpoints: Checkpoints | None = None,
    on_step: Callable[[Step], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> FinetuneResult:
    """Train a YOLOX-style graph on new pictures without unlearning the earlier ones.

    The graph is changed in place and ends on the device. Pictures are decoded when they are drawn
    and not kept: memory depends on the batch, not on how many there are.

    Args:
        graph: The graph; its scope says what is trained.
        head: Shape and meaning of its output.
        prepare: Makes the model's input of a picture.
        new: Pictures of the domain to learn.
        replay: Pictures of what the model knew before.
        validation: Pictures that are not trained on: the weights with the lowest loss on them are
            the outcome, and where it falls no more the run ends.
        settings: How to train.
        team: The processes that train together, each of which calls this with the same arguments;
            None: this one, on CUDA where there is one. Only the first writes checkpoints.
        checkpoints: Where an interrupted run is kept: called again with the same arguments, it
            goes on there and, on a CPU with the same number of threads, comes to the same weights
            to the bit.
        on_step: Called after each step.
        stop: Asked after each step; true ends the run early with what was learnt so far. All of a
            team have to be told the same.

    Raises:
        NothingToTrainOnError: There is no readable picture.
        HeadMismatchError: The output does not have the head's shape.
        TrainingDivergedError: A loss or a gradient is not finite, or the loss grew too far.
        DeviceError: The team has more devices than a batch has pictures.
    """
    config = FinetuneSettings() if settings is None else settings
    together = alone() if team is None else team
    warnings: list[str] = []
    stopped = False
    with _threads(config.threads):
        run = Run(
            graph,
            head=head,
            prepare=prepare,
            new=new,
            replay=replay,
            validation=validation,
            settings=config,
            team=together,
        )
        resumed_at = _take_up(run, checkpoints, warnings)
        while run.done < config.steps and not run.exhausted:
            step = run.step()
            over = step.step == config.steps or run.exhausted
            if together.first and checkpoints is not None and (over or checkpoints.due(step.step)):
                checkpoints = _keep(run, checkpoints, warnings)
            if on_step is not None:
                on_step(step)
            if stop is not None and stop():
                stopped = run.done < config.steps
                break
        run.finish()
    return FinetuneResult(
        update=graph.update(),
        steps=run.done,
        stopped=stopped or run.done < config.steps,
        losses=tuple(run.losses),
        validation=tuple(run.validation),
        best_step=run.best_step,
        resumed_at=resumed_at,
        unreadable=tuple(run.batches.unreadable),
        warnings=tuple(warnings),
        trainable=graph.trainable,
        device=str(together.device),
    )


def _take_up(run: Run, checkpoints: Checkpoints | None, warnings: list[str]) -> int:
    """Go on where an interrupted run was; a checkpoint of no use costs its steps, not the run."""
    if checkpoints is None:
        return 0
    try:
        snapshot = checkpoints.load(run.identity)
    except CheckpointError as error:
        warnings.append(str(error))
        return 0
    if snapshot is None:
        return 0
    run.restore(snapshot)
    return snapshot.step


def _keep(run: Run, checkpoints: Checkpoints, warnings: list[str]) -> Checkpoints | None:
    """Write a checkpoint; a disk that takes none is no reason to lose what is being learnt."""
    try:
        checkpoints.save(run.snapshot())
    except OSError as error:
        warnings.append(f"no checkpoint after step {run.done} and later: {error}")
        return None
    return checkpoints


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
