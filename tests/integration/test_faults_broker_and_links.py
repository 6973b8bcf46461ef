"""Faults, the short version; `make soak` runs the long one.

A broker killed with SIGKILL in the middle of the traffic, and links that are cut, silent, slow,
lossy or that bring every byte alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.soak.brokers import Mosquitto
from tests.soak.by_broker import mosquitto_killed, nats_killed
from tests.soak.by_link import link_cut, link_fragments, link_lossy, link_slow, link_stalled
from tests.soak.field import Field, Outcome, Scene
from tests.soak.ledger import Ledger
from tests.soak.proxy import LinkProfile, Proxy

Phase = Callable[[Scene], Awaitable[Outcome]]


@pytest.mark.parametrize(
    ("phase", "events", "faults"),
    [
        pytest.param(mosquitto_killed, 600, 2, id="mosquitto-killed"),
        pytest.param(nats_killed, 900, 2, id="nats-killed"),
        pytest.param(link_cut, 600, 4, id="link-cut"),
        pytest.param(link_stalled, 300, 2, id="link-half-open"),
        pytest.param(link_slow, 300, 2, id="link-slow"),
        pytest.param(link_lossy, 200, 2, id="link-lossy"),
        pytest.param(link_fragments, 60, 1, id="link-in-single-bytes"),
    ],
)
async def test_nothing_is_lost_handled_twice_or_out_of_order(
    phase: Phase, events: int, faults: int, tmp_path: Path
) -> None:
    told: list[None] = []
    outcome = await phase(
        Scene(events=events, faults=faults, folder=tmp_path, news=lambda: told.append(None))
    )
    assert outcome.good, (outcome.wrong, outcome.verdict)
    assert outcome.verdict.accepted == events
    # What a broker acknowledged and lost is not the bus's; nobody hides it.
    assert outcome.verdict.handled == events - outcome.lost_by_broker == len(told)
    assert outcome.faults >= faults


async def test_a_broker_that_keeps_nothing_is_seen_to_lose(tmp_path: Path) -> None:
    """The counting can fail: without persistence, what is queued dies with the broker."""
    async with Mosquitto(tmp_path, persistence=False) as broker:
        settings = broker.settings()
        field = Field(
            Scene(events=400, faults=1, folder=tmp_path), sender=settings, reader=settings
        )
        async with field:
            # The reader goes, so that the broker has to keep what comes.
            await field.reader.bus.crash()
            field.load.allow(200)
            while field.ledger.accepted < 200:
                await field.ledger.news()
            await broker.kill()
            await broker.start()
            await field.settle(total=400, patience_s=0.2)
            outcome = field.outcome(faults=1)
        assert (outcome.lost_by_broker, outcome.verdict.lost) == (400, 0)


def test_the_ledger_sees_what_is_wrong() -> None:
    ledger = Ledger(["a", "b"])
    for n in range(6):
        ledger.accept("a", n)
    for n in (0, 1, 3, 2, 3):
        ledger.handle("a", n)
    ledger.next_life()
    ledger.handle("a", 3)
    verdict = ledger.verdict()
    assert (verdict.accepted, verdict.handled, verdict.lost) == (6, 4, 2)
    assert (verdict.twice, verdict.disorder, verdict.again) == (1, 1, 1)
    assert verdict.examples == ("a 2 after 3", "a 3 twice", "a 4 lost", "a 5 lost")
    assert (ledger.next_of("a"), ledger.next_of("b")) == (6, 0)


async def test_the_proxy_cuts_in_the_middle_of_a_packet() -> None:
    got = bytearray()
    over = asyncio.Event()

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1000):
                got.extend(data)
        except ConnectionResetError:
            over.set()
        writer.close()

    listening = await asyncio.start_server(server, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    profile = LinkProfile(fragment=10, cut_share=0.2)
    async with listening, Proxy("127.0.0.1", port, profile=profile, seed=1) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"0123456789" * 100)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 10)
        await asyncio.wait_for(over.wait(), 10)
        writer.close()
        assert (proxy.connections, proxy.cuts) == (1, 1)
    assert 0 < len(got) < 1000
    assert len(got) % 10
    assert (b"0123456789" * 100).startswith(got)


async def test_a_stalled_link_carries_on_where_it_stood() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    listening = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with listening, Proxy("127.0.0.1", port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        assert proxy.stall() == 1
        writer.write(b"two")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
        proxy.resume()
        assert await asyncio.wait_for(reader.readexactly(3), 10) == b"two"
        writer.close()
