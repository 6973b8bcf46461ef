"""Subscription identifiers: which filters a message was sent for (MQTT 5.0 §3.8.2.1.2)."""

from __future__ import annotations

import zlib

__all__ = ["Identifiers"]

_LARGEST = 0x0FFFFFFF
_CACHED = 4096


class Identifiers:
    """Numbers for filters, and the way back from the numbers in a message."""

    def __init__(self) -> None:
        self._filters: dict[int, str] = {}
        self._known: dict[tuple[int, ...], tuple[str, ...]] = {(): ()}

    def number(self, topic_filter: str) -> int | None:
        """The number of a filter; None where another filter has it already.

        It is made from the filter, so that copies queued for an earlier process mean the same.
        """
        number = zlib.crc32(topic_filter.encode()) & _LARGEST or 1
        if self._filters.setdefault(number, topic_filter) != topic_filter:
            return None
        self._known = {(): ()}
        return number

    def filters(self, numbers: tuple[int, ...]) -> tuple[str, ...]:
        """The filters behind a message's numbers; those of an earlier process are left out."""
        found = self._known.get(numbers)
        if found is None:
            if len(self._known) >= _CACHED:
                self._known.clear()
            found = tuple(self._filters[number] for number in numbers if number in self._filters)
            self._known[numbers] = found
        return found
