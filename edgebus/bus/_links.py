"""The connections of a bus: one for everything, and further ones for those who asked for it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias
from urllib.parse import quote

from edgebus.bus._link import Link
from edgebus.bus._takeover import ElderWatch
from edgebus.bus._tasks import Tasks
from edgebus.bus.connection import ConnectionChange, ConnectionState
from edgebus.bus.errors import IdentityTakenError
from edgebus.bus.settings import BusSettings
from edgebus.bus.transport import Connection, ConnectOptions, Transport, Will
from edgebus.contracts import Address, Identity, Payload, ServiceState

__all__ = ["Links", "WillFactory", "client_id"]

WillFactory: TypeAlias = Callable[[int], tuple[Address[Any], Payload]]
Changed: TypeAlias = Callable[[ConnectionChange, Connection | None], Awaitable[None]]


def client_id(identity: Identity, *more: str) -> str:
    """MQTT client id of an identity, without characters that brokers' ACLs refuse in ids."""
    parts = (identity.base, identity.site, identity.node, identity.service, *more)
    return ":".join(quote(part, safe="") for part in parts)


class Links:
    """Makes, names and closes the links of a bus.

    Args:
        transport: Opens connections.
        identity: Whose they are.
        settings: Limits and times.
        tasks: Runs them.
        will: Makes the last will of the main link's connection with a given session number.
        changed: Told of changes of the main link, and of lost sessions of the others.
        down: Called at once when the main link goes down.
    """

    def __init__(
        self,
        *,
        transport: Transport,
        identity: Identity,
        settings: BusSettings,
        tasks: Tasks,
        will: WillFactory | None,
        changed: Changed,
        down: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._identity = identity
        self._settings = settings
        self._tasks = tasks
        self._will = will
        self._changed = changed
        self._suffix = (secrets.token_hex(6),) if settings.ephemeral else ()
        self.main = Link(
            transport=transport,
            options=self._main_options,
            settings=settings,
            changed=changed,
            down=down,
            name="main",
            patient=will is not None,
        )
        self.first_will: ServiceState | None = None
        self._elder = ElderWatch()
        self._running: dict[Link, asyncio.Task[None] | None] = {self.main: None}

    @property
    def all(self) -> list[Link]:
        """Every link, the main one first."""
        return list(self._running)

    def start(self) -> None:
        """Begin to connect the main link."""
        self._running[self.main] = self._tasks.spawn(self.main.run(), name="link main")

    def hear(self, seen: ServiceState, *, retained: bool) -> None:
        """Leave the identity to an older process, where `seen` proves that there is one."""
        own = self.first_will
        if own is not None and self._elder.proves(seen, own=own, retained=retained):
            detail = f"process {seen.pid} on {seen.host or 'an unnamed host'}, {seen.state}"
            name = client_id(self._identity, *self._suffix)
            self.main.give_up(IdentityTakenError(client_id=name, detail=detail))

    def open(self, name: str, receive_maximum: int) -> tuple[Link, ConnectionState]:
        """Begin to connect a further link, with flow control of its own."""
        state = ConnectionState()

        async def changed(change: ConnectionChange, connection: Connection | None) -> None:
            state.update(change)
            if change.kind == "session_lost":
                await self._changed(change, connection)

        def options(_session: int) -> ConnectOptions:
            return ConnectOptions(
                client_id=client_id(self._identity, *self._suffix, name),
                session_expiry_s=0 if self._settings.ephemeral else None,
                receive_maximum=min(receive_maximum, 65535),
            )

        link = Link(
            transport=self._transport,
            options=options,
            settings=self._settings,
            changed=changed,
            down=_nothing,
            name=name,
        )
        self._running[link] = self._tasks.spawn(link.run(), name=f"link {name}")
        return link, state

    async def close(self, link: Link) -> None:
        """Close a further link."""
        task = self._running.pop(link, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await link.close()

    async def stop(self, *, politely: bool) -> None:
        """Close all connections; their tasks are over already."""
        for link in self._running:
            if politely:
                await link.close()
            else:
                link.abort()

    def _main_options(self, session: int) -> ConnectOptions:
        will = None
        if self._will is not None:
            address, payload = self._will(session)
            if self.first_will is None and isinstance(payload, ServiceState):
                self.first_will = payload
            will = Will(
                topic=address.name,
                payload=payload.encode(),
                qos=address.topic.qos,
                retain=address.topic.retain,
                content_type=address.topic.payload.content_type,
            )
        return ConnectOptions(
            client_id=client_id(self._identity, *self._suffix),
            session_expiry_s=0 if self._settings.ephemeral else None,
            will=will,
        )


def _nothing() -> None:
    """A link that publishes nothing has nothing to do when it goes down."""
