"""A publisher killed with events in its outbox, on a real Mosquitto that is down meanwhile."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgebus.bus import Bus, BusSettings, Event
from edgebus.contracts import Identity, Message, Topic
from program import clean_environment

COUNT = 500
SENDER = Identity(site="s", node="p", service="x")
READER = Identity(site="s", node="r", service="x")

# Publishes events first..first+count-1 one by one, says each number once `publish` has returned,
# and lives on until it is killed.
PROGRAM = """
import asyncio, sys
from pathlib import Path
from edgebus.bus import BrokerSettings, Bus, BusSettings
from edgebus.contracts import Identity
from edgebus.mqtt import MqttTransport
sys.path.insert(0, sys.argv[5])
from test_outbox_restart import EVENT, SENDER, Note

async def main(url, folder, first, count):
    settings = BusSettings(connect_wait_s=0.05, backoff_max_s=0.2, outbox={"path": Path(folder)})
    transport = MqttTransport(BrokerSettings(url=url))
    async with Bus(transport, identity=SENDER, settings=settings) as bus:
        for n in range(first, first + count):
            await bus.publish(EVENT.at(SENDER, kind="x"), Note(source="s/p/x", n=n))
            print(n, flush=True)
        await asyncio.Event().wait()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
"""


class Note(Message, version=1):
    """A message for tests."""

    n: int


EVENT = Topic("{node}/{service}/events/{kind}", Note, qos=1, doc="An event.")


class Publisher:
    """A publisher in a process of its own."""

    def __init__(self, url: str, folder: Path, *, first: int, count: int) -> None:
        arguments = [url, str(folder), str(first), str(count), str(Path(__file__).parent)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            env=clean_environment(),
            stdout=subprocess.PIPE,
            text=True,
        )

    async def accepted(self, number: int) -> None:
        """Return once `publish` has returned for this event."""

        def read() -> None:
            assert self._process.stdout is not None
            for line in self._process.stdout:
                if line.strip() == str(number):
                    return
            msg = f"the publisher ended before event {number}"
            raise AssertionError(msg)

        await asyncio.wait_for(asyncio.to_thread(read), 60)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


async def test_events_survive_the_death_of_publisher_and_broker(
    mosquitto_factory: Callable[..., Any], tmp_path: Path
) -> None:
    broker = mosquitto_factory()
    copies: list[int] = []
    handled: list[int] = []
    complete = asyncio.Event()

    async def count(event: Event[Note]) -> None:
        copies.append(event.payload.n)

    async def handle(event: Event[Note]) -> None:
        handled.append(event.payload.n)
        if event.payload.n == 2 * COUNT:
            complete.set()

    # The broker is down all the time; the process is killed with N events in its outbox, and the
    # next one with 2 N.
    for life in range(2):
        publisher = Publisher(broker.url, tmp_path, first=life * COUNT, count=COUNT)
        try:
            await publisher.accepted((life + 1) * COUNT - 1)
        finally:
            publisher.kill()

    await asyncio.to_thread(broker.start)
    settings = BusSettings(backoff_max_s=0.2)
    async with Bus(broker.transport(), identity=READER, settings=settings) as reader:
        await reader.subscribe(EVENT.any(), count, deduplicate=False)
        await reader.subscribe(EVENT.any(), handle)
        # This one is killed while it sends what was left, the last one finishes.
        publisher = Publisher(broker.url, tmp_path, first=0, count=0)
        try:
            async with asyncio.timeout(60):
                while len(handled) < 20:
                    await asyncio.sleep(0.001)
        finally:
            publisher.kill()
        publisher = Publisher(broker.url, tmp_path, first=2 * COUNT, count=1)
        try:
            await asyncio.wait_for(complete.wait(), 60)
        finally:
            publisher.kill()
    assert handled == list(range(2 * COUNT + 1))
    assert sorted(set(copies)) == handled
