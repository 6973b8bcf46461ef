"""The self-test of a service: brokers that drop without a word, and those that do all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from edgebus.bus import Bus, BusSettings, MemoryBroker, MemoryTransport, RawMessage
from edgebus.contracts import Identity
from edgebus.service import NodeSettings, Service, ServiceSettings
from edgebus.service.runtime import Runtime
from edgebus.service.selftest import SelfTest, watch_broker

Drops = Callable[[RawMessage, str], bool]


class Idle(Service[ServiceSettings]):
    """A service that only lives."""

    name = "idle"


class DroppingTransport:
    """A transport whose broker leaves some messages out.

    Attributes:
        drops: Which ones, by the message and the filter that was asked for last.
    """

    def __init__(self, broker: MemoryBroker, drops: Drops) -> None:
        self._inner = MemoryTransport(broker)
        self.drops = drops
        self.asked = ""

    url = "memory"
    packet_limit = None

    async def connect(self, options: Any, receiver: Any) -> Any:
        transport = self

        class Filtered:
            def received(self, message: RawMessage) -> None:
                if not transport.drops(message, transport.asked):
                    receiver.received(message)

            def lost(self, loss: Any) -> None:
                receiver.lost(loss)

        connection = await self._inner.connect(options, Filtered())
        subscribe = connection.subscribe

        async def noted(filters: Any) -> None:
            transport.asked = filters[-1][0]
            await subscribe(filters)

        connection.subscribe = noted
        return connection


def retained_by_wildcard(message: RawMessage, asked: str) -> bool:
    """What RabbitMQ does not give."""
    return message.retained and "+" in asked


def everything_of_the_service(message: RawMessage, _asked: str) -> bool:
    """As access rules that drop without a word."""
    return message.topic.startswith("edgebus/lab/pi-01/idle/")


@asynccontextmanager
async def service(
    drops: Drops, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Runtime[ServiceSettings], DroppingTransport]]:
    monkeypatch.setattr("edgebus.service.selftest.AGAIN_S", 0.1)
    monkeypatch.setattr(watch_broker, "__kwdefaults__", {"again_s": 0.1})
    transport = DroppingTransport(MemoryBroker(copies="each"), drops)
    runtime = Runtime(
        Idle,
        node=NodeSettings(site="lab", node="pi-01", data_dir=folder),
        settings=ServiceSettings(),
        transport=transport,
    )
    monkeypatch.setattr(runtime._test, "_patience_s", 0.05)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(runtime.run(stop, look_first=False))
        try:
            yield runtime, transport
        finally:
            stop.set()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("drops", "words"),
    [
        (retained_by_wildcard, "gives no retained value to a filter with a wildcard"),
        (everything_of_the_service, "does not come back: may this service write and read there"),
    ],
)
async def test_a_broker_that_drops_without_a_word_is_told_in_state_and_log(
    drops: Drops, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs() as logs:
        async with service(drops, tmp_path, monkeypatch) as (runtime, transport):
            await until(lambda: runtime.presence.state == "degraded")
            assert words in runtime.presence.reason
            assert "docs/" in runtime.presence.reason
            # A state of the service's own does not hide it.
            await runtime.set_state("degraded", "waits for a model")
            assert "waits for a model; " in runtime.presence.reason
            await runtime.set_state("ready", "")
            assert words in runtime.presence.reason
            # Once the broker is mended, the service says so by itself.
            transport.drops = lambda message, asked: False
            await until(lambda: runtime.presence.state == "ready")
    warned = [line["reason"] for line in logs if line["log_level"] == "warning"]
    assert len(warned) == 1  # once, not with each try
    assert words in warned[0]


async def test_a_broker_that_does_all_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(_message: RawMessage, _asked: str) -> bool:
        return False

    with capture_logs() as logs:
        async with service(nothing, tmp_path, monkeypatch) as (runtime, _transport):
            await until(lambda: runtime.presence.state == "ready")
            # It has ended, and not because of the stop.
            await until(lambda: not any("self-test" in each.get_name() for each in runtime._tasks))
            assert runtime.presence.state == "ready"
            assert not any("+" in name for name in runtime._bus.stats.subscriptions)  # type: ignore[union-attr]
    assert not [line for line in logs if line["log_level"] != "info"]


async def test_a_cut_connection_is_not_the_brokers_fault() -> None:
    broker = MemoryBroker()
    identity = Identity(site="lab", node="pi-01", service="idle")
    said: list[str] = []

    async def publish() -> None:
        """Nothing comes back."""

    settings = BusSettings(ephemeral=True, backoff_first_s=0.01, backoff_max_s=0.02)
    async with Bus(MemoryTransport(broker), identity=identity, settings=settings) as bus:
        test = SelfTest(identity=identity, instance="i", publish=publish, patience_s=0.2)
        task = asyncio.create_task(watch_broker(bus, test, said.append, again_s=0.01))
        await asyncio.sleep(0.1)
        broker.stop()
        await asyncio.sleep(0.8)
        assert said == []
        broker.start()
        await until(lambda: len(said) == 1)
        task.cancel()
