"""Traffic of the bus in figures per topic; nothing here touches a socket or a clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median

from edgebus.contracts.peek import sent_at
from edgebus.contracts.registry import topic_of

_SAMPLES = 1000
_OTHERS = "(other topics)"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficLine:
    """The figures of one topic pattern.

    Attributes:
        name: The contract's pattern, or a third party's concrete topic.
        messages: Messages since the start, retained ones included.
        rate: Messages per second, lately.
        bytes_per_s: Payload bytes per second, lately.
        size_p50: Median payload in bytes, of the last thousand.
        size_max: Largest payload in bytes.
        age_p50_ms: Median time from sent to received in milliseconds, of the last thousand; None
            where the messages do not say when they were sent.
        age_max_ms: Largest such time.
    """

    name: str
    messages: int
    rate: float
    bytes_per_s: float
    size_p50: float
    size_max: int
    age_p50_ms: float | None
    age_max_ms: float | None


@dataclass(slots=True)
class _Counts:
    messages: int = 0
    size_max: int = 0
    age_max_ms: float | None = None
    sizes: deque[int] = field(default_factory=lambda: deque(maxlen=_SAMPLES))
    ages: deque[float] = field(default_factory=lambda: deque(maxlen=_SAMPLES))
    # Second, messages and bytes; the youngest last.
    seconds: deque[list[int]] = field(default_factory=deque)


class Traffic:
    """Counts messages, in bounded memory whatever comes.

    Args:
        window_s: Rates are of the last so many seconds, or of the time since the start.
        topics: Third parties' topics that are counted one by one; the rest together.
    """

    def __init__(self, *, window_s: int = 10, topics: int = 500) -> None:
        self._window = window_s
        self._most = topics
        self._lines: dict[str, _Counts] = {}
        self._begun: float | None = None

    def start(self, now: float) -> None:
        """Begin to count.

        Args:
            now: A monotonic clock, in seconds; as everywhere here.
        """
        self._begun = now

    def add(
        self, topic: str, payload: bytes, *, now: float, received: float, retained: bool
    ) -> None:
        """Count a message.

        Args:
            topic: Concrete topic.
            payload: Its bytes.
            now: The monotonic clock.
            received: When it was received, seconds since 1970.
            retained: State from before: its age says nothing about the way here.
        """
        counts = self._of(topic)
        counts.messages += 1
        size = len(payload)
        counts.sizes.append(size)
        counts.size_max = max(counts.size_max, size)
        if retained:
            return
        second = int(now)
        if not counts.seconds or counts.seconds[-1][0] != second:
            counts.seconds.append([second, 0, 0])
            while counts.seconds[0][0] <= second - self._window:
                counts.seconds.popleft()
        counts.seconds[-1][1] += 1
        counts.seconds[-1][2] += size
        sent = sent_at(topic, payload)
        if sent is not None:
            age = (received - sent.timestamp()) * 1000
            counts.ages.append(age)
            counts.age_max_ms = max(age, age if counts.age_max_ms is None else counts.age_max_ms)

    def lines(self, now: float) -> list[TrafficLine]:
        """The figures, what takes most of the line first."""
        begun = now if self._begun is None else self._begun
        span = min(float(self._window), max(now - begun, 0.001))
        found = [self._line(name, counts, span, now) for name, counts in self._lines.items()]
        return sorted(found, key=lambda line: (-line.bytes_per_s, line.name))

    def _line(self, name: str, counts: _Counts, span: float, now: float) -> TrafficLine:
        recent = [part for part in counts.seconds if part[0] > now - self._window]
        return TrafficLine(
            name=name,
            messages=counts.messages,
            rate=sum(part[1] for part in recent) / span,
            bytes_per_s=sum(part[2] for part in recent) / span,
            size_p50=median(counts.sizes),
            size_max=counts.size_max,
            age_p50_ms=median(counts.ages) if counts.ages else None,
            age_max_ms=counts.age_max_ms,
        )

    def _of(self, topic: str) -> _Counts:
        known = topic_of(topic)
        name = topic if known is None else known.address
        counts = self._lines.get(name)
        if counts is None:
            if known is None and len(self._lines) >= self._most:
                name = _OTHERS
            counts = self._lines.setdefault(name, _Counts())
        return counts
