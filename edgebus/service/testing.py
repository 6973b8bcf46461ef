"""Harness that runs one service inside a test, on the in-memory broker.

::

    async with ServiceHarness(Totals) as harness:
        await harness.publish(READINGS.at(harness.node("pi-01"), meter="roof"), reading)
        event = await harness.expect(TOTALS)
        assert event.payload.total == 2
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from edgebus.bus import Bus, BusSettings, Event, MemoryBroker, MemoryTransport, RawMessage
from edgebus.contracts import (
    Address,
    Command,
    CommandTopic,
    Identity,
    Message,
    Payload,
    RecordPayload,
    Reply,
    ServiceState,
    State,
    Topic,
    topics,
)
from edgebus.contracts.registry import all_topics
from edgebus.service.runtime import Runtime
from edgebus.service.service import Service
from edgebus.service.settings import NodeSettings, ServiceSettings

S = TypeVar("S", bound=ServiceSettings)
P = TypeVar("P", bound=Payload)
C = TypeVar("C", bound=Command)
R = TypeVar("R", bound=Reply)

_PATIENCE_S = 10.0
_EVERY_SERVICE = (
    topics.SERVICE_STATE,
    topics.SERVICE_METRICS,
    topics.DEAD_LETTER,
    topics.DEAD_LETTER_PAYLOAD,
    topics.REPLY,
)


class ServiceHarness(Generic[S]):
    """A service under test, and a bus of the test's own on the same broker.

    Entering waits until the service is ready (or degraded); leaving stops it cleanly. A service
    that goes down makes whatever the test waits for raise its error. On leaving, an
    AssertionError names what the service has published without declaring it.

    Args:
        kind: The service's class.
        settings: Its settings; all defaults without.
        data_dir: The node's data folder; a temporary one without.
        broker: To share with other harnesses, or to stop and start; a new one without.
        also: Topics of the test's own, besides the registered ones and those that the service
            declares, that `expect` shall see.
        node: More settings of the node: ``site``, ``node``, ``heartbeat_s`` …
    """

    def __init__(
        self,
        kind: type[Service[S]],
        settings: S | None = None,
        *,
        data_dir: Path | None = None,
        broker: MemoryBroker | None = None,
        also: Sequence[Topic[Any]] = (),
        **node: Any,
    ) -> None:
        self.broker = broker or MemoryBroker()
        self.stop_event = asyncio.Event()
        self._kind = kind
        self._settings = settings
        self._data_dir = data_dir
        self._also = (*kind.publishes, *also)
        self._undeclared: set[str] = set()
        self._node = {"site": "lab", "node": "pi-01", "heartbeat_s": 60.0} | node
        self._stack = AsyncExitStack()
        self._seen: list[Event[Any]] = []
        self._news = asyncio.Condition()
        self._life: asyncio.Task[None] | None = None
        self._bus: Bus | None = None
        self._runtime: Runtime[S] | None = None

    async def __aenter__(self) -> Self:
        if self._data_dir is None:
            self._data_dir = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        node = NodeSettings(data_dir=self._data_dir, **self._node)
        settings = self._settings
        if settings is None:
            settings = self._kind.settings_type()  # type: ignore[assignment]
        assert settings is not None
        self._runtime = Runtime(
            self._kind, node=node, settings=settings, transport=MemoryTransport(self.broker)
        )
        identity = Identity(base=node.base, site=node.site, node="test", service="test")
        bus = Bus(
            MemoryTransport(self.broker), identity=identity, settings=BusSettings(ephemeral=True)
        )
        self._bus = await self._stack.enter_async_context(bus)
        await self._record_everything(node.base)
        self._life = asyncio.create_task(
            self._runtime.run(self.stop_event, look_first=False), name="service under test"
        )
        try:
            await self.wait_for_state("ready", "degraded")
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop_event.set()
        try:
            if self._life is not None and kind is None:
                await self._life
            elif self._life is not None:
                # The test has failed already; its error is the one to see.
                await asyncio.gather(self._life, return_exceptions=True)
        finally:
            await self._stack.aclose()
        if kind is None and self._undeclared:
            msg = (
                f"{self._kind.__name__} has published on {', '.join(sorted(self._undeclared))}, "
                "which its `publishes` does not declare"
            )
            raise AssertionError(msg)

    @property
    def service(self) -> Service[S]:
        """The service itself."""
        assert self._runtime is not None
        assert self._runtime.service is not None
        return self._runtime.service

    @property
    def identity(self) -> Identity:
        """Of the service."""
        assert self._runtime is not None
        return self._runtime.identity

    @property
    def bus(self) -> Bus:
        """The test's own bus, as ``lab/test/test``."""
        assert self._bus is not None
        return self._bus

    def node(self, node: str, service: str = "test") -> Identity:
        """An identity on another node of the same site, to publish as."""
        own = self.identity
        return Identity(base=own.base, site=own.site, node=node, service=service)

    async def publish(self, address: Address[P], payload: P) -> None:
        """Publish from the test, as whoever's topic it is, whatever the payload's source."""
        source = {"source": address.sender}
        if isinstance(payload, RecordPayload) and address.sender:
            payload = payload.with_record(payload.record.model_copy(update=source))
        elif isinstance(payload, Message) and address.sender:
            payload = payload.model_copy(update=source)
        await self.bus.publish(address, payload)

    async def request(
        self, topic: CommandTopic[C, R], command: C, *, timeout: float = _PATIENCE_S
    ) -> R:
        """Send the service a command and wait for its answer."""
        return await self.bus.request(topic.at(self.identity), command, timeout=timeout)

    async def expect(
        self,
        topic: Topic[P],
        timeout: float = _PATIENCE_S,
        *,
        where: Callable[[Event[P]], bool] = lambda event: True,
    ) -> Event[P]:
        """The first message of a topic that no `expect` took before; waits for it.

        Args:
            topic: Of any publisher.
            timeout: Seconds to wait.
            where: Only messages for which this is true; others stay for later.

        Raises:
            AssertionError: None came in time; the message says what came instead.
        """
        event: Event[P] = await self._wait(
            lambda: self._take(topic, where), timeout, f"no {topic.address}"
        )
        return event

    def received(self, topic: Topic[P]) -> list[Event[P]]:
        """Messages of a topic that no `expect` took, in order of arrival."""
        return [event for event in self._seen if _is_of(event, topic)]

    async def wait_for_state(self, *states: State, timeout: float = _PATIENCE_S) -> ServiceState:
        """Wait until the service says one of these states."""

        def said() -> ServiceState | None:
            mine = topics.SERVICE_STATE.at(self.identity).name
            of_mine = [event.payload for event in self._seen if event.topic == mine]
            return of_mine[-1] if of_mine and of_mine[-1].state in states else None

        found: ServiceState = await self._wait(said, timeout, f"not {' or '.join(states)}")
        return found

    async def finished(self, timeout: float = _PATIENCE_S) -> None:
        """Wait until the service has ended by itself.

        Raises:
            ServiceError: What it ended with.
        """
        assert self._life is not None
        life, self._life = self._life, None
        await asyncio.wait_for(life, timeout)

    async def _record_everything(self, base: str) -> None:
        for topic in dict.fromkeys((*all_topics().values(), *self._also)):
            await self.bus.subscribe(topic.any(base=base), self._see, deduplicate=False)
        await self.bus.tap(f"{self.identity.prefix}/#", self._check_declared, qos=1)

    async def _check_declared(self, message: RawMessage) -> None:
        declared = (*self.service.publishes, *_EVERY_SERVICE)
        # Commands below its prefix come from others, retained values from a life before.
        asked = message.topic.removeprefix(f"{self.identity.prefix}/").startswith("cmd/")
        if not (asked or message.retained or any(t.parse(message.topic) for t in declared)):
            self._undeclared.add(message.topic)

    async def _see(self, event: Event[Any]) -> None:
        async with self._news:
            self._seen.append(event)
            self._news.notify_all()

    def _take(self, topic: Topic[P], where: Callable[[Event[P]], bool]) -> Event[P] | None:
        for event in self._seen:
            if _is_of(event, topic) and where(event):
                self._seen.remove(event)
                return event
        return None

    async def _wait(self, look: Callable[[], Any], timeout: float, missing: str) -> Any:
        try:
            async with asyncio.timeout(timeout):
                return await self._found_or_dead(look)
        except TimeoutError:
            came = ", ".join(sorted({event.topic for event in self._seen})) or "nothing"
            msg = f"{missing} within {timeout:g} s; what came: {came}"
            raise AssertionError(msg) from None

    async def _found_or_dead(self, look: Callable[[], Any]) -> Any:
        async def watch() -> Any:
            async with self._news:
                while (found := look()) is None:
                    await self._news.wait()
                return found

        watching = asyncio.create_task(watch())
        waited: set[asyncio.Task[Any]] = {watching}
        if self._life is not None:
            waited.add(self._life)
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if not watching.done() and self._life is not None:
                await self._life  # it died: its error says why nothing comes
            return await watching
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


def _is_of(event: Event[Any], topic: Topic[Any]) -> bool:
    return isinstance(event.payload, topic.payload) and topic.parse(event.topic) is not None
