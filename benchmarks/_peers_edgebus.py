"""EdgeBus under the probes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar

from benchmarks._peers_driver import SITE, Got, Group, Listen, Setup
from edgebus.bus import (
    BrokerSettings,
    Bus,
    BusSettings,
    Cleared,
    ConnectionChange,
    DropOldest,
    Event,
    IdentityTakenError,
    Latest,
    OutboxSettings,
    RawMessage,
    RetryPolicy,
    Wait,
)
from edgebus.contracts import (
    Address,
    Command,
    CommandTopic,
    Identity,
    Message,
    RawBytes,
    Reply,
    ServiceState,
    State,
    Topic,
    topics,
    utc_now,
)
from edgebus.mqtt import MqttTransport

__all__ = ["EdgeBusDriver"]


class Note(Message, version=1):
    """A typed message."""

    n: int


class Ask(Command, version=1):
    """A command with a number."""

    n: int


class Answer(Reply, version=1):
    """Its answer."""

    n: int


TOPICS: dict[str, Topic[Note]] = {
    "events": Topic("{node}/{service}/events/{kind}", Note, qos=1, doc="Events."),
    "readings": Topic("{node}/{service}/readings/{kind}", Note, qos=0, doc="Readings."),
    "status": Topic("{node}/{service}/status/{kind}", Note, qos=1, retain=True, doc="State."),
}
BULK = Topic("{node}/{service}/bulk/{kind}", RawBytes, qos=1, doc="Bytes.")
ASK = CommandTopic("{node}/{service}/cmd/ask", Ask, reply=Answer, doc="A command.")


class EdgeBusPeer:
    """An application on a `Bus`."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._identity = _identity(setup.name)
        self._changes: list[ConnectionChange] = []
        self._life: asyncio.Task[None] | None = None
        self._offline = 0
        quick = {} if setup.defaults else {"backoff_first_s": 0.1, "backoff_max_s": 0.5}
        self._bus = Bus(
            MqttTransport(BrokerSettings(url=f"mqtt://127.0.0.1:{setup.port}")),
            identity=self._identity,
            settings=BusSettings(
                ephemeral=not (setup.persistent or setup.presence),
                outbox=OutboxSettings(path=setup.disk),
                connect_wait_s=0.1,
                **quick,
            ),
            will=self._will if setup.presence else None,
            on_connection=self._changed,
        )

    @property
    def ended(self) -> bool:
        return self._life is not None and self._life.done()

    @property
    def lost_count(self) -> int:
        stats = self._bus.stats
        return stats.offline_dropped + sum(it.dropped for it in stats.subscriptions.values())

    @property
    def session_lost(self) -> bool:
        return any(change.kind == "session_lost" for change in self._changes)

    async def start(self) -> None:
        await self._bus.__aenter__()
        self._life = asyncio.create_task(self._watch())
        for listen in self._setup.listens:
            await self.listen(listen)
        if self._setup.answer is not None:
            await self._bus.subscribe(ASK.any(node=self._setup.name), self._answer)
        await self._bus.connected()

    async def stop(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(10):
                await self._bus.drain(5)
        await self._bus.__aexit__(None, None, None)

    async def listen(self, listen: Listen) -> None:
        names = {"site": SITE, "node": listen.node, "kind": listen.kind}
        wanted = {key: name for key, name in names.items() if name is not None}

        async def handle(event: Event[Note]) -> None:
            await listen.handler(Got(event.payload.n, event.names["node"], event.names["kind"]))

        async def cleared(_: Cleared) -> None:
            if listen.cleared is not None:
                await listen.cleared()

        policies = {"latest": Latest(), "drop_oldest": DropOldest(messages=5)}
        options: dict[str, Any] = {"policy": policies.get(listen.queue)}
        if listen.apart:
            options["policy"] = Wait(messages=8, own_connection=True)
        if listen.retry:
            options["retry"] = RetryPolicy(attempts=3, first_delay_s=0.05)
        await self._bus.subscribe(
            TOPICS[listen.group].any(**wanted),
            handle,
            concurrency=listen.workers,
            on_cleared=cleared if listen.cleared else None,
            **options,
        )

    async def publish(
        self, group: Group, kind: str, n: int, *, expires_in_s: float | None = None
    ) -> None:
        note = Note(source=self._identity.source, n=n)
        address = TOPICS[group].at(self._identity, kind=kind)
        await self._bus.publish(address, note, expires_in_s=expires_in_s)

    async def publish_bytes(self, kind: str, data: bytes) -> None:
        await self._bus.publish(BULK.at(self._identity, kind=kind), RawBytes(data))

    async def request(self, node: str, n: int, *, timeout: float) -> int:
        ask = Ask(source=self._identity.source, n=n)
        answer = await self._bus.request(ASK.at(_identity(node)), ask, timeout=timeout)
        return answer.n

    async def listen_badly(self) -> None:
        async def never(_: RawMessage) -> None:
            return

        await self._bus.tap(f"edgebus/{SITE}/#/events", never)

    async def publish_template(self) -> None:
        await self._bus.publish(
            TOPICS["events"].at(self._identity), Note(source=self._identity.source, n=1)
        )

    async def _answer(self, event: Event[Ask]) -> None:
        assert self._setup.answer is not None
        n = await self._setup.answer(event.payload.n)
        source = self._identity.source
        await self._bus.reply(event, Answer(source=source, request=event.payload.id, ok=True, n=n))

    async def _changed(self, change: ConnectionChange) -> None:
        self._changes.append(change)
        if change.kind == "connected" and self._setup.presence:
            await self._bus.publish(*self._said("ready", change.session))

    def _will(self, session: int) -> tuple[Address[Any], ServiceState]:
        return self._said("offline", session)

    def _said(self, word: State, session: int) -> tuple[Address[Any], ServiceState]:
        state = ServiceState(
            source=self._identity.source,
            state=word,
            session=session,
            instance=str(id(self)),
            since=utc_now(),
            version="0",
        )
        return topics.SERVICE_STATE.at(self._identity), state

    async def _watch(self) -> None:
        with suppress(IdentityTakenError):
            await self._bus.watch()


class EdgeBusDriver:
    """EdgeBus."""

    name = "EdgeBus"
    package = "edgebus"
    letters: ClassVar[str | None] = "/deadletter/"
    not_offered: Mapping[str, str] = {}

    def make(self, setup: Setup) -> EdgeBusPeer:
        return EdgeBusPeer(setup)

    def note(self, n: int) -> bytes:
        return Note(source="stranger", n=n).encode()


def _identity(name: str) -> Identity:
    return Identity(site=SITE, node=name, service="probe")
