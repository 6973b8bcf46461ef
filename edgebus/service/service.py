"""The base of all services."""

from __future__ import annotations

import inspect
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, get_args, get_origin

import structlog

from edgebus.bus import Bus, MessageTooLargeError
from edgebus.contracts import (
    CommandTopic,
    Identity,
    NameRefusedError,
    Payload,
    State,
    Topic,
    check_segment,
)
from edgebus.service.declare import (
    CommandDeclaration,
    Declaration,
    EveryDeclaration,
    declarations_of,
)
from edgebus.service.errors import DeclarationError
from edgebus.service.metrics import MetricsRegistry
from edgebus.service.settings import NodeSettings, ServiceSettings
from edgebus.service.tracing import Tracer

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

S = TypeVar("S", bound=ServiceSettings)
P = TypeVar("P", bound=Payload)


class Host(Protocol):
    """Runtime, as the service that it runs sees it."""

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> None:
        """Supervise a task."""
        ...

    async def set_state(self, state: State, reason: str) -> None:
        """Announce a state."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceContext(Generic[S]):
    """Surroundings of a service; the runtime or a test's harness makes them."""

    identity: Identity
    node: NodeSettings
    settings: S
    bus: Bus
    metrics: MetricsRegistry
    host: Host


class Service(Generic[S]):
    """One service: typed handlers declared on topics, typed settings, a life cycle.

    ::

        class Totals(Service[TotalsSettings]):
            '''Adds up what each meter reads.'''

            name = "totals"
            publishes = (TOTALS,)

            @on(READINGS)
            async def add(self, reading: Reading, meter: str) -> None: ...

    The order of a life: `start`, subscriptions and `@every` begin, *ready*; on SIGTERM *draining*
    (what was accepted is finished), `stop`, *stopped*. Override `start` and `stop`, not
    ``__init__``.

    Attributes:
        publishes: The topics that it publishes on; others are refused by `publish`. A service
            whose settings name the topics declares those of its defaults, and in `start` its own.
        subscribes: Topics that it subscribes to by hand, besides those of its handlers.
        bus: The bus, connected.
        identity: base, site, node and name of this service.
        settings: Its own settings.
        node: The node's settings.
        data_dir: Its own folder, for what must survive a restart; exists.
        log: A logger bound to the service's name.
        metrics: Counters, gauges and timings, sent with each heartbeat.
        tracer: Makes the steps of a trace, each with the traceparent for what it publishes.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[ServiceSettings]] = ServiceSettings
    publishes: tuple[Topic[Any], ...] = ()
    subscribes: ClassVar[tuple[Topic[Any], ...]] = ()
    declarations: ClassVar[tuple[tuple[str, Declaration], ...]] = ()

    def __init__(self, context: ServiceContext[S]) -> None:
        self._host = context.host
        self.bus: Bus = context.bus
        self.identity: Identity = context.identity
        self.settings: S = context.settings
        self.node: NodeSettings = context.node
        self.data_dir: Path = context.node.data_dir / self.name
        self.metrics: MetricsRegistry = context.metrics
        self.tracer = Tracer(self.name)
        self._too_large: set[str] = set()
        self.log: FilteringBoundLogger = structlog.get_logger().bind(service=self.name)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.settings_type = _settings_type_of(cls)
        cls.declarations = tuple(declarations_of(cls))
        if not isinstance(getattr(cls, "name", None), str):
            # A base class for services of one kind; only what is run needs a name.
            return
        try:
            check_segment(cls.name, what="service")
        except NameRefusedError as error:
            raise DeclarationError(str(error)) from error
        for method, declaration in cls.declarations:
            _check(cls, method, declaration)
        for topic in cls.publishes:
            if topic.levels[3] not in ("{service}", cls.name):
                msg = f"{cls.__name__} cannot publish {topic.address}: it is not named so"
                raise DeclarationError(msg)

    @classmethod
    def summary(cls) -> str:
        """The first line of its docstring."""
        return inspect.cleandoc(cls.__doc__ or "").split("\n")[0]

    async def start(self) -> None:
        """Get ready: load a model, open a store. Subscriptions are not live yet."""

    async def stop(self) -> None:
        """Put things away; what was accepted has been handled."""

    async def session_lost(self) -> None:
        """The broker forgot what it kept for this service: events may be missing.

        Override it to ask again for what matters. Retained state comes anew by itself.
        """

    async def publish(
        self, topic: Topic[P], payload: P, *, expires_in_s: float | None = None, **names: str
    ) -> None:
        """Publish on one of the declared topics; see `Bus.publish`, also for its errors.

        A retained value that is larger than the broker takes is logged and counted, and nothing is
        raised: the last one stays, and a service that cannot report goes on serving.

        Args:
            topic: One of `publishes`.
            payload: What; the bus fills in source and traceparent.
            expires_in_s: Not to be delivered later than this.
            names: The topic's placeholders, besides those of this service's identity.

        Raises:
            DeclarationError: The topic is not declared.
        """
        if topic not in self.publishes:
            msg = f"{type(self).__name__} publishes {topic.address}; add it to its `publishes`"
            raise DeclarationError(msg)
        address = topic.at(self.identity, **names)
        try:
            await self.bus.publish(address, payload, expires_in_s=expires_in_s)
        except MessageTooLargeError as error:
            if not topic.retain:
                raise
            self.metrics.counter("retained.too_large")
            if address.name not in self._too_large:
                self._too_large.add(address.name)
                self.log.error("cannot publish", topic=address.name, reason=str(error))
        else:
            self._too_large.discard(address.name)

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> None:
        """Run a task beside the handlers, supervised.

        If it fails, the service goes down with it: state *stopped* with the error as the reason,
        and a non-zero exit. When the service stops, the task is cancelled.
        """
        self._host.spawn(coroutine, name=name)

    async def set_state(self, state: State, reason: str = "") -> None:
        """Announce *degraded* (with why) or *ready* again; the rest is the runtime's."""
        await self._host.set_state(state, reason)


def _settings_type_of(cls: type[Service[Any]]) -> type[ServiceSettings]:
    """The argument of ``Service[…]`` among the bases, else what the parent has."""
    for base in getattr(cls, "__orig_bases__", ()):
        origin = get_origin(base)
        if isinstance(origin, type) and issubclass(origin, Service):
            for argument in get_args(base):
                if isinstance(argument, type) and issubclass(argument, ServiceSettings):
                    return argument
    return cls.settings_type


def _check(cls: type[Service[Any]], method: str, declaration: Declaration) -> None:
    where = f"{cls.__name__}.{method}"
    if not isinstance(declaration, EveryDeclaration) and isinstance(declaration.topic, Topic):
        for name in declaration.call.names:
            if name not in declaration.topic.names:
                msg = (
                    f"{where} takes {name!r}, which is no placeholder of "
                    f"{declaration.topic.address}"
                )
                raise DeclarationError(msg)
    if isinstance(declaration, CommandDeclaration):
        topic: Topic[Any] = declaration.topic
        if not isinstance(topic, CommandTopic):
            msg = (
                f"@command on {where}: {topic.address} carries {topic.payload.__name__}, no command"
                "; commands have a CommandTopic"
            )
            raise DeclarationError(msg)
        if topic.levels[3] not in ("{service}", cls.name):
            msg = f"@command on {where}: {topic.address} is addressed to {topic.levels[3]}"
            raise DeclarationError(msg)
    elif isinstance(declaration, EveryDeclaration):
        seconds = declaration.seconds
        if isinstance(seconds, str) and seconds not in cls.settings_type.model_fields:
            msg = f"@every on {where}: {cls.settings_type.__name__} has no setting {seconds!r}"
            raise DeclarationError(msg)
        if not isinstance(seconds, str) and seconds <= 0:
            msg = f"@every on {where}: {seconds} s is no interval"
            raise DeclarationError(msg)
