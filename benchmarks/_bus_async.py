"""The flow of one side, the same for every asyncio client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeAlias

from benchmarks._bus_job import Job, Meter, Pings, say, wait_for_go

__all__ = ["AsyncClient", "Opened", "run"]

_PATIENCE_S = 20.0
OnNumber: TypeAlias = Callable[[int], Awaitable[None]]


class Opened(Protocol):
    """A connected client, cut down to what the benchmark needs."""

    async def publish(self, topic: str, n: int) -> None:
        """Publish message `n`; returns when the next may follow."""

    async def publish_again(self, topic: str, message: Any) -> None:
        """Publish a received message."""

    async def settled(self) -> None:
        """Return when everything has left (QoS 0) or is acknowledged (QoS 1)."""


class AsyncClient(Protocol):
    """One library."""

    def open(
        self,
        job: Job,
        *,
        listen: str | None,
        on_message: Callable[[int, Any], Awaitable[None] | None],
    ) -> AbstractAsyncContextManager[Opened]:
        """Connect, and subscribe to `listen`; `on_message` gets number and message."""


async def run(job: Job, client: AsyncClient) -> None:
    """Play one side."""
    await {"source": _source, "sink": _sink, "ping": _ping, "echo": _echo}[job.role](job, client)


async def _go() -> None:
    await asyncio.get_running_loop().run_in_executor(None, wait_for_go)


async def _source(job: Job, client: AsyncClient) -> None:
    async with client.open(job, listen=None, on_message=_ignore) as opened:
        say("ready")
        await _go()
        start, cpu = time.monotonic(), time.process_time()
        if job.qos:
            numbers = iter(range(job.count))

            async def worker() -> None:
                for n in numbers:
                    await opened.publish(job.topic, n)

            await asyncio.gather(*(worker() for _ in range(job.window)))
        else:
            for n in range(job.count):
                await opened.publish(job.topic, n)
        await opened.settled()
        say("done", start=start, end=time.monotonic(), cpu_s=time.process_time() - cpu)
        await _go()


async def _sink(job: Job, client: AsyncClient) -> None:
    meter = Meter(job.count)
    full = asyncio.Event()

    def on_message(_n: int, _message: Any) -> None:
        if meter.add():
            full.set()

    async with client.open(job, listen=job.topic, on_message=on_message):
        say("ready")
        seen = -1
        while not full.is_set() and meter.received != seen:
            seen = meter.received or -1
            try:
                await asyncio.wait_for(full.wait(), _PATIENCE_S)
            except TimeoutError:
                meter.stop()
        say(
            "done",
            received=meter.received,
            end=meter.last,
            cpu_s=meter.cpu_last - meter.cpu_first,
        )
        await _go()


async def _ping(job: Job, client: AsyncClient) -> None:
    pings = Pings()

    def on_message(n: int, _message: Any) -> None:
        pings.answer(n)

    async with client.open(job, listen=f"{job.topic}/back", on_message=on_message) as opened:
        say("ready")
        await _go()
        cpu = time.process_time()
        async for n in _paced(job):
            pings.send(n)
            await opened.publish(job.topic, n)
        for _ in range(100):
            if not pings.sent:
                break
            await asyncio.sleep(0.02)
        say(
            "done",
            took_ms=pings.took_ms,
            lost=len(pings.sent),
            cpu_s=time.process_time() - cpu,
        )
        await _go()


async def _paced(job: Job) -> AsyncIterator[int]:
    start = time.monotonic()
    for n in range(int(job.rate * job.seconds)):
        await asyncio.sleep(max(0.0, start + n / job.rate - time.monotonic()))
        yield n


async def _echo(job: Job, client: AsyncClient) -> None:
    async def on_message(_n: int, message: Any) -> None:
        await opened.publish_again(f"{job.topic}/back", message)

    async with client.open(job, listen=job.topic, on_message=on_message) as opened:
        say("ready")
        await _go()
        say("done")


def _ignore(_n: int, _message: Any) -> None:
    """Nothing is expected."""
