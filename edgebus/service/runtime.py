"""Runtime of one service: connect, announce, start, listen, beat, drain, stop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Generic, TypeVar

import structlog

from edgebus.bus import (
    Bus,
    BusError,
    BusSettings,
    ConnectionChange,
    DrainTimeoutError,
    Event,
    IdentityTakenError,
    MessageTooLargeError,
    OutboxFullError,
    Transport,
    is_ours,
)
from edgebus.contracts import Identity, ServiceState, State, topics
from edgebus.service.declare import EveryDeclaration
from edgebus.service.errors import DuplicateIdentityError, ServiceError, ServiceFailedError
from edgebus.service.identity import IdentityGuard, find_running_instance, folder_lock, judge
from edgebus.service.listen import subscribe_all, tick
from edgebus.service.metrics import MetricsRegistry
from edgebus.service.presence import ALIVE, Presence
from edgebus.service.selftest import SelfTest, watch_broker
from edgebus.service.service import Service, ServiceContext
from edgebus.service.settings import NodeSettings, ServiceSettings
from edgebus.service.vitals import Vitals

S = TypeVar("S", bound=ServiceSettings)
R = TypeVar("R")

_PUBLISH_END_S = 2.0


class Runtime(Generic[S]):
    """One service on one transport.

    Args:
        kind: The service's class.
        node: The node's settings.
        settings: The service's own settings.
        transport: Carries its messages.
        version: Version of the service's package.
    """

    def __init__(
        self,
        kind: type[Service[S]],
        *,
        node: NodeSettings,
        settings: S,
        transport: Transport,
        version: str = "",
    ) -> None:
        self.identity = Identity(base=node.base, site=node.site, node=node.node, service=kind.name)
        self.presence = Presence(identity=self.identity, version=version)
        self.metrics = MetricsRegistry()
        self.service: Service[S] | None = None
        self._kind = kind
        self._node = node
        self._settings = settings
        self._transport = transport
        self._bus: Bus | None = None
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._older: str | None = None
        self._own: tuple[State, str] = ("ready", "")
        self._session_lost = False
        self._broker_trouble = ""
        self._test = SelfTest(
            identity=self.identity, instance=self.presence.instance, publish=self._publish_state
        )
        self._started = False
        self._log = structlog.get_logger().bind(service=kind.name)

    # The life of a service.

    async def run(self, stop: asyncio.Event, *, look_first: bool = True) -> None:
        """Live until `stop` is set, and end cleanly.

        Args:
            stop: Ends the life: drain, stop, disconnect.
            look_first: Look whether somebody lives under this identity already.

        Raises:
            DuplicateIdentityError: Another process runs this service on this node.
            ServiceFailedError: The start, the stop or a task failed; the reason is in the state on
                the bus.
        """
        with folder_lock(self._node, self.identity):
            if look_first:
                await self._refuse_second(stop)
            if stop.is_set():
                return
            try:
                async with self._open_bus() as bus:
                    await self._live(bus, stop)
            except (BaseExceptionGroup, BusError) as error:
                explained = self._explain(error)
                raise explained from _cause(explained, error)

    async def _refuse_second(self, stop: asyncio.Event) -> None:
        looking = find_running_instance(
            self._transport,
            identity=self.identity,
            settings=self._node.bus,
            heartbeat_s=self._node.heartbeat_s,
        )
        incumbent = await _unless(stop, looking)
        if incumbent is not None:
            raise DuplicateIdentityError(self.identity.source, other=incumbent)

    def _open_bus(self) -> Bus:
        state = topics.SERVICE_STATE.at(self.identity)
        return Bus(
            self._transport,
            identity=self.identity,
            settings=self._bus_settings(),
            will=lambda session: (state, self.presence.will(session)),
            on_connection=self._connection_changed,
            identity_check=IdentityGuard().check,
        )

    def _bus_settings(self) -> BusSettings:
        """The node's, with the outbox on disk in the service's own folder."""
        settings = self._node.bus
        if settings.outbox.path is not None:
            return settings
        folder = self._node.data_dir / self._kind.name
        outbox = settings.outbox.model_copy(update={"path": folder})
        return settings.model_copy(update={"outbox": outbox})

    async def _live(self, bus: Bus, stop: asyncio.Event) -> None:
        bus.subscribing(True)
        service = self.service = self._kind(self._context(bus))
        self._bus = bus
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self.spawn(bus.watch(), name="bus")
                self.spawn(self._watch_outbox(bus), name="outbox")
                await bus.subscribe(
                    topics.SERVICE_STATE.any(**asdict(self.identity)),
                    self._on_state,
                    name="identity",
                )
                await self._publish_state_now(bus)
                self.spawn(self._announcer(service), name="presence")
                self.spawn(watch_broker(bus, self._test, self._broker_tested), name="self-test")
                await _unless(stop, self._start(service, bus))
                await stop.wait()
                self._change("draining")
                await self._publish_state_now(bus)
                unfinished = await self._drain(bus)
                for task in self._tasks:
                    task.cancel()
            if self._started:
                await self._within("stop", service.stop())
            self._change("stopped", unfinished)
            await self._publish_state()
        except (BaseExceptionGroup, ServiceFailedError) as failure:
            error = self._explain(failure)
            await self._publish_end(error)
            raise error from _cause(error, failure)
        finally:
            self._bus = None

    def _context(self, bus: Bus) -> ServiceContext[S]:
        return ServiceContext(
            identity=self.identity,
            node=self._node,
            settings=self._settings,
            bus=bus,
            metrics=self.metrics,
            host=self,
        )

    async def _start(self, service: Service[S], bus: Bus) -> None:
        await self._within("start", service.start())
        self._started = True
        await subscribe_all(service, bus)
        bus.subscribing(False)
        for method, declaration in service.declarations:
            if isinstance(declaration, EveryDeclaration):
                self.spawn(tick(service, method, declaration), name=method)
        self.spawn(self._beat(bus), name="heartbeat")
        if self.presence.state == "starting":
            self._judge_state(bus)

    async def _drain(self, bus: Bus) -> str:
        """Finish what was accepted; what could not be finished, in words."""
        try:
            await bus.drain(self._node.drain_s)
        except DrainTimeoutError as error:
            self._log.warning("not drained", reason=str(error))
            return str(error)
        return ""

    async def _beat(self, bus: Bus) -> None:
        address = topics.SERVICE_METRICS.at(self.identity)
        vitals = Vitals(self.metrics)
        while True:
            message = vitals.message(session=self.presence.session, stats=bus.stats)
            try:
                await bus.publish(address, message)
            except MessageTooLargeError as error:
                # The figures of the process itself are what tells that it lives.
                self._log.warning("heartbeat without counters and gauges", reason=str(error))
                bare = message.model_copy(update={"counters": {}, "gauges": {}})
                await bus.publish(address, bare)
            await asyncio.sleep(self._node.heartbeat_s)

    # What the service may ask of its host.

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> None:
        """Supervise a task: if it fails, the service goes down; when it stops, so does the task.

        Raises:
            RuntimeError: The service is not running.
        """
        if self._group is None:
            coroutine.close()
            msg = f"{self.identity} does not run yet; spawn {name} in start(), not in __init__"
            raise RuntimeError(msg)
        task = self._group.create_task(
            self._within(f"task {name}", coroutine), name=f"{self.identity}:{name}"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def set_state(self, state: State, reason: str) -> None:
        """Announce *ready* or *degraded*; nothing once the service is stopping.

        Raises:
            ValueError: The state is not a service's own to set.
        """
        if state not in ("ready", "degraded"):
            msg = f"a service sets itself ready or degraded; {state} is the runtime's to set"
            raise ValueError(msg)
        if self.presence.state in ("starting", "ready", "degraded"):
            self._own = (state, reason)
            self._judge_state(self._bus)

    # Presence.

    def _judge_state(self, bus: Bus | None) -> None:
        """Enter the state that the service has set, together with the bus's own trouble."""
        state, reason = self._own
        troubles = [self._broker_trouble, bus.outbox.trouble if bus is not None else ""]
        if any(troubles):
            state = "degraded"
            reason = "; ".join(part for part in (reason, *troubles) if part)
        self._change(state, reason)

    def _broker_tested(self, trouble: str) -> None:
        """The self-test found something, or no longer does."""
        self._broker_trouble = trouble
        if trouble:
            self._log.warning("the broker does not do what services need", reason=trouble)
        else:
            self._log.info("the broker does what services need after all")
        if self.presence.state in ("ready", "degraded"):
            self._judge_state(self._bus)

    async def _watch_outbox(self, bus: Bus) -> None:
        """Follow whether events that wait would outlive the process."""
        while True:
            await bus.outbox.changed()
            if self.presence.state in ("ready", "degraded"):
                self._judge_state(bus)

    def _change(self, state: State, reason: str = "") -> None:
        if self.presence.change(state, reason):
            extra = {"reason": reason} if reason else {}
            self._log.info(state, session=self.presence.session, **extra)
            self._news.set()

    async def _connection_changed(self, change: ConnectionChange) -> None:
        if change.kind == "connected":
            self.presence.session = change.session
            self._news.set()
        elif change.kind == "session_lost":
            self._session_lost = True
            self._news.set()

    async def _announcer(self, service: Service[S]) -> None:
        """Publish the state on each connection and change, and whenever the topic holds another."""
        while True:
            await self._news.wait()
            if not (self._news.is_set() or self._older or self._session_lost):
                continue  # published by `_publish_state_now` meanwhile
            self._news.clear()
            if self._older is not None:
                raise DuplicateIdentityError(self.identity.source, other=self._older)
            if self._session_lost:
                self._session_lost = False
                self.metrics.counter("bus.sessions_lost")
                await service.session_lost()
            await self._publish_state()

    async def _on_state(self, event: Event[ServiceState]) -> None:
        seen = event.payload
        self._test.heard(seen)
        verdict = judge(self.presence, seen, retained=event.retained)
        if verdict == "ignore":
            return
        other = f"process {seen.pid} on {seen.host}"
        if verdict == "yield":
            self._older = other
        elif seen.state in ALIVE:
            self._log.warning("another process wants this identity; it stays here", other=other)
        self._news.set()

    async def _publish_state(self) -> None:
        if self._bus is None:
            return
        # A full outbox loses nothing: the bus publishes retained state again after the reconnect.
        with suppress(OutboxFullError):
            await self._bus.publish(topics.SERVICE_STATE.at(self.identity), self.presence.message())

    async def _publish_state_now(self, bus: Bus) -> None:
        """Publish the state before going on; without a connection the next birth does."""
        self._news.clear()
        if bus.connection.connected:
            await self._publish_state()

    async def _publish_end(self, error: ServiceError) -> None:
        """Publish the reason of the end; nothing where the identity is another's."""
        if isinstance(error, DuplicateIdentityError):
            return
        self.presence.change("stopped", getattr(error, "reason", str(error)))
        with suppress(TimeoutError, BusError):
            async with asyncio.timeout(_PUBLISH_END_S):
                await self._publish_state()

    # Failure.

    async def _within(self, part: str, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a part of the service; its error names the part."""
        try:
            await coroutine
        except (DuplicateIdentityError, IdentityTakenError, ServiceFailedError):
            raise
        except BaseException as error:
            # A task that a stranger's CancelledError ends would be missed by nobody.
            if is_ours(error):
                raise
            reason = f"{part}: {type(error).__name__}: {error}"
            code = getattr(error, "exit_code", 1)
            raise ServiceFailedError(self.identity.source, reason=reason, exit_code=code) from error

    def _explain(self, error: BaseException) -> ServiceError:
        """The one error that explains a group of them."""
        leaves = list(_leaves(error))
        for leaf in leaves:
            if isinstance(leaf, DuplicateIdentityError):
                return leaf
            if isinstance(leaf, IdentityTakenError):
                return DuplicateIdentityError(self.identity.source, other=leaf.detail)
        for leaf in leaves:
            if isinstance(leaf, ServiceError):
                return leaf
        reason = "; ".join(f"{type(leaf).__name__}: {leaf}" for leaf in leaves)
        return ServiceFailedError(self.identity.source, reason=reason)


def _cause(explained: ServiceError, error: BaseException) -> BaseException | None:
    """Cause of an error: its own where it is a part of the group itself."""
    return explained.__cause__ if explained in _leaves(error) else error


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error


async def _unless(stop: asyncio.Event, coroutine: Coroutine[Any, Any, R]) -> R | None:
    """Await a coroutine, or cancel it when `stop` is set."""
    task = asyncio.create_task(coroutine)
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            return None
        return task.result()
    finally:
        for one in (task, stopped):
            one.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)
