"""A training run as a thing with a state: it takes steps, and can be kept and taken up again."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgebus.training.graph import TorchGraph
from edgebus_retrainer.training._average import WeightAverage, assign
from edgebus_retrainer.training._batches import Batch, Batches, plain_batches
from edgebus_retrainer.training._checkpoint import Snapshot
from edgebus_retrainer.training._errors import HeadMismatchError, TrainingDivergedError
from edgebus_retrainer.training._head import YoloxHead
from edgebus_retrainer.training._images import LabelledImage, Prepare
from edgebus_retrainer.training._loss import LossParts, targets_of, yolox_loss
from edgebus_retrainer.training._memory import frozen_copy, memory_loss, other_classes
from edgebus_retrainer.training._settings import LEARNING_RATES, FinetuneSettings, rate_at
from edgebus_retrainer.training._team import Team

__all__ = ["Run", "Step"]

_START = 10  # steps whose mean loss is the level that divergence is measured against


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


class Run:
    """AdamW without weight decay, warm-up and cosine, a moving average of the weights.

    Batch norm is folded into the graph: weights carry the scale of the features and must not decay.

    Args:
        graph: What is trained; changed in place.
        head: Shape and meaning of its output.
        prepare: Makes the model's input of a picture.
        new: Pictures of the domain to learn.
        replay: Pictures of what the model knew before.
        validation: Pictures that say when to stop.
        settings: How to train.
        team: The processes that take the steps together, and where this one computes.
    """

    def __init__(
        self,
        graph: TorchGraph,
        *,
        head: YoloxHead,
        prepare: Prepare,
        new: Sequence[LabelledImage],
        replay: Sequence[LabelledImage],
        validation: Sequence[LabelledImage],
        settings: FinetuneSettings,
        team: Team,
    ) -> None:
        self.losses: list[float] = []
        self.validation: list[tuple[int, float]] = []
        self.batches = Batches(
            new=new,
            replay=replay,
            size=settings.batch,
            replay_share=settings.replay_share,
            prepare=prepare,
            augmentation=settings.augment,
            seed=settings.seed,
            balance=settings.balance,
        )
        self._team = team
        self._graph = graph.to(team.device)
        self._head = head
        self._prepare = prepare
        self._to_validate = tuple(validation)
        self._settings = settings
        self._device = team.device
        self._peak = settings.learning_rate or LEARNING_RATES[graph.scope]
        self._anchors = head.anchors(team.device)
        self._parameters = list(graph.parameters())
        self._optimizer = torch.optim.AdamW(self._parameters, lr=self._peak, weight_decay=0.0)
        self._average = WeightAverage(self._parameters, horizon=settings.average * settings.steps)
        remembers = settings.remember > 0 or settings.classes is not None
        self._frozen = frozen_copy(self._graph) if remembers else None
        self._best: list[Tensor] | None = None
        self._identity = _identity(graph, settings, team, (new, replay, validation))

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
        """Whether the validation loss has not fallen for too long."""
        patience, best = self._settings.patience, self.best_step
        if patience is None or best is None:
            return False
        return sum(step > best for step, _ in self.validation) >= patience

    def step(self) -> Step:
        """Take a step.

        Raises:
            NothingToTrainOnError, HeadMismatchError, TrainingDivergedError: See `finetune`.
        """
        number = self.done + 1
        rate = self._peak * rate_at(number, self._settings)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        parts = self._loss(self._team.share(self.batches.next()), together=self._team)
        self._optimizer.zero_grad(set_to_none=True)
        parts.total.backward()  # type: ignore[no-untyped-call]
        self._team.add_gradients(self._parameters)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.clip_norm)
        parts_here = (parts.total.detach(), parts.box, parts.objectness, parts.classes)
        loss, box, objectness, classes, matched = self._team.add_up(
            [*(float(part) for part in parts_here), parts.matched]
        )
        self.losses.append(loss)
        self._check(finite=math.isfinite(float(norm)))
        self._optimizer.step()
        self._average.add(number)
        if self._to_validate and (
            number % self._settings.validation_interval == 0 or number == self._settings.steps
        ):
            self._validate(number)
        return Step(
            step=number,
            steps=self._settings.steps,
            loss=loss,
            box=box,
            objectness=objectness,
            classes=classes,
            matched=round(matched),
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

    def _loss(self, batch: Batch, *, together: Team | None = None) -> LossParts:
        inputs = torch.from_numpy(batch.inputs).to(self._device)
        # On the CPU bfloat16 is slower where it is not emulated, and exact nowhere.
        mixed = self._settings.precision == "bfloat16" and self._device.type == "cuda"
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=mixed):
            raw = _raw(self._graph, self._head, inputs).float()
        targets = targets_of(batch, self._device)
        add_up = None if together is None or together.size == 1 else together.add_up
        if self._frozen is None:
            return yolox_loss(raw, targets, self._anchors, add_up=add_up)
        earlier = torch.tensor(batch.earlier or (False,) * len(targets), device=self._device)
        weight, classes = self._settings.remember, self._settings.classes
        # What the graph shall remember it does not learn, and the other way round.
        kept = earlier & (weight > 0)
        asked = kept if classes is None else torch.ones_like(kept)
        was = torch.zeros_like(raw)
        if asked.any():
            with (
                torch.no_grad(),
                torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=mixed),
            ):
                was[asked] = _raw(self._frozen, self._head, inputs[asked]).float()
        unjudged = None
        if classes is not None:
            # Earlier pictures are labelled with all classes.
            unjudged = (other_classes(was, classes) & ~earlier[:, None])[~kept]
        parts = yolox_loss(
            raw[~kept],
            [target for target, keep in zip(targets, kept.tolist(), strict=True) if not keep],
            self._anchors,
            unjudged=unjudged,
            add_up=add_up,
        )
        if not weight:
            return parts
        held = memory_loss(raw[kept], was[kept], add_up=add_up)
        return replace(parts, total=parts.total + weight * held)

    def _validate(self, number: int) -> None:
        total = pictures = 0.0
        batches = plain_batches(self._to_validate, size=self._settings.batch, prepare=self._prepare)
        with self._average.applied(), torch.no_grad():
            for batch in islice(batches, self._team.rank, None, self._team.size):
                total += float(self._loss(batch).total) * len(batch.boxes)
                pictures += len(batch.boxes)
        total, pictures = self._team.add_up([total, pictures])
        if not pictures:
            return
        loss = total / pictures
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


def _raw(graph: TorchGraph, head: YoloxHead, inputs: Tensor) -> Tensor:
    name = head.output or graph.output_names[0]
    raw: Tensor = graph(inputs, logits=True)[name]
    wanted = (len(inputs), head.predictions, 5 + head.classes)
    if raw.shape != wanted:
        raise HeadMismatchError(output=name, found=tuple(raw.shape), wanted=wanted)
    return raw


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    # A copy: the run goes on and writes into what it has.
    return np.array(tensor.detach().cpu().numpy())


def _identity(
    graph: TorchGraph,
    settings: FinetuneSettings,
    team: Team,
    groups: Sequence[Sequence[LabelledImage]],
) -> str:
    """SHA-256 of what decides a run's outcome."""
    digest = hashlib.sha256(settings.model_dump_json().encode())
    where = f"{team.device.type} x {team.size}"
    digest.update(f"{graph.scope} {where} torch {torch.__version__}\n".encode())
    for name, value in sorted(graph.initial_tensors().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value).data)
    for images in groups:
        digest.update(f"\n{len(images)}".encode())
        for image in images:
            digest.update(json.dumps(image.name).encode())
            for values in (image.boxes, image.labels, image.ignore):
                digest.update(str(values.shape).encode())
                digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
