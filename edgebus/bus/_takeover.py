"""Whether another process lives under the same identity, and which of the two gives up."""

from __future__ import annotations

from edgebus.bus.transport import Loss
from edgebus.contracts import ServiceState

__all__ = ["ElderWatch", "TakeoverJudge", "is_elder"]

_YOUNG_S = 30.0
_WINDOW_S = 300.0
_MAX_TAKEOVERS = 5


def is_elder(seen: ServiceState, *, own: ServiceState) -> bool:
    """Whether a state on the own topic proves that an older process lives under this identity.

    A broker ends the older connection when a client id connects again (MQTT-3.1.4-3), so two
    processes that both reconnect would fight for ever, and few brokers say why they hang up. But
    each of them says birth and will. One that connected after this process did, and is not this
    process, is alive; of two, the one with the smaller instance stays (instances are UUIDv7, so
    that is the older one).

    Args:
        seen: What arrived on the topic, retained or not.
        own: What this process said first: its instance, and the session it began with.
    """
    if seen.instance == own.instance or seen.state == "stopped":
        return False
    # A will (offline) counts: a broker says it for whoever it throws out for us, and often at once,
    # so that nothing else of the other can be seen.
    return seen.session > own.session and seen.instance < own.instance


class ElderWatch:
    """Follows what is said in the own name, until it proves that an older process lives.

    What the broker kept from before proves nothing, whatever its session number: the clock that
    the number was taken from may have run ahead, and whoever said it may be dead. Somebody who
    lives is thrown out by this process, connects again, and says so with a higher number.
    """

    def __init__(self) -> None:
        self._kept: ServiceState | None = None

    def proves(self, seen: ServiceState, *, own: ServiceState, retained: bool) -> bool:
        """Whether `seen` is the proof.

        Args:
            seen: What arrived on the topic.
            own: What this process said first.
            retained: The broker had kept it.
        """
        if self._kept is None and retained:
            self._kept = seen
        kept = self._kept
        if kept is not None and seen.instance == kept.instance and seen.session <= kept.session:
            return False
        return is_elder(seen, own=own)


class TakeoverJudge:
    """Decides when to give up where the broker itself says take-over (MQTT 5, 0x8E).

    Whoever is young gives up at once; since the two are thrown out in turns, and whoever gives up
    does not come back, exactly one stays.

    Args:
        patient: Births tell which of the two is older; only a long fight ends it without them.
    """

    def __init__(self, *, patient: bool) -> None:
        self._patient = patient
        self._born: float | None = None
        self._takeovers: list[float] = []

    def connected(self, now: float) -> None:
        """A connection was made at `now`, in seconds of a monotonic clock."""
        if self._born is None:
            self._born = now

    def lost(self, loss: Loss, now: float) -> str | None:
        """A connection ended. Why to give up, or None to reconnect."""
        if loss.kind != "taken_over":
            return None
        self._takeovers = [at for at in self._takeovers if now - at < _WINDOW_S] + [now]
        young = self._born is None or now - self._born < _YOUNG_S
        if len(self._takeovers) < (1 if young and not self._patient else _MAX_TAKEOVERS):
            return None
        return f"the broker reported a take-over, {len(self._takeovers)} in five minutes"
