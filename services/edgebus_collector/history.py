"""History of the last inputs that have a prediction, for later feedback."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from edgebus.contracts import Verdict
from edgebus.mining import Example

_MAX_VERDICTS = 16

Cause = Literal["unknown", "late", "invalid", "repeated"]


class FeedbackRefusedError(Exception):
    """A person's feedback leads nowhere.

    Attributes:
        cause: unknown: no such stream; late: its input is gone; invalid: it speaks of what is not
            there; repeated: it was reported before.
        reason: In words.
    """

    def __init__(self, *, cause: Cause, reason: str) -> None:
        super().__init__(reason)
        self.cause: Cause = cause
        self.reason = reason


@dataclass(slots=True)
class Seen:
    """An input and the verdicts on its prediction so far."""

    example: Example[Any, Any, Any]
    size: int
    verdicts: tuple[Verdict, ...] = ()

    def add(self, verdict: Verdict) -> bool:
        """Take another verdict; whether it is news (the same words of the same person are not)."""
        same = {"time": verdict.time}
        if len(self.verdicts) >= _MAX_VERDICTS or any(
            known.model_copy(update=same) == verdict for known in self.verdicts
        ):
            return False
        self.verdicts = (*self.verdicts, verdict)
        return True


class History:
    """The last examples of all streams in memory; the oldest goes first.

    Args:
        inputs: The most inputs per stream.
        size: The most bytes of inputs, of all streams together.
    """

    def __init__(self, *, inputs: int, size: int) -> None:
        self._max_inputs = inputs
        self._max_size = size
        self._seen: OrderedDict[str, Seen] = OrderedDict()
        self._streams: dict[str, OrderedDict[str, None]] = {}
        self._size = 0

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, example: Example[Any, Any, Any]) -> None:
        """Remember an example; one that is there already takes its new form."""
        identifier = example.prediction.input
        known = self._seen.get(identifier)
        if known is not None:
            known.example = example
            return
        seen = self._seen[identifier] = Seen(example, len(example.input.encode()))
        self._size += seen.size
        own = self._streams.setdefault(example.stream, OrderedDict())
        own[identifier] = None
        if len(own) > self._max_inputs:
            self._forget(next(iter(own)))
        while self._size > self._max_size:
            self._forget(next(iter(self._seen)))

    def find(self, stream: str, identifier: str | None) -> Seen | None:
        """An input of a stream by its id, or the stream's newest; None where it is gone."""
        own = self._streams.get(stream)
        if not own:
            return None
        wanted = next(reversed(own)) if identifier is None else identifier
        return self._seen[wanted] if wanted in own else None

    def _forget(self, identifier: str) -> None:
        gone = self._seen.pop(identifier)
        self._size -= gone.size
        own = self._streams[gone.example.stream]
        del own[identifier]
        if not own:
            del self._streams[gone.example.stream]


def resolve(
    feedback: Any,
    history: History,
    verdict: Callable[[Any, Example[Any, Any, Any]], Verdict],
) -> Seen:
    """Find the input that a feedback means, and add the verdict to it.

    Args:
        feedback: A message of the workload's topic `feedback`.
        history: The inputs that are still known.
        verdict: The workload's check of a feedback against an example.

    Raises:
        FeedbackRefusedError: There is none, or the verdict does not fit it.
    """
    seen = history.find(feedback.stream, feedback.input)
    if seen is None:
        what = f"input {feedback.input}" if feedback.input else "any input"
        reason = (
            f"{what} of {feedback.stream} is not in memory (any more); the last {len(history)} "
            "that have a prediction are: raise buffer.history_inputs and history_bytes"
        )
        raise FeedbackRefusedError(cause="late" if feedback.input else "unknown", reason=reason)
    try:
        checked = verdict(feedback, seen.example)
    except ValueError as error:
        raise FeedbackRefusedError(cause="invalid", reason=str(error)) from error
    if not seen.add(checked):
        raise FeedbackRefusedError(cause="repeated", reason="it was reported before")
    return seen
