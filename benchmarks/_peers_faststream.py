"""FastStream on MQTT under the probes, each thing done as its documentation shows it.

No ``from __future__ import annotations`` here: FastStream reads the handlers' annotations.
"""

import asyncio
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import BaseModel

from benchmarks._peers_driver import SITE, Got, Group, Listen, Setup, topic

__all__ = ["FastStreamDriver"]


class Note(BaseModel):
    """A typed message."""

    n: int


class FastStreamPeer:
    """An application on an `MQTTBroker`."""

    def __init__(self, setup: Setup) -> None:
        self._faststream: Any = import_module("faststream")
        self._mqtt: Any = import_module("faststream.mqtt")
        self._setup = setup
        self._told = 0
        self._broker = self._make_broker(setup.name)
        self._apart: list[Any] = []
        self._life: asyncio.Task[None] | None = None
        for listen in setup.listens:
            self._subscribe(listen)
        if setup.answer is not None:
            ask = setup.answer

            async def answer(message: Note) -> Note:
                return Note(n=await ask(message.n))

            place = topic("cmd", "ask", node=setup.name)
            self._broker.subscriber(place, qos=self._mqtt.QoS(1))(answer)

    @property
    def ended(self) -> bool:
        return self._life is not None and self._life.done()

    @property
    def lost_count(self) -> int:
        return self._told

    @property
    def session_lost(self) -> bool:
        info = self._broker.connection_info
        return info.connection_id > 1 and not info.session_present

    async def start(self) -> None:
        if self._setup.defaults:
            app = self._faststream.FastStream(self._broker, logger=None)
            started = asyncio.Event()
            app.after_startup(started.set)
            self._life = asyncio.create_task(app.run())
            await started.wait()
            return
        for broker in (self._broker, *self._apart):
            await broker.start()

    async def stop(self) -> None:
        if self._life is not None:
            self._life.cancel()
            await asyncio.gather(self._life, return_exceptions=True)
        for broker in (self._broker, *self._apart):
            await broker.stop()

    async def listen(self, listen: Listen) -> None:
        await self._subscribe(listen).start()

    async def publish(
        self, group: Group, kind: str, n: int, *, expires_in_s: float | None = None
    ) -> None:
        qos = self._mqtt.QoS(0 if group == "readings" else 1)
        place = topic(group, kind, node=self._setup.name)
        try:
            await self._broker.publish(Note(n=n), place, qos=qos, retain=group == "status")
        except import_module("zmqtt").MQTTDisconnectedError:
            self._told += 1
            raise

    async def publish_bytes(self, kind: str, data: bytes) -> None:
        place = topic("bulk", kind, node=self._setup.name)
        await self._broker.publish(data, place, qos=self._mqtt.QoS(1))

    async def request(self, node: str, n: int, *, timeout: float) -> int:
        place = topic("cmd", "ask", node=node)
        answer = await self._broker.request(
            Note(n=n), place, timeout=timeout, qos=self._mqtt.QoS(1)
        )
        data: dict[str, int] = await answer.decode()
        return data["n"]

    async def listen_badly(self) -> None:
        async def never(message: Note) -> None:
            return

        subscriber = self._broker.subscriber(f"edgebus/{SITE}/#/events", qos=self._mqtt.QoS(1))
        subscriber(never)
        await subscriber.start()

    async def publish_template(self) -> None:
        publisher = self._broker.publisher(f"edgebus/{SITE}/{{node}}/probe/events/x")
        await publisher.publish(Note(n=1))

    def _subscribe(self, listen: Listen) -> Any:
        path, policy = self._faststream.Path, self._faststream.AckPolicy

        async def handle(
            message: Note,
            node: str = path(default=listen.node or "?"),
            kind: str = path(default=listen.kind or "?"),
        ) -> None:
            await listen.handler(Got(message.n, node, kind))

        broker = self._broker
        if listen.apart:
            broker = self._make_broker(f"{self._setup.name}-apart")
            self._apart.append(broker)
        options: dict[str, Any] = {"max_workers": listen.workers}
        if listen.retry:
            options["ack_policy"] = policy.NACK_ON_ERROR
        subscriber = broker.subscriber(
            topic(listen.group, listen.kind or "{kind}", node=listen.node or "{node}"),
            qos=self._mqtt.QoS(0 if listen.group == "readings" else 1),
            **options,
        )
        subscriber(handle)
        return subscriber

    def _make_broker(self, name: str) -> Any:
        setup = self._setup
        options: dict[str, Any] = {}
        if not setup.defaults:
            options["reconnect"] = self._mqtt.ReconnectConfig(
                initial_delay=0.1, max_delay=0.5, max_attempts=None
            )
        if setup.persistent:
            options |= {"clean_session": False, "session_expiry_interval": 3600}
        if setup.persistent or setup.presence:
            options["client_id"] = name
        if setup.presence:
            place = topic("status", "life", node=setup.name)
            options["will"] = self._mqtt.Will(
                topic=place, payload=b"offline", qos=self._mqtt.QoS(1), retain=True
            )
        return self._mqtt.MQTTBroker(f"mqtt://127.0.0.1:{setup.port}", logger=None, **options)


class FastStreamDriver:
    """FastStream on zmqtt."""

    name = "FastStream"
    package = "faststream"
    letters: ClassVar[str | None] = None
    not_offered: Mapping[str, str] = MappingProxyType(
        {
            "R5 a retained value is cleared": "an empty payload is one that does not validate",
            "A3 the same message twice": "no de-duplication",
            "Q2 only the newest waits": "no overflow policy",
            "Q3 a bounded queue, drops counted": "no overflow policy",
            "F1 an invalid payload is kept": "no dead letters",
            "C4 retained state said again": "retain=True only",
            "C5 an old will is told from a new one": "the will is fixed when the broker is made",
            "C6 two processes with one identity": "nothing looks for it",
            "P1 events published while offline": "no outbox",
            "P5 an event behind bulk": "no priorities",
            "P7 an event that expired": "publish() takes no expiry",
            "P8 events outlive the process": "no outbox",
            "M4 a command that was given up": "requests carry no expiry",
        }
    )

    def make(self, setup: Setup) -> FastStreamPeer:
        return FastStreamPeer(setup)

    def note(self, n: int) -> bytes:
        return Note(n=n).model_dump_json().encode()
