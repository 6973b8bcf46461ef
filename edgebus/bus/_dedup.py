"""Which messages were handled already."""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["SeenIds"]


class SeenIds:
    """The last `limit` ids, oldest forgotten first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # A plain dict is slow to find its first key once many of its first keys are gone.
        self._ids: OrderedDict[tuple[str, str], None] = OrderedDict()

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, key: tuple[str, str]) -> None:
        """Remember an id; one that is known becomes the youngest."""
        ids = self._ids
        if key in ids:
            ids.move_to_end(key)
            return
        ids[key] = None
        if len(ids) > self._limit:
            ids.popitem(last=False)
