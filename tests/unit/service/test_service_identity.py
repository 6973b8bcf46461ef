"""Who was here first: what births prove of another process with the same identity."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from edgebus.bus import Event
from edgebus.contracts import ServiceState
from edgebus.service.identity import IdentityGuard, is_elder

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def said(instance: str, *, session: int, word: str = "ready") -> ServiceState:
    return ServiceState(
        source="s/n/x", state=word, session=session, instance=instance, since=NOW, version="1"
    )


@pytest.mark.parametrize(
    ("seen", "elder"),
    [
        (said("a", session=101), True),
        (said("a", session=101, word="draining"), True),
        (said("a", session=99), False),  # it was here before, and is dead
        (said("a", session=101, word="offline"), True),  # thrown out for us, it will be back
        (said("a", session=99, word="offline"), False),
        (said("a", session=101, word="stopped"), False),
        (said("b", session=101), False),  # ourselves
        (said("c", session=101), False),  # younger: it gives up, not we
    ],
)
def test_births_tell_an_older_process(seen: ServiceState, elder: bool) -> None:
    assert is_elder(seen, own=said("b", session=100)) is elder


def test_what_a_broker_kept_is_no_proof_of_life() -> None:
    """A predecessor whose clock ran ahead left a session number that no honest clock exceeds."""
    own = said("b", session=100)
    guard = IdentityGuard()
    assert not guard.proves(said("a", session=900, word="offline"), own=own, retained=True)
    assert not guard.proves(said("a", session=900), own=own, retained=False)
    # It connects again, so it lives; what it says may also be kept by the broker by then.
    assert guard.proves(said("a", session=901), own=own, retained=False)
    assert guard.proves(said("a", session=901), own=own, retained=True)
    # Where nothing was kept, what is said now is a sign of life.
    assert IdentityGuard().proves(said("a", session=900), own=own, retained=False)


def test_the_guard_describes_the_older_process() -> None:
    def event(state: ServiceState) -> Event[ServiceState]:
        return Event(state, "edgebus/s/n/x/state", {}, False, False, NOW, 100)

    own = said("b", session=100)
    guard = IdentityGuard()
    assert guard.check(event(said("c", session=101)), own) is None
    older = said("a", session=101).model_copy(update={"host": "pi-02", "pid": 7})
    assert guard.check(event(older), own) == "process 7 on pi-02, ready"
