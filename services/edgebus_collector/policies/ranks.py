"""Ranks: how a score compares with the last ones of its kind."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict, deque
from dataclasses import dataclass, field

__all__ = ["Ranks"]

_MAX_KEYS = 1024


@dataclass(slots=True)
class _Window:
    recent: deque[float] = field(default_factory=deque)
    ordered: list[float] = field(default_factory=list)


class Ranks:
    """The rank of a score among the last ones of the same key, 0 to 1.

    Scores of two policies, and those of two cameras, do not compare; their ranks do. Of more than
    1024 keys, the one that was used longest ago is forgotten.

    Args:
        memory: So many scores of each key are remembered.
        least: With fewer, nothing is said.
    """

    def __init__(self, *, memory: int, least: int = 20) -> None:
        self._memory = memory
        self._least = min(least, memory)
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def rank(self, key: str, score: float) -> float | None:
        """Share of the remembered scores below this one, half of the equal ones included.

        The score is remembered afterwards. None while there is too little to compare with.
        """
        window = self._windows.setdefault(key, _Window())
        self._windows.move_to_end(key)
        if len(self._windows) > _MAX_KEYS:
            self._windows.popitem(last=False)
        ordered = window.ordered
        rank = None
        if len(ordered) >= self._least:
            below, up_to = bisect_left(ordered, score), bisect_right(ordered, score)
            rank = (below + up_to) / 2 / len(ordered)
        if len(window.recent) == self._memory:
            del ordered[bisect_left(ordered, window.recent.popleft())]
        window.recent.append(score)
        insort(ordered, score)
        return rank
