"""Which messages were handled already."""

from __future__ import annotations

__all__ = ["SeenIds"]


class SeenIds:
    """The last `limit` ids, oldest forgotten first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._ids: dict[tuple[str, str], None] = {}

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, key: tuple[str, str]) -> None:
        """Remember an id; one that is known becomes the youngest."""
        self._ids.pop(key, None)
        self._ids[key] = None
        if len(self._ids) > self._limit:
            del self._ids[next(iter(self._ids))]
