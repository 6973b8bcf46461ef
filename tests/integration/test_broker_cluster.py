"""Three brokers that are one: any of them may die."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from edgebus.bus import BrokerSettings, Bus, BusSettings, ConnectionChange, Event
from edgebus.contracts import Identity, Message, Topic
from edgebus.lab import BrokerStartError
from edgebus.mqtt import MqttTransport
from tests.soak.nats_cluster import EmbeddedCluster
from tests.soak.on_cluster import ClusterPlan, soak_cluster

DEADLINE_S = 30.0


class Note(Message, version=1):
    """A message for tests."""

    n: int


EVENT = Topic("{node}/{service}/events", Note, qos=1, doc="An event.")
STATUS = Topic("{node}/{service}/status", Note, qos=1, retain=True, doc="A state.")


def test_an_even_number_of_nodes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="take 3 or 5"):
        EmbeddedCluster(tmp_path, size=4)


async def test_nodes_that_do_not_find_together_are_told(tmp_path: Path) -> None:
    cluster = EmbeddedCluster(tmp_path, start_timeout_s=1.0)
    alone = cluster.nodes[0]
    with pytest.raises(BrokerStartError, match="does not answer"):
        await alone.start()
    assert not alone.running
    with pytest.raises(BrokerStartError, match="no leader"):
        await cluster.leader()


class Client:
    """A bus that begins at a node of the test's choice, and what it was told."""

    def __init__(self, stack: AsyncExitStack, cluster: EmbeddedCluster, name: str, at: int) -> None:
        self._stack = stack
        self.changes: list[ConnectionChange] = []
        self.got: list[int] = []
        self.news = asyncio.Event()
        self.transport = MqttTransport(
            BrokerSettings(
                url=cluster.url_from(at), version="3.1.1", profile="nats", connect_timeout_s=5.0
            )
        )
        self.bus = Bus(
            self.transport,
            identity=Identity(site="cluster", node=name, service="svc"),
            settings=BusSettings(connect_wait_s=DEADLINE_S, backoff_max_s=1.0),
            on_connection=self._changed,
        )

    async def open(self) -> Client:
        await self._stack.enter_async_context(self.bus)
        return self

    async def take(self, event: Event[Note]) -> None:
        self.got.append(event.payload.n)
        self.news.set()

    async def has(self, number: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while number not in self.got:
                self.news.clear()
                await self.news.wait()

    async def _changed(self, change: ConnectionChange) -> None:
        self.changes.append(change)

    def note(self, n: int) -> Note:
        return Note(source=self.bus.identity.source, n=n)


async def test_session_events_and_retained_values_live_on_at_the_other_nodes(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(EmbeddedCluster(tmp_path, ack_wait_s=2))
        sender = await Client(stack, cluster, "sender", 1).open()
        listener = await Client(stack, cluster, "listener", 0).open()
        await listener.bus.subscribe(EVENT.any(site="cluster"), listener.take)
        await sender.bus.publish(STATUS.at(sender.bus.identity), sender.note(7))
        await sender.bus.publish(EVENT.at(sender.bus.identity), sender.note(1))
        await listener.has(1)

        # Its process dies, and with it the node that it was connected to.
        await listener.bus.crash()
        await cluster.kill(0)
        await sender.bus.publish(EVENT.at(sender.bus.identity), sender.note(2))

        # The next process is told the same addresses, and goes on with the same session.
        again = await Client(stack, cluster, "listener", 0).open()
        assert [change.kind for change in again.changes] == ["connected"]
        assert again.changes[0].session_present
        assert again.transport.connected_url != cluster.nodes[0].url
        await again.bus.subscribe(EVENT.any(site="cluster"), again.take)
        await again.has(2)
        # The first one comes again where its acknowledgement died with the process or the node.
        assert again.got in ([2], [1, 2], [2, 1])

        late = await Client(stack, cluster, "late", 2).open()
        await late.bus.subscribe(STATUS.any(site="cluster"), late.take)
        await late.has(7)
        assert late.got == [7]


async def test_two_nodes_killed_in_turn_under_load_lose_nothing(tmp_path: Path) -> None:
    # The first one is the subscriber's; the publishers begin at the others.
    plan = ClusterPlan(
        events=1000, kills=2, publishers=2, rate=150, ack_wait_s=2, rest_s=0.5, patience_s=20
    )
    result = await soak_cluster(plan, folder=tmp_path)
    assert result.published >= plan.events
    assert (result.lost, result.twice, result.sessions_lost) == (0, 0, 0)
    assert (result.late_calm, result.retained_wrong) == (0, 0)
    assert result.retained > 0
    assert result.reconnects_s
