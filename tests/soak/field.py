"""A publisher and a reader in this process, and what a phase of faults comes to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edgebus.bus import BrokerSettings, Bus, BusSettings, ConnectionChange
from edgebus.mqtt import MqttTransport
from tests.soak.ledger import Ledger, Verdict
from tests.soak.traffic import SENDER, SOURCES, Load, Reader

__all__ = ["Field", "Outcome", "Scene", "StuckError", "bus_settings"]

_STUCK_S = 60.0
_ROOM = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a phase gets.

    Attributes:
        events: How many to publish.
        faults: How many faults to make.
        folder: For its files; the phase's own.
        news: To be called whenever an event was handled for the first time.
    """

    events: int
    faults: int
    folder: Path
    news: Callable[[], None] = lambda: None


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a phase came to.

    Attributes:
        verdict: The counts; `lost` here are those that nobody but the bus can have lost.
        faults: How many were made.
        lost_by_broker: Events that the broker had acknowledged and never delivered.
        duplicates: Copies that the reader's de-duplication left out.
        wrong: Promises that were broken, in words.
        notes: Further figures, in words.
        seconds: How long it took.
    """

    verdict: Verdict
    faults: int
    lost_by_broker: int = 0
    duplicates: int = 0
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def expect(self, claim: bool, words: str) -> None:
        """Keep `words` as a broken promise unless `claim` is true."""
        if not claim:
            self.wrong.append(words)

    @property
    def good(self) -> bool:
        """Whether every promise was kept."""
        verdict = self.verdict
        return not (verdict.lost or verdict.twice or verdict.disorder or self.wrong)


class StuckError(RuntimeError):
    """What should come does not come.

    Attributes:
        handled: Events handled until then.
        accepted: Events accepted until then.
    """

    def __init__(self, *, wanted: int, ledger: Ledger) -> None:
        self.handled = ledger.handled
        self.accepted = ledger.accepted
        super().__init__(
            f"{wanted} events should be handled, and after {_STUCK_S:g} s there are "
            f"{self.handled} of {self.accepted} that were accepted"
        )


def bus_settings(**more: Any) -> BusSettings:
    """Settings with short pauses, so that many faults fit into a run, and room for a whole run."""
    outbox = {"max_messages": _ROOM} | more.pop("outbox", {})
    return BusSettings(backoff_first_s=0.02, backoff_max_s=0.25, outbox=outbox, **more)


class Field:
    """Sources that publish over one bus, and a reader with another one.

    Args:
        scene: What the phase got.
        sender: How the publisher reaches the broker.
        reader: How the reader reaches it.
        settings: Of both buses.
    """

    def __init__(
        self,
        scene: Scene,
        *,
        sender: BrokerSettings,
        reader: BrokerSettings,
        settings: BusSettings | None = None,
    ) -> None:
        settings = settings or bus_settings()
        self.ledger = Ledger(SOURCES, news=scene.news)
        self.sessions_lost = 0
        self.sessions: list[int] = []
        """Numbers of the reader's connections."""
        self.bus = Bus(MqttTransport(sender), identity=SENDER, settings=settings)
        self.reader = Reader(
            MqttTransport(reader),
            settings=settings,
            handled=self.ledger.handle,
            changed=self._changed,
        )
        self.load = Load(self.bus, run=None, accepted=self.ledger.accept)
        self._flights: list[int] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.reader.bus)
        await self.reader.subscribe()
        await self._stack.enter_async_context(self.bus)
        tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        self._stack.callback(self.load.finish)
        tasks.create_task(self.load.run(), name="load")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)

    async def reached(self, handled: int) -> None:
        """Return once so many events were handled.

        Raises:
            StuckError: They do not come.
        """
        try:
            await asyncio.wait_for(self.ledger.has_handled(handled), _STUCK_S)
        except TimeoutError:
            raise StuckError(wanted=handled, ledger=self.ledger) from None

    def note_flight(self, end: int) -> None:
        """Something is about to break, with so many events published or about to be."""
        self._flights.append(end - self.ledger.handled)

    async def settle(self, *, total: int, patience_s: float) -> None:
        """Publish up to `total`, bring the outbox to the broker, and wait for the reader.

        Args:
            total: Of all sources.
            patience_s: When nothing new comes for so long, nothing comes any more.
        """
        self.load.allow(total)
        async with asyncio.timeout(_STUCK_S * 5):
            while self.ledger.accepted < total:
                await self.ledger.news()
        await self.bus.drain(_STUCK_S)
        await self.ledger.settled(patience_s=patience_s)

    def outcome(self, *, faults: int) -> Outcome:
        """What came of it.

        An event is lost by the broker where the publisher has its acknowledgement and the reader
        handled whatever it received; every other loss is the bus's.
        """
        verdict = self.ledger.verdict()
        sent = self.bus.stats
        got = self.reader.bus.stats.subscriptions["soak"]
        acknowledged = sent.published == verdict.accepted and not sent.outbox_messages
        all_handled = got.received == got.handled + got.duplicates
        by_broker = verdict.lost if acknowledged and all_handled else 0
        outcome = Outcome(
            verdict=verdict.but(lost=verdict.lost - by_broker),
            faults=faults,
            lost_by_broker=by_broker,
            duplicates=got.duplicates,
        )
        outcome.expect(acknowledged, f"published {sent.published}, waiting {sent.outbox_messages}")
        outcome.expect(all_handled, f"the reader received and did not handle: {got}")
        outcome.expect(not sent.refused, f"{sent.refused} events refused")
        if flights := sorted(self._flights):
            middle = flights[len(flights) // 2]
            outcome.notes.append(
                f"on their way when it struck: {flights[0]} to {flights[-1]}, median {middle}"
            )
        return outcome

    def _changed(self, change: ConnectionChange) -> None:
        self.sessions_lost += change.kind == "session_lost"
        if change.kind == "connected":
            self.sessions.append(change.session)
