"""The connections of a bus: kept up for ever, subscribed, routed, reconnected."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias
from urllib.parse import quote

import structlog

from edgebus.bus._delivery import Route
from edgebus.bus._router import Router
from edgebus.bus._tasks import Tasks
from edgebus.bus.errors import (
    BrokerRefusedError,
    BrokerUnreachableError,
    ConnectionLostError,
    IdentityTakenError,
    SubscribeRefusedError,
)
from edgebus.bus.event import Event, RawMessage
from edgebus.bus.settings import BusSettings
from edgebus.bus.state import ConnectionChange, ConnectionState
from edgebus.bus.transport import Connection, ConnectOptions, Loss, Transport, Will
from edgebus.contracts import Address, Identity, Payload, Qos


class Backoff:
    """Exponential back-off with full jitter.

    Each delay is uniform between 0 and the current ceiling, which doubles up to a maximum, so
    that a fleet does not come back in step (Brooker, "Exponential Backoff and Jitter", 2015).

    Args:
        first: First ceiling, in seconds.
        maximum: Largest ceiling, in seconds.
        uniform: Draws from [0, 1).
    """

    def __init__(self, *, first: float, maximum: float, uniform: Callable[[], float]) -> None:
        self._first = first
        self._maximum = maximum
        self._uniform = uniform
        self._ceiling = first

    def next(self) -> float:
        """Seconds to wait before the next attempt."""
        delay = self._ceiling * self._uniform()
        self._ceiling = min(self._maximum, self._ceiling * 2)
        return delay

    def reset(self) -> None:
        """Start from the first ceiling again."""
        self._ceiling = self._first


_YOUNG_S = 30.0
_WINDOW_S = 300.0
_MAX_TAKEOVERS = 5


class TakeoverJudge:
    """Decides when to give up where the broker itself reports a take-over (MQTT 5, 0x8E).

    Whoever is young gives up at once; since the two are thrown out in turns, and whoever gives up
    does not come back, exactly one stays.

    Args:
        patient: Births show which of the two is older; only a long fight ends it without them.
    """

    def __init__(self, *, patient: bool) -> None:
        self._patient = patient
        self._born: float | None = None
        self._takeovers: list[float] = []

    def connected(self, now: float) -> None:
        """A connection was made at `now`, in seconds of a monotonic clock."""
        if self._born is None:
            self._born = now

    def lost(self, loss: Loss, now: float) -> str | None:
        """A connection ended. Why to give up, or None to reconnect."""
        if loss.kind != "taken_over":
            return None
        self._takeovers = [at for at in self._takeovers if now - at < _WINDOW_S] + [now]
        young = self._born is None or now - self._born < _YOUNG_S
        if len(self._takeovers) < (1 if young and not self._patient else _MAX_TAKEOVERS):
            return None
        return f"the broker reported a take-over, {len(self._takeovers)} in five minutes"


# A connection that held this long proves that the trouble before it is over.
_STABLE_S = 10.0
_PAUSE_S = 0.05
# A subscription that the broker refuses: for how long its maker waits, and how often it is asked.
_INSIST_S = 10.0
_ASK_FIRST_S = 0.5
_ASK_MAX_S = 5.0


class Link:
    """One client of the broker with its subscriptions.

    Args:
        transport: Opens the connections.
        options: Makes the options of the connection with the given session number.
        settings: Limits and times.
        changed: Called in the link's task after each change.
        down: Called at once when a connection ends, before `changed`.
        name: Of this link, for logs.
        patient: Births show another process with this identity; see `TakeoverJudge`.
    """

    def __init__(
        self,
        *,
        transport: Transport,
        options: Callable[[int], ConnectOptions],
        settings: BusSettings,
        changed: Callable[[ConnectionChange, Connection | None], Awaitable[None]],
        down: Callable[[], None],
        name: str,
        patient: bool = False,
    ) -> None:
        self.router = Router()
        self.connection: Connection | None = None
        self.trouble = ""
        """Reason why the last try to connect failed; empty while connected."""
        self.subscribing = False
        """While true, events that no handler wants yet go on waiting for one."""
        self._transport = transport
        self._options = options
        self._settings = settings
        self._changed = changed
        self._down = down
        self._unweighed = 0
        self._filters: dict[str, Qos] = {}
        self._routes: list[Route] = []
        self._refused: set[str] = set()
        self._session = 0
        self._had_session = False
        self._lost: asyncio.Future[Loss] | None = None
        self._paused = False
        self._judge = TakeoverJudge(patient=patient)
        self._given_up: IdentityTakenError | None = None
        self._log = structlog.get_logger("edgebus.bus").bind(link=name, broker=transport.url)
        self._grace: asyncio.TimerHandle | None = None

    # What the connection calls.

    def received(self, message: RawMessage) -> None:
        """A message came in."""
        self.router.route(message)
        # Weighing every queue for every message would cost more than the message.
        self._unweighed += len(message.payload)
        if self._unweighed > self._settings.max_held_bytes // 16:
            self._unweighed = 0
            if not self._paused and self._held() > self._settings.max_held_bytes:
                self._pause()

    def lost(self, loss: Loss) -> None:
        """The connection ended."""
        self.connection = None
        self._end_grace()
        self.router.disconnect()
        self._down()
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(loss)

    # What the bus calls.

    async def add(self, route: Route, qos: Qos) -> None:
        """Route messages to a consumer, and have the broker send them.

        Returns after the broker's answer where there is a connection; else the subscription is
        made when there is one. A broker that refuses is asked again for a while: a node of a
        cluster refuses what it could do once a leader is elected, and MQTT 3.1.1 gives no reason.

        Raises:
            SubscribeRefusedError: The broker does not allow it.
        """
        self.router.add(route)
        self._routes.append(route)
        self._filters[route.filter] = max(qos, self._filters.get(route.filter, 0), key=int)
        backoff = Backoff(first=_ASK_FIRST_S, maximum=_ASK_MAX_S, uniform=random.random)
        until = time.monotonic() + _INSIST_S
        while (connection := self.connection) is not None and route in self._routes:
            try:
                # Also for a filter that is there already: the broker then sends retained values
                # again.
                await connection.subscribe([(route.filter, self._filters[route.filter])])
            except ConnectionLostError:
                return  # made again with the next connection
            except SubscribeRefusedError as error:
                if time.monotonic() > until:
                    await self.remove(route)
                    raise
                self._refuse(error)
                await asyncio.sleep(backoff.next())
            else:
                self._refused.discard(route.filter)
                return

    async def remove(self, route: Route) -> None:
        """Stop routing to a consumer; the last route of a filter takes the filter along."""
        if route not in self._routes:
            return
        self.router.remove(route)
        self._routes.remove(route)
        if any(other.filter == route.filter for other in self._routes):
            return
        self._filters.pop(route.filter, None)
        self._refused.discard(route.filter)
        if self.connection is not None:
            try:
                await self.connection.unsubscribe([route.filter])
            except ConnectionLostError:
                return

    def give_up(self, error: IdentityTakenError) -> None:
        """Leave the identity to another process: `run` ends with `error`."""
        self._given_up = error
        self.lost(Loss("taken_over", error.detail))

    async def run(self) -> None:
        """Keep the connection up until cancelled.

        Raises:
            IdentityTakenError: Another process uses the same client id.
        """
        backoff = Backoff(
            first=self._settings.backoff_first_s,
            maximum=self._settings.backoff_max_s,
            uniform=random.random,
        )
        while True:
            self._session = max(self._session + 1, time.time_ns() // 1_000_000)
            options = self._options(self._session)
            self._lost = asyncio.get_running_loop().create_future()
            try:
                connection = await self._transport.connect(options, self)
            except (BrokerUnreachableError, BrokerRefusedError) as error:
                if error.reason != self.trouble:
                    self.trouble = error.reason
                    self._log.warning("no connection, trying on", reason=error.reason)
                await asyncio.sleep(backoff.next())
                continue
            self.trouble = ""
            started = time.monotonic()
            self._judge.connected(started)
            loss = await self._live(connection, self._lost)
            if self._given_up is not None:
                await connection.close()  # politely: no will over the other's birth
                raise self._given_up
            now = time.monotonic()
            why = self._judge.lost(loss, now)
            if why is not None:
                raise IdentityTakenError(client_id=options.client_id, detail=why)
            if now - started >= _STABLE_S:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    async def close(self) -> None:
        """Disconnect from the broker."""
        connection, self.connection = self.connection, None
        self._end_grace()
        if connection is not None:
            await connection.close()

    def abort(self) -> None:
        """Cut the connection as a crash does."""
        connection, self.connection = self.connection, None
        self._end_grace()
        if connection is not None:
            connection.abort()

    async def _live(self, connection: Connection, lost: asyncio.Future[Loss]) -> Loss:
        """From CONNACK to the end of a connection."""
        present = connection.session_present
        self.router.connect(connection.acknowledge, park=present)
        for route in self._routes:
            route.seen.clear()
        self._paused = False
        self.connection = connection
        if present or self.router.restored:
            self._start_grace()
        connection.start()
        try:
            refused = await self._resubscribe(connection)
        except ConnectionLostError:
            return await lost
        number = self._session
        if self._had_session and not present:
            self._log.warning("session lost; events may be missing")
            await self._changed(ConnectionChange(kind="session_lost", session=number), connection)
        self._had_session = True
        self._log.info("connected", session=number, session_present=present)
        up = ConnectionChange(kind="connected", session=number, session_present=present)
        await self._changed(up, connection)
        loss = await self._insist(connection, refused, lost)
        self._log.warning("connection lost", reason=loss.reason)
        down = ConnectionChange(kind="lost", session=number, reason=loss.reason)
        await self._changed(down, None)
        return loss

    async def _resubscribe(self, connection: Connection) -> set[str]:
        """Make every subscription on a new connection, those that came meanwhile included.

        Returns:
            The filters that the broker refused. The rest of the service goes on without them.
        """
        live: dict[str, Qos] = {}
        refused: set[str] = set()
        while missing := [item for item in self._filters.items() if live.get(item[0]) != item[1]]:
            try:
                await connection.subscribe(missing)
            except SubscribeRefusedError:
                refused |= await self._ask(connection, [name for name, _ in missing])
            live.update(missing)
        return refused

    async def _insist(
        self, connection: Connection, refused: set[str], lost: asyncio.Future[Loss]
    ) -> Loss:
        """Until the connection ends, ask again and again for what the broker refused."""
        backoff = Backoff(first=_ASK_FIRST_S, maximum=_ASK_MAX_S, uniform=random.random)
        while refused:
            await asyncio.wait([lost], timeout=backoff.next())
            if lost.done():
                break
            try:
                refused = await self._ask(connection, sorted(refused))
            except ConnectionLostError:
                break
        return await lost

    async def _ask(self, connection: Connection, filters: Sequence[str]) -> set[str]:
        """Subscribe one by one, to those that are still wanted; the ones that were refused."""
        refused: set[str] = set()
        for name in filters:
            qos = self._filters.get(name)
            if qos is None:
                self._refused.discard(name)
                continue
            try:
                await connection.subscribe([(name, qos)])
            except SubscribeRefusedError as error:
                refused.add(name)
                self._refuse(error)
            else:
                if name in self._refused:
                    self._refused.discard(name)
                    self._log.info("subscription made after all", filter=name)
        return refused

    def _refuse(self, error: SubscribeRefusedError) -> None:
        """Log a refusal once for as long as it lasts."""
        if error.filter not in self._refused:
            self._refused.add(error.filter)
            self._log.error(
                "subscription refused, asking again", filter=error.filter, reason=error.reason
            )

    def _held(self) -> int:
        return sum(consumer.held_bytes for consumer in {route.consumer for route in self._routes})

    def _pause(self) -> None:
        if self.connection is not None:
            self._paused = True
            self.connection.pause_reading()
            self._log.warning(
                "reading paused: handlers are behind",
                held_bytes=self._held(),
                limit=self._settings.max_held_bytes,
            )
            asyncio.get_running_loop().call_later(_PAUSE_S, self._resume_if_lighter)

    def _resume_if_lighter(self) -> None:
        """Read on once handlers have worked off half of what made reading pause."""
        if not self._paused or self.connection is None:
            return
        if self._held() > self._settings.max_held_bytes // 2:
            asyncio.get_running_loop().call_later(_PAUSE_S, self._resume_if_lighter)
            return
        self._paused = False
        self.connection.resume_reading()
        self._log.info("reading again")

    def _unpark(self) -> None:
        if self.subscribing:
            self._start_grace()
            return
        self._grace = None
        count = self.router.unpark()
        if count:
            self._log.warning("events of the old session that no handler wants", count=count)

    def _start_grace(self) -> None:
        loop = asyncio.get_running_loop()
        self._grace = loop.call_later(self._settings.orphan_grace_s, self._unpark)

    def _end_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None


WillFactory: TypeAlias = Callable[[int], tuple[Address[Any], Payload]]
IdentityCheck: TypeAlias = Callable[[Event[Any], Any], str | None]
"""Decision on a message on the will's topic, given the own first will.

None: go on; a description of another process: leave the identity to it.
"""
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
        changed: Called with changes of the main link, and with lost sessions of the others.
        down: Called at once when the main link goes down.
        patient: Of the main link; see `TakeoverJudge`.
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
        patient: bool,
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
            patient=patient,
        )
        self.first_will: Payload | None = None
        self._running: dict[Link, asyncio.Task[None] | None] = {self.main: None}

    @property
    def all(self) -> list[Link]:
        """Every link, the main one first."""
        return list(self._running)

    def start(self) -> None:
        """Begin to connect the main link."""
        self._running[self.main] = self._tasks.spawn(self.main.run(), name="link main")

    def give_up(self, other: str) -> None:
        """Leave the identity to another process, described by `other`."""
        name = client_id(self._identity, *self._suffix)
        self.main.give_up(IdentityTakenError(client_id=name, detail=other))

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
            if self.first_will is None:
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
