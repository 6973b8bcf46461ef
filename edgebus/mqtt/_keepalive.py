"""When to ask the broker for a sign of life (MQTT 5.0 §3.1.2.10)."""

from __future__ import annotations

from typing import Literal

__all__ = ["KeepAlive"]


class KeepAlive:
    """Keeps track of traffic, on any clock in seconds.

    The broker hears from us at least once per interval. When we hear nothing from it for as long,
    it is asked, and taken for dead when nothing at all comes for another interval.

    Args:
        interval_s: The keep-alive agreed upon; 0: none.
        now: When the connection was made.
    """

    def __init__(self, *, interval_s: float, now: float) -> None:
        self.sent = now
        self.received = now
        self._interval = interval_s
        self._asked: float | None = None

    @property
    def pause_s(self) -> float:
        """How long to wait between two ticks."""
        return min(1.0, self._interval / 4) if self._interval else 60.0

    def tick(self, now: float, *, reading: bool) -> Literal["ask", "dead"] | None:
        """What to do now.

        Args:
            now: The time.
            reading: Whether the answer would be seen; while it is not, the broker is only told
                that we are here.
        """
        if not self._interval:
            return None
        if not reading:
            self.received = now
            self._asked = None
        elif self._asked is not None:
            if self.received > self._asked:
                self._asked = None
            elif now - self._asked >= self._interval:
                return "dead"
        ask_after = self._interval * 0.75
        if self._asked is None and now - min(self.sent, self.received) >= ask_after:
            self._asked = now if reading else None
            self.sent = now
            return "ask"
        return None
