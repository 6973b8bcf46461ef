"""Batches that mix new pictures with earlier ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgebus_retrainer.training._augment import AugmentSettings, Example, augment
from edgebus_retrainer.training._errors import NothingToTrainOnError, UnreadableImageError
from edgebus_retrainer.training._images import Boxes, LabelledImage, Labels, Prepare

__all__ = ["Batch", "Batches", "plain_batches", "repeat_factors"]

Row: TypeAlias = tuple[npt.NDArray[np.float32], Boxes, Labels, Boxes]
"""One picture of a batch: input [1, C, H, W], boxes, labels, regions to ignore."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures as the model takes them.

    Attributes:
        inputs: float32 [B, C, H, W].
        boxes: Per picture, in pixels of the input.
        labels: Per picture.
        ignore: Per picture, in pixels of the input.
        earlier: Whether each picture is of earlier data; empty: none is.
    """

    inputs: npt.NDArray[np.float32]
    boxes: tuple[Boxes, ...]
    labels: tuple[Labels, ...]
    ignore: tuple[Boxes, ...]
    earlier: tuple[bool, ...] = ()


class _Pool:
    """Draws pictures in random order, each once before any comes again.

    With `balance`, pictures of rare classes come several times in each round: a picture's repeat
    factor is the largest max(1, sqrt(balance / f)) of its classes, where f is the part of the
    pictures that show the class (LVIS, arXiv:1908.03195, section 5.1); its fraction is drawn anew
    in each round.
    """

    def __init__(
        self, images: Sequence[LabelledImage], rng: np.random.Generator, *, balance: float
    ) -> None:
        self._images = tuple(images)
        self._rng = rng
        self._balance = balance
        self._factors = repeat_factors(self._images, balance)
        self._alive = list(range(len(self._images)))
        self._order: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._alive)

    def draw(self) -> tuple[int, LabelledImage]:
        if not self._order:
            self._order = self._round()
        number = self._order.pop()
        return number, self._images[number]

    def drop(self, number: int) -> None:
        self._alive = [other for other in self._alive if other != number]
        self._order = [other for other in self._order if other != number]

    def state(self) -> dict[str, list[int]]:
        return {"alive": self._alive, "order": self._order}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._alive = [int(number) for number in state["alive"]]
        self._order = [int(number) for number in state["order"]]

    def _round(self) -> list[int]:
        alive = np.array(self._alive)
        if self._balance > 0:
            factors = self._factors[alive]
            whole = np.floor(factors)
            more = self._rng.random(len(alive)) < factors - whole
            alive = np.repeat(alive, (whole + more).astype(np.int64))
        return [int(alive[i]) for i in self._rng.permutation(len(alive))]


def repeat_factors(images: Sequence[LabelledImage], balance: float) -> npt.NDArray[np.float64]:
    """How often each picture is drawn per round, at least once; float64 [n]."""
    shown = [np.unique(image.labels) for image in images]
    counts = Counter(int(label) for labels in shown for label in labels)
    factor = {
        label: max(1.0, (balance * len(images) / count) ** 0.5) for label, count in counts.items()
    }
    return np.array([max((factor[int(k)] for k in labels), default=1.0) for labels in shown])


class Batches:
    """An endless, seeded source of batches.

    A picture that cannot be decoded is left out and named in `unreadable`: one broken file does not
    cost the run.
    """

    def __init__(
        self,
        *,
        new: Sequence[LabelledImage],
        replay: Sequence[LabelledImage],
        size: int,
        replay_share: float,
        prepare: Prepare,
        augmentation: AugmentSettings,
        seed: int,
        balance: float = 0.0,
    ) -> None:
        """Set up the source.

        Args:
            new: Pictures of the domain to learn.
            replay: Pictures of what the model knew before.
            size: Pictures per batch.
            replay_share: Part of each batch that comes from `replay`, when there are both.
            prepare: Makes the model's input.
            augmentation: How far pictures are changed.
            seed: Where chance starts.
            balance: Pictures of classes on less than this part of a pool come more often.
        """
        self._rng = np.random.default_rng(seed)
        self._new = _Pool(new, self._rng, balance=balance)
        self._replay = _Pool(replay, self._rng, balance=balance)
        self._size = size
        self._share = replay_share
        self._prepare = prepare
        self._augmentation = augmentation
        self._owed = 0.0
        self.unreadable: list[str] = []

    def next(self) -> Batch:
        """The next batch.

        Raises:
            NothingToTrainOnError: No readable picture is left.
        """
        drawn = [self._example() for _ in range(self._size)]
        batch = _batch([row for row, _ in drawn])
        return replace(batch, earlier=tuple(earlier for _, earlier in drawn))

    def state(self) -> dict[str, Any]:
        """Where the source is, as JSON can hold it: what `restore` takes."""
        return {
            "rng": self._rng.bit_generator.state,
            "new": self._new.state(),
            "replay": self._replay.state(),
            "owed": self._owed,
            "unreadable": self.unreadable,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where another source of the same pictures and settings was."""
        self._rng.bit_generator.state = state["rng"]
        self._new.restore(state["new"])
        self._replay.restore(state["replay"])
        self._owed = float(state["owed"])
        self.unreadable = [str(name) for name in state["unreadable"]]

    def _pool(self) -> _Pool:
        if not self._new and not self._replay:
            raise NothingToTrainOnError(unreadable=tuple(self.unreadable))
        if not self._replay:
            return self._new
        if not self._new:
            return self._replay
        # An exact share over time, also where share times size is no whole number.
        self._owed += self._share
        if self._owed >= 1.0 - 1e-9:
            self._owed -= 1.0
            return self._replay
        return self._new

    def _example(self) -> tuple[Row, bool]:
        while True:
            pool = self._pool()
            number, labelled = pool.draw()
            try:
                image = labelled.load()
            except (UnreadableImageError, OSError):
                pool.drop(number)
                self.unreadable.append(labelled.name)
                continue
            example = Example(image, labelled.boxes, labelled.labels, labelled.ignore)
            row = _row(augment(example, self._augmentation, self._rng), self._prepare)
            return row, pool is self._replay


def plain_batches(
    images: Sequence[LabelledImage], *, size: int, prepare: Prepare
) -> Iterator[Batch]:
    """Pictures once, in order and unchanged; what cannot be decoded is left out."""
    rows: list[Row] = []
    for labelled in images:
        try:
            image = labelled.load()
        except (UnreadableImageError, OSError):
            continue
        rows.append(_row(Example(image, labelled.boxes, labelled.labels, labelled.ignore), prepare))
        if len(rows) == size:
            yield _batch(rows)
            rows = []
    if rows:
        yield _batch(rows)


def _row(example: Example, prepare: Prepare) -> Row:
    tensor, place = prepare(example.image)
    row = np.asarray(tensor, np.float32).reshape(1, *tensor.shape[-3:])
    return row, place.to_input(example.boxes), example.labels, place.to_input(example.ignore)


def _batch(rows: Sequence[Row]) -> Batch:
    return Batch(
        inputs=np.concatenate([row[0] for row in rows]),
        boxes=tuple(row[1] for row in rows),
        labels=tuple(row[2] for row in rows),
        ignore=tuple(row[3] for row in rows),
    )
