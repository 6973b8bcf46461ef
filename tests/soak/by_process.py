"""The publisher's process or the reader's is killed with SIGKILL, and another one takes over."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from edgebus.bus import Bus
from edgebus.lab.process import dying_with_parent
from edgebus.mqtt import MqttTransport
from tests.soak.brokers import Mosquitto
from tests.soak.field import Outcome, Scene, StuckError, bus_settings
from tests.soak.ledger import Ledger
from tests.soak.proxy import Proxy
from tests.soak.traffic import SENDER, SOURCES, Load, Reader

__all__ = ["publisher_killed", "reader_killed"]

_ROOT = Path(__file__).resolve().parents[2]
_STUCK_S = 60.0
_WINDOW = 1024
"""Events that a broker sends ahead of their acknowledgement: `broker.receive_maximum`."""


class _Peer:
    """A process of `tests.soak.peer` and what it says."""

    def __init__(self, process: asyncio.subprocess.Process, said: Callable[[str, int], None]):
        self._process = process
        self._said = said
        self._ready = asyncio.Event()
        self._listening = asyncio.create_task(self._listen(), name="peer")

    @classmethod
    async def start(cls, said: Callable[[str, int], None], log: Path, *arguments: str) -> _Peer:
        command = dying_with_parent(sys.executable, "-m", "tests.soak.peer", *arguments)
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=_ROOT,
                env={**os.environ, "PYTHONPATH": f"{_ROOT}:{_ROOT / 'services'}"},
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
            )
        return cls(process, said)

    async def ready(self) -> None:
        """Return once it has subscribed: nobody keeps events for a subscription never made."""
        await asyncio.wait_for(self._ready.wait(), _STUCK_S)

    async def kill(self) -> None:
        """End it with SIGKILL; what it had said is heard first."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._listening

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            source, _, n = line.decode().partition(" ")
            if n:
                self._said(source, int(n))
            else:
                self._ready.set()


async def publisher_killed(scene: Scene) -> Outcome:
    """Killed while it reaches the broker, and, every other time, while it does not.

    In the latter case what was accepted is on disk only, and the next process has to send it.
    """
    share = scene.events // (scene.faults + 1)
    ledger = Ledger(SOURCES, news=scene.news)
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(
            Mosquitto(scene.folder / "broker", persistence=False)
        )
        link = await stack.enter_async_context(Proxy(broker.host, broker.port))
        reader = Reader(
            MqttTransport(broker.settings()), settings=bus_settings(), handled=ledger.handle
        )
        await stack.enter_async_context(reader.bus)
        await reader.subscribe()

        async def publish(total: int) -> _Peer:
            first = json.dumps({name: ledger.next_of(name) for name in SOURCES})
            folder, log = str(scene.folder), scene.folder / "publisher.log"
            peer = await _Peer.start(
                ledger.accept, log, "publish", link.url, folder, "x", str(total), first
            )
            stack.push_async_callback(peer.kill)
            return peer

        on_disk: list[int] = []
        for fault in range(scene.faults):
            link.refusing = fault % 2 == 1
            before = ledger.accepted
            peer = await publish((fault + 1) * share)
            await _until(lambda: ledger.accepted, fault * share + share // 4, ledger)
            await peer.kill()
            if link.refusing:
                on_disk.append(ledger.accepted - before)
        link.refusing = False
        await publish(scene.events)
        await _until(lambda: ledger.accepted, scene.events, ledger)
        await ledger.settled(patience_s=10.0)
        outcome = _outcome(ledger, scene, reader)
        if on_disk:
            outcome.notes.append(f"{sum(on_disk)} events were on disk only when it was killed")
            outcome.expect(sum(on_disk) > 0, "the outbox on disk was not put to the test")
    return outcome


async def reader_killed(scene: Scene) -> Outcome:
    """Killed while it handles; the broker keeps the events for the next one."""
    share = scene.events // (scene.faults + 1)
    ledger = Ledger(SOURCES, news=scene.news)
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(
            Mosquitto(scene.folder / "broker", persistence=False)
        )
        url = broker.settings().url
        bus = Bus(MqttTransport(broker.settings()), identity=SENDER, settings=bus_settings())
        await stack.enter_async_context(bus)

        async def read() -> _Peer:
            log, folder = scene.folder / "reader.log", str(scene.folder)
            peer = await _Peer.start(ledger.handle, log, "read", url, folder)
            stack.push_async_callback(peer.kill)
            return peer

        load = Load(bus, run="x", accepted=ledger.accept)
        peer = await read()
        await peer.ready()
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        stack.callback(load.finish)
        tasks.create_task(load.run(), name="load")
        for fault in range(scene.faults):
            load.allow((fault + 1) * share)
            await _until(lambda: ledger.handled, fault * share + share // 4, ledger)
            await peer.kill()
            ledger.next_life()
            peer = await read()
        load.allow(scene.events)
        await _until(lambda: ledger.accepted, scene.events, ledger)
        await ledger.settled(patience_s=10.0)
        outcome = _outcome(ledger, scene, None)
        most = scene.faults * _WINDOW
        outcome.expect(
            outcome.verdict.again <= most, f"more than {most} events handled again after kills"
        )
    return outcome


async def _until(count: Callable[[], int], end: int, ledger: Ledger) -> None:
    try:
        async with asyncio.timeout(_STUCK_S):
            while count() < end:
                await ledger.news()
    except TimeoutError:
        raise StuckError(wanted=end, ledger=ledger) from None


def _outcome(ledger: Ledger, scene: Scene, reader: Reader | None) -> Outcome:
    outcome = Outcome(verdict=ledger.verdict(), faults=scene.faults)
    if reader is not None:
        got = reader.bus.stats.subscriptions["soak"]
        outcome.duplicates = got.duplicates
        done = got.handled + got.duplicates
        outcome.expect(got.received == done, f"the reader received and did not handle: {got}")
    return outcome
