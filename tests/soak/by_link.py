"""The broker stays, and the links of publisher and reader to it are bad, each on its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from tests.soak.brokers import Mosquitto
from tests.soak.field import Field, Outcome, Scene
from tests.soak.proxy import PERFECT, LinkProfile, Proxy

__all__ = ["link_cut", "link_fragments", "link_lossy", "link_slow", "link_stalled"]

_HAPPENED_S = 30.0

Fault = Callable[["_Turn"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Turn:
    """One fault: whose link, in which traffic.

    Attributes:
        number: Of the fault.
        link: The link in question.
        field: Publisher and reader.
        first: Events that were published before this turn.
        end: Events that are published after it.
    """

    number: int
    link: Proxy
    field: Field
    first: int
    end: int

    async def full_flight(self) -> None:
        """Return when a part of this turn's events has arrived, and the rest is on its way."""
        self.field.load.allow(self.end)
        await self.field.reached(self.first + (self.end - self.first) // 4)
        self.field.note_flight(self.end)


async def link_cut(scene: Scene) -> Outcome:
    """A reset, of the publisher's connection and of the reader's in turns."""

    async def cut(turn: _Turn) -> None:
        await turn.full_flight()
        turn.link.cut()

    return await _disturbed(scene, cut)


async def link_stalled(scene: Scene) -> Outcome:
    """Half-open: nothing passes, and nobody hangs up. Keep-alive has to notice.

    Every other time the next connection is accepted and then silent too.
    """

    async def stall(turn: _Turn) -> None:
        await turn.full_flight()
        link = turn.link
        before = link.connections
        link.silent = turn.number % 4 > 1
        link.stall()
        async with asyncio.timeout(_HAPPENED_S):
            await link.connected(before + 1)
        link.silent = False

    return await _disturbed(scene, stall, keepalive_s=1, connect_timeout_s=1.0)


async def link_slow(scene: Scene) -> Outcome:
    """40 to 60 ms each way and 64 kB/s, on and off."""
    slow = LinkProfile(delay_s=0.04, jitter_s=0.02, bytes_per_s=64_000)

    async def crawl(turn: _Turn) -> None:
        turn.link.profile = slow
        await turn.full_flight()
        await turn.field.reached(turn.end)
        turn.link.profile = PERFECT

    return await _disturbed(scene, crawl)


async def link_lossy(scene: Scene) -> Outcome:
    """As over a bad radio: late, in pieces, and reset in the middle of packets, time and again."""
    lossy = LinkProfile(delay_s=0.002, jitter_s=0.01, fragment=700, cut_share=0.03)
    cuts: list[int] = []

    async def lose(turn: _Turn) -> None:
        before = turn.link.cuts
        turn.link.profile = lossy
        await turn.full_flight()
        await turn.field.reached(turn.end)
        turn.link.profile = PERFECT
        if turn.link.cuts == before:  # a short turn may have been lucky
            turn.link.cut()
        cuts.append(turn.link.cuts - before)

    outcome = await _disturbed(scene, lose)
    outcome.faults = sum(cuts)
    return outcome


async def link_fragments(scene: Scene) -> Outcome:
    """Every byte comes alone."""

    async def nothing(turn: _Turn) -> None:
        await turn.full_flight()

    return await _disturbed(scene, nothing, profile=LinkProfile(fragment=1))


async def _disturbed(
    scene: Scene, fault: Fault, *, profile: LinkProfile = PERFECT, **settings: float
) -> Outcome:
    share = scene.events // (scene.faults + 1)
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(Mosquitto(scene.folder, persistence=False))
        links = [
            await stack.enter_async_context(
                Proxy(broker.host, broker.port, profile=profile, seed=number)
            )
            for number in range(2)
        ]
        sender, reader = (broker.settings(link.url, **settings) for link in links)
        field = await stack.enter_async_context(Field(scene, sender=sender, reader=reader))
        for number in range(scene.faults):
            turn = _Turn(number, links[number % 2], field, number * share, (number + 1) * share)
            await fault(turn)
        await field.settle(total=scene.events, patience_s=10.0)
        outcome = field.outcome(faults=scene.faults)
        outcome.notes.append(f"{sum(link.connections for link in links)} connections made")
        outcome.expect(not outcome.lost_by_broker, "the broker lost events and was never killed")
        return outcome
