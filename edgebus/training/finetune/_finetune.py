"""Fine-tuning of a graph: plain, seeded, without a bus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from edgebus.artifacts import Update
from edgebus.training.finetune._checkpoint import Checkpoints
from edgebus.training.finetune._errors import CheckpointError
from edgebus.training.finetune._objective import Item, Objective, Row
from edgebus.training.finetune._run import Run, TrainStep
from edgebus.training.finetune._team import Team, alone
from edgebus.training.graph import TorchGraph
from edgebus.training.settings import FinetuneSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneResult:
    """The outcome of a run.

    Attributes:
        update: What changed, to be applied to the tensors that the graph was made with.
        steps: Steps done.
        stopped: Whether it ended before its last step: it was asked to, or its validation loss
            fell no more.
        losses: Loss of each step.
        validation: Steps and the validation loss after them; empty without items to validate on.
        validated_on: Items to validate on.
        best_step: The step whose weights are the outcome; None: the last.
        resumed_at: Steps that an interrupted run had done before; 0: none.
        unreadable: Names of items that were left out.
        warnings: What went wrong without ending the run.
        trainable: How many numbers were trained.
    """

    update: Update
    steps: int
    losses: tuple[float, ...]
    trainable: int
    stopped: bool = False
    validation: tuple[tuple[int, float], ...] = ()
    validated_on: int = 0
    best_step: int | None = None
    resumed_at: int = 0
    unreadable: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def finetune(
    graph: TorchGraph,
    *,
    objective: Objective[Item, Row],
    new: Sequence[Item],
    replay: Sequence[Item] = (),
    validation: Sequence[Item] = (),
    settings: FinetuneSettings | None = None,
    team: Team | None = None,
    checkpoints: Checkpoints | None = None,
    on_step: Callable[[TrainStep], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> FinetuneResult:
    """Train a graph on new items without unlearning the earlier ones.

    The graph is changed in place and ends on the device. Items are loaded when they are drawn
    and not kept: memory depends on the batch, not on how many there are.

    Args:
        graph: The graph; its scope decides what is trained.
        objective: Loads items and gives the loss.
        new: Items of the domain to learn.
        replay: Items of what the model knew before.
        validation: Items that are not trained on: the weights with the lowest loss on them are
            the outcome, and where it falls no more the run ends.
        settings: How to train.
        team: The processes that train together, each of which calls this with the same arguments;
            None: this one, on CUDA where there is one. Only the first writes checkpoints.
        checkpoints: Where an interrupted run is kept: called again with the same arguments, it
            goes on there and, on a CPU with the same number of threads, comes to the same weights
            to the bit.
        on_step: Called after each step.
        stop: Asked after each step; true ends the run early with what was learnt so far. All of a
            team have to get the same answer.

    Raises:
        NothingToTrainOnError: There is no readable item.
        TrainingDivergedError: A loss or a gradient is not finite, or the loss grew too far.
        DeviceError: The team has more devices than a batch has items.
        TrainingError: Another one that the objective raises.
    """
    config = FinetuneSettings() if settings is None else settings
    together = alone() if team is None else team
    warnings: list[str] = []
    stopped = False
    with _threads(config.threads):
        run = Run(
            graph,
            objective=objective,
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
        validated_on=len(validation),
        best_step=run.best_step,
        resumed_at=resumed_at,
        unreadable=tuple(run.batches.unreadable),
        warnings=tuple(warnings),
        trainable=graph.trainable,
    )


def _take_up(run: Run[Item, Row], checkpoints: Checkpoints | None, warnings: list[str]) -> int:
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


def _keep(run: Run[Item, Row], checkpoints: Checkpoints, warnings: list[str]) -> Checkpoints | None:
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
