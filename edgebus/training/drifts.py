"""Which cameras have drifted, as their collectors say."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from edgebus.contracts import Drift, ModelRef
from edgebus.samples import stream_id
from edgebus_detection.messages import SampleRecord

__all__ = ["Drifts"]

_MOST = 4096  # cameras and statistics


class Drifts:
    """What was told of drifts and not taken back. No clock, no bus; forgotten with the process.

    Args:
        by: `best`: a camera's `confidence` counts only where its collector does not watch `novelty`
            too; `any`: each statistic counts.
    """

    def __init__(self, *, by: Literal["best", "any"]) -> None:
        self._by = by
        self._told: OrderedDict[tuple[str, str], ModelRef] = OrderedDict()
        self._watched: OrderedDict[str, None] = OrderedDict()

    def hear(self, drift: Drift) -> bool:
        """A collector speaks; whether this is news that counts."""
        place = stream_id(drift.source, drift.stream)
        if drift.statistic == "novelty":
            self._note(place)
        where = place, drift.statistic
        if drift.returned:
            self._told.pop(where, None)
            return False
        new = where not in self._told and self._counts(*where)
        self._told[where] = drift.model
        while len(self._told) > _MOST:
            self._told.popitem(last=False)
        return new

    def look_at(self, record: SampleRecord) -> None:
        """A sample tells which statistics its camera's collector watches."""
        if record.drift is not None and "novelty" in record.drift.means:
            self._note(stream_id(record.source, record.stream))

    def any(self, serving: ModelRef, *, place: str = "") -> bool:
        """Whether a camera has drifted since the model serves.

        Args:
            serving: The model; what earlier versions could not see is over.
            place: Of the only camera that matters; empty: any that the model answers.
        """
        return any(
            told.name == serving.name and told.version >= serving.version
            for (where, statistic), told in self._told.items()
            if place in ("", where) and self._counts(where, statistic)
        )

    def _counts(self, place: str, statistic: str) -> bool:
        return self._by == "any" or statistic != "confidence" or place not in self._watched

    def _note(self, place: str) -> None:
        self._watched[place] = None
        self._watched.move_to_end(place)
        while len(self._watched) > _MOST:
            self._watched.popitem(last=False)
