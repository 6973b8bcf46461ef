"""Declarations of a service's handlers: `@on`, `@command`, `@every`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypeVar,
    get_origin,
    overload,
)

from edgebus.contracts import Command, CommandTopic, Payload, Reply, Topic
from edgebus.service.errors import DeclarationError

if TYPE_CHECKING:
    from edgebus.bus import Event, QueuePolicy, RetryPolicy

Scope = Literal["node", "site"]
"""Publishers to listen to: this node's own services, or those of every node of the site."""

Where = Callable[[Any], dict[str, str]]

_MARK = "__edgebus_declarations__"

Sv = TypeVar("Sv")
P = TypeVar("P", bound=Payload)
C = TypeVar("C", bound=Command)
R = TypeVar("R", bound=Reply)
Q = ParamSpec("Q")

_EVENT = re.compile(r"(.*\.)?Event(\[.*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Call:
    """Arguments of a handler.

    Attributes:
        event: The whole event; else its payload alone.
        names: Placeholders of the topic that it takes as arguments of the same name.
    """

    event: bool
    names: tuple[str, ...]

    @classmethod
    def of(cls, method: Callable[..., Any]) -> Call:
        """By the method's signature: self, the event or its payload, then placeholders."""
        _, first, *others = [*inspect.signature(method).parameters.values(), None, None][:-1]
        wanted = [other for other in others if other is not None]
        kind = inspect.Parameter.empty if first is None else first.annotation
        if isinstance(kind, str):
            event = _EVENT.fullmatch(kind) is not None
        else:
            name = getattr(get_origin(kind) or kind, "__name__", "")
            event = kind is inspect.Parameter.empty or name == "Event"
        return cls(event, tuple(p.name for p in wanted if p.default is p.empty))

    def __call__(self, handler: Callable[..., Awaitable[Any]], event: Event[Any]) -> Awaitable[Any]:
        """Call a handler with what it wants of an event."""
        names = {name: event.names[name] for name in self.names}
        return handler(event if self.event else event.payload, **names)


class _OnMarker(Protocol, Generic[P]):
    """Takes a handler of events of P, or of P alone."""

    @overload
    def __call__(
        self, method: Callable[Concatenate[Sv, Event[P], Q], Awaitable[None]], /
    ) -> Callable[Concatenate[Sv, Event[P], Q], Awaitable[None]]: ...
    @overload
    def __call__(
        self, method: Callable[Concatenate[Sv, P, Q], Awaitable[None]], /
    ) -> Callable[Concatenate[Sv, P, Q], Awaitable[None]]: ...


class _CommandMarker(Protocol, Generic[C, R]):
    """Takes a handler of events of C, or of C alone, that answers with R or a plain reply."""

    @overload
    def __call__(
        self, method: Callable[Concatenate[Sv, Event[C], Q], Awaitable[R | None]], /
    ) -> Callable[Concatenate[Sv, Event[C], Q], Awaitable[R | None]]: ...
    @overload
    def __call__(
        self, method: Callable[Concatenate[Sv, C, Q], Awaitable[R | None]], /
    ) -> Callable[Concatenate[Sv, C, Q], Awaitable[R | None]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDeclaration:
    """A handler of messages; a topic that the settings decide is a function of the service."""

    topic: Topic[Any] | Callable[[Any], Topic[Any] | None]
    scope: Scope
    policy: QueuePolicy | None
    retry: RetryPolicy | None
    concurrency: int
    where: Where | None
    call: Call


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandDeclaration:
    """A handler of commands to this service."""

    topic: CommandTopic[Any, Any]
    call: Call


@dataclass(frozen=True, slots=True, kw_only=True)
class EveryDeclaration:
    """Something done again and again; `seconds` may name a setting."""

    seconds: float | str


Declaration = OnDeclaration | CommandDeclaration | EveryDeclaration


def on(
    topic: Topic[P] | Callable[[Any], Topic[P] | None],
    *,
    scope: Scope = "site",
    policy: QueuePolicy | None = None,
    retry: RetryPolicy | None = None,
    concurrency: int = 1,
    where: Where | None = None,
) -> _OnMarker[P]:
    """Handle the messages of a topic.

    The method's first argument is the `Event` or, by its annotation, the payload alone; further
    ones are placeholders of the topic, by name::

        @on(READINGS)
        async def read(self, reading: Reading, meter: str) -> None: ...

    An event (QoS 1) is acknowledged after the handler has returned; a handler that raises is
    retried and then dead-lettered, and the service goes on.

    Args:
        topic: The topic; a function of the started service where its settings decide, which gives
            None for nothing to listen to. The class lists such topics in `subscribes`.
        scope: ``site``: from every node of the site; ``node``: from this node only.
        policy: What a full queue does; by default it waits for events and drops the oldest of
            QoS 0.
        retry: How often a failed message is tried again; the bus's default by default.
        concurrency: How many messages the handler may have at once; above 1, order is lost.
        where: Given the service, names that the topic's placeholders must have, for example
            ``lambda service: {"meter": service.settings.meter}``.
    """
    marker: _OnMarker[P] = _marker(
        lambda method: OnDeclaration(
            topic=topic,
            scope=scope,
            policy=policy,
            retry=retry,
            concurrency=concurrency,
            where=where,
            call=Call.of(method),
        )
    )
    return marker


def command(topic: CommandTopic[C, R]) -> _CommandMarker[C, R]:
    """Handle a command to this service; what the handler returns goes to who asked.

    The method's arguments are as for `on`.

    An error becomes a reply with ``ok=False``. To say no on purpose, raise
    `CommandRefusedError`. A command that has expired is not acted on. A handler has `bus.handler_s`
    seconds; what takes longer is noted and done in a task (`Service.spawn`): the handler returns
    None, and the task answers with `Bus.reply`.
    """
    marker: _CommandMarker[C, R] = _marker(
        lambda method: CommandDeclaration(topic=topic, call=Call.of(method))
    )
    return marker


def every(
    *, seconds: float | str
) -> Callable[[Callable[[Sv], Awaitable[None]]], Callable[[Sv], Awaitable[None]]]:
    """Call a method again and again, first after one interval, while the service runs.

    Args:
        seconds: The interval, or the name of a setting that holds it.
    """
    marker: Callable[[Any], Any] = _marker(lambda _: EveryDeclaration(seconds=seconds))
    return marker


def declarations_of(kind: type) -> list[tuple[str, Declaration]]:
    """Declarations of a class with the names of its methods, in order of definition.

    Raises:
        DeclarationError: A declared handler is not ``async def``.
    """
    names = dict.fromkeys(name for base in reversed(kind.__mro__) for name in vars(base))
    found: list[tuple[str, Declaration]] = []
    for name in names:
        method = inspect.getattr_static(kind, name, None)
        for declaration in getattr(method, _MARK, ()):
            if not inspect.iscoroutinefunction(method):
                msg = f"{kind.__name__}.{name} is a handler; write 'async def {name}'"
                raise DeclarationError(msg)
            found.append((name, declaration))
    return found


def _marker(declare: Callable[[Callable[..., Any]], Declaration]) -> Any:
    def mark(method: Callable[..., Any]) -> Callable[..., Any]:
        # Decorators apply from the inside out; the outer one comes first in the source.
        setattr(method, _MARK, (declare(method), *getattr(method, _MARK, ())))
        return method

    return mark
