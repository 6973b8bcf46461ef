"""Batches that mix new items with earlier ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
import numpy.typing as npt

from edgebus.training.finetune._errors import NothingToTrainOnError, UnreadableItemError
from edgebus.training.finetune._objective import Item, Objective, Row


@dataclass(frozen=True, slots=True)
class Batch(Generic[Row]):
    """Rows that are learnt from together.

    Attributes:
        rows: The rows.
        earlier: Whether each is of earlier data; empty: none is.
    """

    rows: tuple[Row, ...]
    earlier: tuple[bool, ...] = ()


class _Pool(Generic[Item]):
    """Draws items in random order, each once before any comes again.

    With `balance`, items of rare labels come several times in each round: an item's repeat
    factor is the largest max(1, sqrt(balance / f)) of its labels, where f is the part of the
    items that have the label (LVIS, arXiv:1908.03195, section 5.1); its fraction is drawn anew
    in each round.
    """

    def __init__(
        self,
        items: Sequence[Item],
        rng: np.random.Generator,
        *,
        objective: Objective[Item, Any],
        balance: float,
    ) -> None:
        self._items = tuple(items)
        self._rng = rng
        self._factors = (
            repeat_factors([tuple(objective.labels(item)) for item in items], balance)
            if balance > 0
            else None
        )
        self._alive = list(range(len(self._items)))
        self._order: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._alive)

    def draw(self) -> tuple[int, Item]:
        if not self._order:
            self._order = self._round()
        number = self._order.pop()
        return number, self._items[number]

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
        if self._factors is not None:
            factors = self._factors[alive]
            whole = np.floor(factors)
            more = self._rng.random(len(alive)) < factors - whole
            alive = np.repeat(alive, (whole + more).astype(np.int64))
        return [int(alive[i]) for i in self._rng.permutation(len(alive))]


def repeat_factors(labels: Sequence[Sequence[int]], balance: float) -> npt.NDArray[np.float64]:
    """Draws of each item per round, at least one; float64 [n].

    Args:
        labels: The labels of each item.
        balance: Labels on less than this part of the items are rare.
    """
    counts = Counter(label for each in labels for label in set(each))
    factor = {
        label: max(1.0, (balance * len(labels) / count) ** 0.5) for label, count in counts.items()
    }
    return np.array([max((factor[label] for label in each), default=1.0) for each in labels])


class Batches(Generic[Item, Row]):
    """An endless, seeded source of batches.

    An item that cannot be read is left out and named in `unreadable`: one broken file does not
    cost the run.

    Args:
        new: Items of the domain to learn.
        replay: Items of what the model knew before.
        objective: Loads items.
        size: Items per batch.
        replay_share: Part of each batch that comes from `replay`, when there are both.
        seed: Seed of order and augmentation.
        balance: Items with labels on less than this part of a pool come more often.
    """

    def __init__(
        self,
        *,
        new: Sequence[Item],
        replay: Sequence[Item],
        objective: Objective[Item, Row],
        size: int,
        replay_share: float,
        seed: int,
        balance: float = 0.0,
    ) -> None:
        self._rng = np.random.default_rng(seed)
        self._objective = objective
        self._new = _Pool(new, self._rng, objective=objective, balance=balance)
        self._replay = _Pool(replay, self._rng, objective=objective, balance=balance)
        self._size = size
        self._share = replay_share
        self._owed = 0.0
        self.unreadable: list[str] = []

    def next(self) -> Batch[Row]:
        """The next batch.

        Raises:
            NothingToTrainOnError: No readable item is left.
        """
        rows, earlier = zip(*(self._draw() for _ in range(self._size)), strict=True)
        return Batch(rows=rows, earlier=earlier)

    def state(self) -> dict[str, Any]:
        """The state of the source, as JSON can hold it: what `restore` takes."""
        return {
            "rng": self._rng.bit_generator.state,
            "new": self._new.state(),
            "replay": self._replay.state(),
            "owed": self._owed,
            "unreadable": self.unreadable,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where another source of the same items and settings was."""
        self._rng.bit_generator.state = state["rng"]
        self._new.restore(state["new"])
        self._replay.restore(state["replay"])
        self._owed = float(state["owed"])
        self.unreadable = [str(name) for name in state["unreadable"]]

    def _pool(self) -> _Pool[Item]:
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

    def _draw(self) -> tuple[Row, bool]:
        while True:
            pool = self._pool()
            number, item = pool.draw()
            try:
                return self._objective.load(item, self._rng), pool is self._replay
            except (UnreadableItemError, OSError):
                pool.drop(number)
                self.unreadable.append(self._objective.name(item))


def plain_batches(
    items: Sequence[Item], *, objective: Objective[Item, Row], size: int
) -> Iterator[tuple[Row, ...]]:
    """Items once, in order and unchanged; what cannot be read is left out."""
    rows: list[Row] = []
    for item in items:
        try:
            rows.append(objective.load(item, None))
        except (UnreadableItemError, OSError):
            continue
        if len(rows) == size:
            yield tuple(rows)
            rows = []
    if rows:
        yield tuple(rows)
