"""What the conformance tests stand on: brokers of each kind, buses, typed test topics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Protocol

from edgebus.bus import (
    BrokerSettings,
    Bus,
    BusSettings,
    ConnectionChange,
    Event,
    Loss,
    MemoryBroker,
    RawMessage,
    Transport,
)
from edgebus.contracts import Identity, Message, Topic
from edgebus.mqtt import MqttTransport
from tests.soak.nats_cluster import EmbeddedCluster

DEADLINE_S = 20.0


class Note(Message, version=1):
    """A message for tests."""

    n: int


EVENT = Topic("{node}/{service}/events/{kind}", Note, qos=1, doc="An event.")
READING = Topic("{node}/{service}/readings/{kind}", Note, qos=0, doc="A reading.")
STATUS = Topic("{node}/{service}/status/{kind}", Note, qos=1, retain=True, doc="A state.")


class BrokerUnderTest(Protocol):
    """A broker of some kind.

    Attributes:
        mqtt5: Whether it speaks MQTT 5 (the broker in memory does what it can do).
        redelivers_in_order: Whether unacknowledged events come again before newer ones.
        says_takeover: Whether it tells a client why another one took its place.
        forgets: Whether it loses sessions and retained values when it is killed.
    """

    mqtt5: bool
    redelivers_in_order: bool
    says_takeover: bool
    forgets: bool

    def transport(self, **settings: Any) -> Transport:
        """A transport to it; the arguments are those of `BrokerSettings`."""

    async def start(self) -> None:
        """Start it."""

    async def stop(self) -> None:
        """Kill it, as kill -9 does."""


class MemoryUnderTest:
    """The broker inside the process."""

    mqtt5 = True
    redelivers_in_order = True
    says_takeover = True
    forgets = True

    def __init__(self, *, copies: str, running: bool = True) -> None:
        self.broker = MemoryBroker(copies=copies)
        self.broker.running = running

    def transport(self, **_settings: Any) -> Transport:
        return self.broker.transport()

    async def start(self) -> None:
        self.broker.start()

    async def stop(self) -> None:
        self.broker.stop()


class MosquittoUnderTest:
    """A Mosquitto, spoken to in one version of MQTT, by one of the clients."""

    redelivers_in_order = True
    says_takeover = False  # Mosquitto 2.0; 2.1 does on MQTT 5
    forgets = True

    def __init__(self, broker: Any, *, version: str, **settings: Any) -> None:
        self.mqtt5 = version == "5"
        self._broker = broker
        self._settings = {"version": version, **settings}

    def transport(self, **settings: Any) -> Transport:
        return self._broker.transport(**self._settings, **settings)

    async def start(self) -> None:
        await asyncio.to_thread(self._broker.start)

    async def stop(self) -> None:
        await asyncio.to_thread(self._broker.kill)


class NatsUnderTest:
    """The embedded broker. It keeps sessions and retained values on disk."""

    mqtt5 = False
    redelivers_in_order = False
    says_takeover = False
    forgets = False

    def __init__(self, broker: Any) -> None:
        self._broker = broker

    def transport(self, **settings: Any) -> Transport:
        return MqttTransport(
            BrokerSettings(url=self._broker.url, version="3.1.1", profile="nats", **settings)
        )

    async def start(self) -> None:
        await self._broker.start()

    async def stop(self) -> None:
        await self._broker.kill()


class ClusterUnderTest(NatsUnderTest):
    """Three brokers that are one. Each client comes in by another node than the one before."""

    def __init__(self, cluster: EmbeddedCluster) -> None:
        super().__init__(cluster)
        self._cluster = cluster
        self._next = 0

    def transport(self, **settings: Any) -> Transport:
        url = self._cluster.url_from(self._next % len(self._cluster.nodes))
        self._next += 1
        return MqttTransport(BrokerSettings(url=url, version="3.1.1", profile="nats", **settings))


class Site:
    """A place for one test: identities below it meet nobody else's messages."""

    def __init__(self, broker: BrokerUnderTest, *, name: str, stack: AsyncExitStack) -> None:
        self.broker = broker
        self.name = name
        self._stack = stack

    def identity(self, node: str, service: str = "svc") -> Identity:
        return Identity(site=self.name, node=node, service=service)

    def make(
        self,
        node: str,
        service: str = "svc",
        *,
        transport: Transport | None = None,
        broker: Any = None,
        **options: Any,
    ) -> Bus:
        """A bus that is not open."""
        bus_options = {
            "connect_wait_s": 10.0,
            "backoff_first_s": 0.05,
            "backoff_max_s": 0.2,
            "orphan_grace_s": 5.0,
        } | options.pop("settings", {})
        return Bus(
            transport or self.broker.transport(**(broker or {})),
            identity=self.identity(node, service),
            settings=BusSettings(**bus_options),
            **options,
        )

    async def bus(self, node: str, service: str = "svc", **options: Any) -> Bus:
        """An open bus, closed at the end of the test."""
        return await self._stack.enter_async_context(self.make(node, service, **options))

    async def settled(self, bus: Bus, *senders: Bus) -> None:
        """Return once what `bus` has subscribed to is known where `senders` publish.

        The nodes of a cluster tell each other of subscriptions, in order and a moment later; a
        reading of that moment has no receiver yet.
        """
        for number, sender in enumerate(senders):
            topic, heard = f"settled/{self.name}/{number}", asyncio.Event()

            async def hear(_message: RawMessage, heard: asyncio.Event = heard) -> None:
                heard.set()

            probe = await bus.tap(topic, hear)
            async with asyncio.timeout(DEADLINE_S):
                while not heard.is_set():
                    await sender.publish_raw(topic, b"there?")
                    await asyncio.sleep(0.01)
            await probe.unsubscribe()

    def note(self, n: int, sender: Bus | None = None) -> Note:
        return Note(n=n) if sender is None else Note(n=n, source=sender.identity.source)


class Recorder:
    """A handler that keeps what it gets, and can be waited for."""

    def __init__(self, work: Callable[[Event[Note]], Awaitable[None]] | None = None) -> None:
        self.events: list[Event[Note]] = []
        self._work = work
        self._changed = asyncio.Event()

    async def __call__(self, event: Event[Note]) -> None:
        if self._work is not None:
            await self._work(event)
        self.events.append(event)
        self._changed.set()

    @property
    def numbers(self) -> list[int]:
        return [event.payload.n for event in self.events]

    async def has(self, count: int) -> list[int]:
        """The numbers, once there are at least `count`."""
        await until(lambda: len(self.events) >= count, self._changed, say=lambda: self.numbers)
        return self.numbers


class Changes:
    """A connection listener that keeps what it is told."""

    def __init__(self) -> None:
        self.seen: list[ConnectionChange] = []
        self._changed = asyncio.Event()

    async def __call__(self, change: ConnectionChange) -> None:
        self.seen.append(change)
        self._changed.set()

    @property
    def kinds(self) -> list[str]:
        return [change.kind for change in self.seen]

    async def has(self, kind: str, count: int = 1) -> ConnectionChange:
        await until(lambda: self.kinds.count(kind) >= count, self._changed, say=lambda: self.kinds)
        return [change for change in self.seen if change.kind == kind][count - 1]


async def until(
    condition: Callable[[], bool], changed: asyncio.Event, *, say: Callable[[], object]
) -> None:
    """Wait for a condition that can only become true when `changed` is set."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                changed.clear()
                await changed.wait()
    except TimeoutError:
        raise AssertionError(f"not within {DEADLINE_S} s; there is: {say()}") from None


async def eventually(condition: Callable[[], bool], *, say: Callable[[], object] = str) -> None:
    """Wait for a condition that nothing announces."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {DEADLINE_S} s: {say()}") from None


class SpyConnection:
    """A connection that tells what is acknowledged, in which order."""

    def __init__(self, connection: Any, spy: SpyTransport) -> None:
        self._connection = connection
        self._spy = spy

    def acknowledge(self, token: int) -> None:
        self._spy.acknowledged.append(token)
        self._connection.acknowledge(token)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class SpyTransport:
    """A transport whose connections can be watched and cut.

    Attributes:
        arrived: Tokens of QoS 1 messages in the order of their arrival.
        acknowledged: Tokens in the order of their acknowledgement.
        attempts: Connections that were tried.
        may_connect: While it is cleared, connecting waits.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.arrived: list[int] = []
        self.acknowledged: list[int] = []
        self.attempts = 0
        self.may_connect = asyncio.Event()
        self.may_connect.set()
        self._live: tuple[Any, Any] | None = None

    @property
    def url(self) -> str:
        return self.transport.url

    @property
    def packet_limit(self) -> int | None:
        return self.transport.packet_limit

    async def connect(self, options: Any, receiver: Any) -> Any:
        spy = self
        self.attempts += 1

        class Spying:
            def received(self, message: Any) -> None:
                if message.qos:
                    spy.arrived.append(message.token)
                receiver.received(message)

            def lost(self, loss: Any) -> None:
                spy._live = None
                receiver.lost(loss)

        await self.may_connect.wait()
        connection = await self.transport.connect(options, Spying())
        self._live = (connection, receiver)
        return SpyConnection(connection, self)

    def cut(self) -> None:
        """Cut the connection, where there is one, as a bad link does."""
        if self._live is not None:
            (connection, receiver), self._live = self._live, None
            connection.abort()
            receiver.lost(Loss("closed", "cut by the test"))
