"""Join of an input, its prediction and its ground truth, which arrive in any order."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from cachetools import LRUCache

from edgebus.contracts import record_of
from edgebus.mining import AboutInput, Example, Predicted


@dataclass(slots=True)
class _Parts:
    input: Any = None
    size: int = 0
    prediction: Predicted | None = None
    truth: AboutInput | None = None

    def example(self) -> Example[Any, Any, Any] | None:
        """The example so far, if it is enough to be judged."""
        if self.input is None or self.prediction is None:
            return None
        return Example(input=self.input, prediction=self.prediction, truth=self.truth)


@dataclass(slots=True)
class _Stream:
    """The inputs of one stream that are not complete yet, oldest first, by id."""

    pending: OrderedDict[str, _Parts] = field(default_factory=OrderedDict)
    size: int = 0
    has_truth: bool = False


class _Streams(LRUCache[str, _Stream]):
    """The last streams that sent anything; counts what is lost with the others."""

    expired = 0

    def popitem(self) -> tuple[str, _Stream]:
        """Forget the stream that was silent longest."""
        name, silent = super().popitem()
        self.expired += sum(parts.input is not None for parts in silent.pending.values())
        return name, silent


class Joiner:
    """The last inputs of each stream, until their predictions are there.

    Inputs travel at QoS 0 and not every one is predicted, so most parts never find their
    partners: each stream's buffer is bounded in inputs and bytes, the oldest goes first. A stream
    whose truth was ever known is waited for; when an input is pushed out while only its truth is
    missing, it is handed out without. Of more than 256 streams, far more than a node has, the one
    that was silent longest is forgotten.

    Args:
        inputs: The most inputs per stream.
        size: The most bytes of inputs per stream.
    """

    def __init__(self, *, inputs: int, size: int) -> None:
        self._max_inputs = inputs
        self._max_size = size
        self._streams = _Streams(256)

    @property
    def streams(self) -> tuple[str, ...]:
        """Streams that sent anything."""
        return tuple(sorted(self._streams))

    @property
    def pending(self) -> int:
        """Inputs that wait for a part."""
        return sum(len(stream.pending) for stream in self._streams.values())

    @property
    def expired(self) -> int:
        """Inputs that were pushed out before their predictions came."""
        return self._streams.expired

    def add_input(self, payload: Any) -> list[Example[Any, Any, Any]]:
        """Take an input; the examples that are complete now."""
        about: AboutInput = record_of(payload)
        stream, parts = self._parts(about)
        if parts.input is None:
            parts.size = len(payload.encode())
            stream.size += parts.size
        parts.input = payload
        return self._complete(stream, about.input)

    def add_prediction(self, prediction: Predicted) -> list[Example[Any, Any, Any]]:
        """Take a prediction; the examples that are complete now."""
        stream, parts = self._parts(prediction)
        parts.prediction = prediction
        return self._complete(stream, prediction.input)

    def add_truth(self, truth: AboutInput) -> list[Example[Any, Any, Any]]:
        """Take ground truth; the examples that are complete now."""
        stream, parts = self._parts(truth)
        stream.has_truth = True
        parts.truth = truth
        return self._complete(stream, truth.input)

    def _parts(self, about: AboutInput) -> tuple[_Stream, _Parts]:
        stream = self._streams.setdefault(about.stream, _Stream())
        return stream, stream.pending.setdefault(about.input, _Parts())

    def _complete(self, stream: _Stream, identifier: str) -> list[Example[Any, Any, Any]]:
        done: list[Example[Any, Any, Any]] = []
        complete = stream.pending[identifier].example()
        if complete is not None and (complete.truth is not None or not stream.has_truth):
            self._remove(stream, identifier)
            done.append(complete)
        while len(stream.pending) > self._max_inputs or stream.size > self._max_size:
            parts = self._remove(stream, next(iter(stream.pending)))
            complete = parts.example()
            if complete is not None:
                done.append(complete)
            elif parts.input is not None:
                self._streams.expired += 1
        return done

    @staticmethod
    def _remove(stream: _Stream, identifier: str) -> _Parts:
        parts = stream.pending.pop(identifier)
        stream.size -= parts.size
        return parts
