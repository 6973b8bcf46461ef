"""Whether another process fights for the same client id."""

from __future__ import annotations

from edgebus.bus.transport import Loss

__all__ = ["TakeoverJudge"]

_YOUNG_S = 30.0
_SHORT_S = 15.0
_WINDOW_S = 300.0


class TakeoverJudge:
    """Decides which of two processes with one identity gives up, without talking to the other.

    A broker ends the older connection when a client id connects again (MQTT-3.1.4-3), so two
    processes that both reconnect would fight for ever. Whoever is younger gives up sooner; since
    they are thrown out in turns, and whoever gives up does not come back, exactly one stays.

    On MQTT 5 the broker names the reason (0x8E). On 3.1.1 it just closes: several connections in
    a row that were each closed by the other side soon after a successful connect, with the broker
    there all the time and its sessions kept, are taken for the same thing.
    """

    def __init__(self) -> None:
        self._born: float | None = None
        self._connected_at = 0.0
        self._named: list[float] = []
        self._silent = 0

    def connected(self, now: float, *, session_present: bool) -> None:
        """A connection was made at `now`, in seconds of a monotonic clock."""
        self._connected_at = now
        if not session_present:
            self._silent = 0  # a broker that was restarted and forgot, not a fight over a session
        if self._born is None:
            self._born = now

    def unreachable(self) -> None:
        """Nobody answered: the broker itself has trouble, so what came before proves nothing."""
        self._silent = 0

    def lost(self, loss: Loss, now: float) -> str | None:
        """A connection ended. Why to give up, or None to reconnect."""
        born = self._born if self._born is not None else now
        young = now - born < _YOUNG_S
        if loss.kind == "taken_over":
            self._named = [at for at in self._named if now - at < _WINDOW_S] + [now]
            if len(self._named) >= (1 if young else 5):
                return f"the broker reported a take-over, {len(self._named)} in five minutes"
            return None
        if loss.kind == "closed" and now - self._connected_at < _SHORT_S:
            self._silent += 1
            if self._silent >= (4 if young else 8):
                return f"{self._silent} connections in a row were closed right after they were made"
            return None
        self._silent = 0
        return None
