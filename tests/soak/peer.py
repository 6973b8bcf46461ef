"""A publisher or a reader in a process of its own, to be killed.

``python -m tests.soak.peer publish URL FOLDER RUN TOTAL FIRST`` says ``source number`` once
`publish` has returned; ``… read URL FOLDER`` says it from within the handler, so before the
acknowledgement. What was said is known to the parent, whatever happens next.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import structlog

from edgebus.bus import BrokerSettings, Bus
from edgebus.mqtt import MqttTransport
from tests.soak.field import bus_settings
from tests.soak.traffic import SENDER, Load, Reader


def say(source: str, n: int) -> None:
    """One unbuffered line: it is with the parent when this returns."""
    os.write(1, f"{source} {n}\n".encode())


async def publish(url: str, folder: Path, run: str, total: int, first: dict[str, int]) -> None:
    """Publish up to `total` events over all sources, and live on."""
    settings = bus_settings(connect_wait_s=0.05, outbox={"path": folder})
    transport = MqttTransport(BrokerSettings(url=url))
    async with Bus(transport, identity=SENDER, settings=settings) as bus:
        load = Load(bus, run=run, accepted=say, first=first)
        load.allow(total)
        await load.run()


async def read(url: str, folder: Path) -> None:
    """Handle events until killed."""
    settings = bus_settings(outbox={"path": folder})
    reader = Reader(MqttTransport(BrokerSettings(url=url)), settings=settings, handled=say)
    async with reader.bus:
        await reader.subscribe()
        os.write(1, b"ready\n")
        await reader.bus.watch()


def main(role: str, url: str, *more: str) -> None:
    """Be one of the two."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    if role == "read":
        asyncio.run(read(url, Path(*more)))
    else:
        folder, run, total, first = more
        asyncio.run(publish(url, Path(folder), run, int(total), json.loads(first)))


if __name__ == "__main__":
    main(*sys.argv[1:])
