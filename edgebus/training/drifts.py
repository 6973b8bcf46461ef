"""Streams that have drifted, as their collectors report."""

from __future__ import annotations

from typing import Literal

from cachetools import LRUCache

from edgebus.contracts import Drift, ModelRef, SampleRecord
from edgebus.samples import stream_id

_MOST = 4096  # streams and statistics


class Drifts:
    """Reported drifts that have not returned. No clock, no bus; forgotten with the process.

    Args:
        by: `best`: a stream's `confidence` counts only where its collector does not watch `novelty`
            too; `any`: each statistic counts.
    """

    def __init__(self, *, by: Literal["best", "any"]) -> None:
        self._by = by
        self._drifted: LRUCache[tuple[str, str], ModelRef] = LRUCache(_MOST)
        self._watched: LRUCache[str, None] = LRUCache(_MOST)

    def observe(self, drift: Drift) -> bool:
        """Take in a report; true where it is new and counts."""
        stream = stream_id(drift.source, drift.stream)
        if drift.statistic == "novelty":
            self._watched[stream] = None
        key = stream, drift.statistic
        if drift.returned:
            self._drifted.pop(key, None)
            return False
        new = key not in self._drifted and self._counts(*key)
        self._drifted[key] = drift.model
        return new

    def observe_sample(self, record: SampleRecord) -> None:
        """Take in which statistics a sample's collector watches."""
        if record.drift is not None and "novelty" in record.drift.means:
            self._watched[stream_id(record.source, record.stream)] = None

    def any(self, serving: ModelRef, *, stream: str = "") -> bool:
        """Whether a stream has drifted since the model serves.

        Args:
            serving: The model; what earlier versions could not see is over.
            stream: The only stream that matters, ``node.stream``; empty: any that the model
                answers.
        """
        return any(
            model.name == serving.name and model.version >= serving.version
            for (where, statistic), model in list(self._drifted.items())
            if stream in ("", where) and self._counts(where, statistic)
        )

    def _counts(self, stream: str, statistic: str) -> bool:
        return self._by == "any" or statistic != "confidence" or stream not in self._watched
