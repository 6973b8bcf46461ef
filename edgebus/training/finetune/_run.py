"""A training run with a state: it takes steps, and can be kept and taken up again."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Generic

import numpy as np
import torch
from torch import Tensor, nn

from edgebus.training.finetune._batches import Batch, Batches, plain_batches
from edgebus.training.finetune._checkpoint import Snapshot
from edgebus.training.finetune._errors import TrainingDivergedError
from edgebus.training.finetune._objective import Item, Loss, Objective, Outputs, Row, Total
from edgebus.training.finetune._team import Team
from edgebus.training.graph import TorchGraph, TrainScope
from edgebus.training.settings import FinetuneSettings

LEARNING_RATES: dict[TrainScope, float] = {
    "biases": 1e-3,
    "biases+scales": 1e-3,
    "head": 2e-4,
    "all": 2e-5,
}
"""Peak learning rates that learn the new domain without erasing the old one."""

_START = 10  # steps whose mean loss is the level that divergence is measured against


@dataclass(frozen=True, slots=True)
class TrainStep:
    """One step done.

    Attributes:
        step: Number of the step, from 1.
        steps: Number of steps in all.
        loss: Loss of its batch.
        parts: What the loss is made of, as the objective names it.
        learning_rate: Learning rate of the step.
    """

    step: int
    steps: int
    loss: float
    parts: dict[str, float]
    learning_rate: float


class WeightAverage:
    """An exponential moving average of parameters (Polyak and Juditsky 1992, with a short memory).

    The learning rate bounds how far single batches pull the weights about; their mean over the
    last steps lies nearer to where they are pulled from all sides. The memory grows with the run
    at first, so that the weights of the start do not linger.

    Args:
        parameters: What is averaged.
        horizon: Steps that the memory reaches back; below 1 the average is the last weights.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, horizon: float) -> None:
        self._parameters = list(parameters)
        self._decay = 1.0 - 1.0 / max(1.0, horizon)
        self.values = [parameter.detach().clone() for parameter in self._parameters]

    def add(self, step: int) -> None:
        """Take in the weights after a step, from 1."""
        decay = min(self._decay, step / (step + 10))
        with torch.no_grad():
            for value, parameter in zip(self.values, self._parameters, strict=True):
                value.lerp_(parameter, 1.0 - decay)

    def load(self, values: Sequence[Tensor]) -> None:
        """Take over an average that was kept."""
        for mine, value in zip(self.values, values, strict=True):
            mine.copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The parameters hold the average meanwhile."""
        kept = [parameter.detach().clone() for parameter in self._parameters]
        assign(self._parameters, self.values)
        try:
            yield
        finally:
            assign(self._parameters, kept)


def assign(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    """Write values into parameters."""
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)


class Run(Generic[Item, Row]):
    """AdamW without weight decay, warm-up and cosine, a moving average of the weights.

    Batch norm is folded into the graph: weights carry the scale of the features and must not decay.

    Args:
        graph: What is trained; changed in place.
        objective: Loads items and gives the loss.
        new: Items of the domain to learn.
        replay: Items of what the model knew before.
        validation: Items for early stopping.
        settings: How to train.
        team: The processes that take the steps together, and where this one computes.
    """

    def __init__(
        self,
        graph: TorchGraph,
        *,
        objective: Objective[Item, Row],
        new: Sequence[Item],
        replay: Sequence[Item],
        validation: Sequence[Item],
        settings: FinetuneSettings,
        team: Team,
    ) -> None:
        self.losses: list[float] = []
        self.validation: list[tuple[int, float]] = []
        self.batches = Batches(
            new=new,
            replay=replay,
            objective=objective,
            size=settings.batch,
            replay_share=settings.replay_share,
            seed=settings.seed,
            balance=settings.balance,
        )
        self._team = team
        self._graph = graph.to(team.device)
        self._objective = objective
        self._to_validate = tuple(validation)
        self._settings = settings
        self._device = team.device
        self._peak = settings.learning_rate or LEARNING_RATES[graph.scope]
        self._parameters = list(graph.parameters())
        self._optimizer = torch.optim.AdamW(self._parameters, lr=self._peak, weight_decay=0.0)
        self._average = WeightAverage(self._parameters, horizon=settings.average * settings.steps)
        compares = settings.distillation_weight > 0 or objective.compares
        self._frozen = frozen_copy(self._graph) if compares else None
        self._best: list[Tensor] | None = None
        self._identity = _identity(graph, objective, settings, team, (new, replay, validation))

    @property
    def done(self) -> int:
        """Steps done."""
        return len(self.losses)

    @property
    def best_step(self) -> int | None:
        """The step of the lowest validation loss so far."""
        return min(self.validation, key=lambda entry: entry[1])[0] if self.validation else None

    @property
    def exhausted(self) -> bool:
        """True where the validation loss has not fallen for `patience` validations."""
        patience, best = self._settings.patience, self.best_step
        if patience is None or best is None:
            return False
        return sum(step > best for step, _ in self.validation) >= patience

    def step(self) -> TrainStep:
        """Take a step.

        Raises:
            TrainingError: See `finetune`.
        """
        number = self.done + 1
        rate = self._peak * rate_at(number, self._settings)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        drawn = self.batches.next()
        batch = Batch(rows=self._team.share(drawn.rows), earlier=self._team.share(drawn.earlier))
        found = self._loss(batch, total=self._team.add_up)
        self._optimizer.zero_grad(set_to_none=True)
        found.total.backward()  # type: ignore[no-untyped-call]
        self._team.add_gradients(self._parameters)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.clip_norm)
        loss, *parts = self._team.add_up([float(found.total.detach()), *found.parts.values()])
        self.losses.append(loss)
        self._check(finite=math.isfinite(float(norm)))
        self._optimizer.step()
        self._average.add(number)
        if self._to_validate and (
            number % self._settings.validation_interval == 0 or number == self._settings.steps
        ):
            self._validate(number)
        return TrainStep(
            step=number,
            steps=self._settings.steps,
            loss=loss,
            parts=dict(zip(found.parts, parts, strict=True)),
            learning_rate=rate,
        )

    def finish(self) -> None:
        """Leave the outcome in the graph: the best average by validation, else the last."""
        assign(self._parameters, self._average.values if self._best is None else self._best)

    def snapshot(self) -> Snapshot:
        """Everything that the steps to come depend on."""
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        state = self._optimizer.state_dict()["state"]
        for index, parameter in enumerate(self._parameters):
            arrays[f"weight.{index}"] = _array(parameter)
            arrays[f"average.{index}"] = _array(self._average.values[index])
            if self._best is not None:
                arrays[f"best.{index}"] = _array(self._best[index])
            # A weight that the loss does not depend on has no gradient, and no state.
            known = state.get(index, {})
            arrays |= {f"{key}.{index}": _array(value) for key, value in known.items()}
        facts = {
            "batches": self.batches.state(),
            "losses": self.losses,
            "validation": self.validation,
        }
        return Snapshot(run=self._identity, step=self.done, facts=facts, arrays=arrays)

    @property
    def identity(self) -> str:
        """Digest of everything that decides the run."""
        return self._identity

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot of this very run."""
        arrays, facts = snapshot.arrays, snapshot.facts
        state: dict[int, dict[str, Tensor]] = {}
        for index, parameter in enumerate(self._parameters):
            if f"step.{index}" in arrays:
                state[index] = {
                    "step": torch.tensor(float(arrays[f"step.{index}"].item())),
                    "exp_avg": self._tensor(arrays, "exp_avg", index),
                    "exp_avg_sq": self._tensor(arrays, "exp_avg_sq", index),
                }
            assign([parameter], [self._tensor(arrays, "weight", index)])
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})
        everything = range(len(self._parameters))
        self._average.load([self._tensor(arrays, "average", i) for i in everything])
        if "best.0" in arrays:
            self._best = [self._tensor(arrays, "best", i) for i in everything]
        self.batches.restore(facts["batches"])
        self.losses = [float(loss) for loss in facts["losses"]]
        self.validation = [(int(step), float(loss)) for step, loss in facts["validation"]]

    def _tensor(self, arrays: dict[str, np.ndarray[Any, Any]], kind: str, index: int) -> Tensor:
        return torch.from_numpy(arrays[f"{kind}.{index}"].copy()).to(self._device)

    def _loss(self, batch: Batch[Row], *, total: Total = list) -> Loss:
        objective, rows = self._objective, batch.rows
        inputs = torch.from_numpy(objective.inputs(rows)).to(self._device)
        outputs = self._outputs(self._graph, inputs)
        if self._frozen is None:
            return objective.loss(outputs, rows, earlier=batch.earlier, total=total)
        weight = self._settings.distillation_weight
        earlier = torch.tensor(batch.earlier or (False,) * len(rows), device=self._device)
        # What is held to the outputs of before is not learnt from its labels, and the other way.
        kept = earlier & (weight > 0)
        asked = torch.ones_like(kept) if objective.compares else kept
        before = {name: torch.zeros_like(value) for name, value in outputs.items()}
        if asked.any():
            with torch.no_grad():
                was = self._outputs(self._frozen, inputs[asked])
            for name, value in was.items():
                before[name][asked] = value
        learnt = (~kept).tolist()
        found = objective.loss(
            _pick(outputs, ~kept),
            [row for row, mine in zip(rows, learnt, strict=True) if mine],
            before=_pick(before, ~kept) if objective.compares else None,
            earlier=earlier[~kept].tolist(),
            total=total,
        )
        if not weight:
            return found
        held = objective.distillation(_pick(outputs, kept), _pick(before, kept), total=total)
        return replace(found, total=found.total + weight * held)

    def _outputs(self, graph: TorchGraph, inputs: Tensor) -> Outputs:
        # On the CPU bfloat16 is slower where it is not emulated, and exact nowhere.
        mixed = self._settings.precision == "bfloat16" and self._device.type == "cuda"
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=mixed):
            outputs = self._objective.outputs(graph, inputs)
        return {name: value.float() for name, value in outputs.items()}

    def _validate(self, number: int) -> None:
        total = rows = 0.0
        batches = plain_batches(
            self._to_validate, objective=self._objective, size=self._settings.batch
        )
        with self._average.applied(), torch.no_grad():
            for batch in islice(batches, self._team.rank, None, self._team.size):
                total += float(self._loss(Batch(rows=batch)).total) * len(batch)
                rows += len(batch)
        total, rows = self._team.add_up([total, rows])
        if not rows:
            return
        loss = total / rows
        if not math.isfinite(loss):
            raise self._diverged(loss)
        self.validation.append((number, loss))
        if self.best_step == number:
            self._best = [value.clone() for value in self._average.values]

    def _check(self, *, finite: bool) -> None:
        recent = self.losses[-_START:]
        level = sum(recent) / len(recent)
        limit = self._settings.diverged_at * self._start
        grown = len(self.losses) >= 2 * _START and level > limit
        if not finite or not math.isfinite(self.losses[-1]) or grown:
            raise self._diverged(self.losses[-1])

    @property
    def _start(self) -> float:
        begin = [loss for loss in self.losses[:_START] if math.isfinite(loss)]
        return sum(begin) / len(begin) if begin else math.nan

    def _diverged(self, loss: float) -> TrainingDivergedError:
        return TrainingDivergedError(
            step=self.done, loss=loss, start=self._start, learning_rate=self._peak
        )


def frozen_copy(graph: TorchGraph) -> TorchGraph:
    """A copy of the graph that does not change with it."""
    frozen = copy.deepcopy(graph)
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    return frozen


def rate_at(step: int, settings: FinetuneSettings) -> float:
    """Part of the peak learning rate at a step (from 1): linear rise, then a cosine."""
    rise = settings.warmup * settings.steps
    if step <= rise:
        return step / rise
    done = (step - rise) / max(1.0, settings.steps - rise)
    return settings.final + (1 - settings.final) * (1 + math.cos(math.pi * done)) / 2


def _pick(outputs: Outputs, chosen: Tensor) -> Outputs:
    return {name: value[chosen] for name, value in outputs.items()}


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    # A copy: the run goes on and writes into what it has.
    return np.array(tensor.detach().cpu().numpy())


def _identity(
    graph: TorchGraph,
    objective: Objective[Item, Any],
    settings: FinetuneSettings,
    team: Team,
    groups: Sequence[Sequence[Item]],
) -> str:
    """SHA-256 of what decides a run's outcome."""
    decisive = settings.model_dump_json(include=set(FinetuneSettings.model_fields))
    digest = hashlib.sha256(decisive.encode())
    where = f"{team.device.type} x {team.size}"
    digest.update(f"{graph.scope} {where} torch {torch.__version__}\n".encode())
    for name, value in sorted(graph.initial_tensors().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value).data)
    for items in groups:
        digest.update(f"\n{len(items)}".encode())
        for item in items:
            digest.update(objective.digest(item))
    return digest.hexdigest()
