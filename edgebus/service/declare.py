"""How a service says what it listens to: `@on`, `@command`, `@every`."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from edgebus.contracts import Command, Payload, Reply, Topic
from edgebus.service.errors import DeclarationError

if TYPE_CHECKING:
    from edgebus.bus import Event, QueuePolicy, RetryPolicy

__all__ = [
    "CommandDeclaration",
    "Declaration",
    "EveryDeclaration",
    "OnDeclaration",
    "Scope",
    "command",
    "declarations_of",
    "every",
    "on",
]

Scope = Literal["node", "site"]
"""Whose messages: this node's own, or those of every node of the site."""

Where = Callable[[Any], dict[str, str]]

_MARK = "__edgebus_declarations__"

Sv = TypeVar("Sv")
P = TypeVar("P", bound=Payload)
C = TypeVar("C", bound=Command)
R = TypeVar("R", bound=Reply)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDeclaration:
    """A handler of messages."""

    topic: Topic[Any]
    scope: Scope
    policy: QueuePolicy | None
    retry: RetryPolicy | None
    concurrency: int
    where: Where | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandDeclaration:
    """A handler of commands to this service."""

    topic: Topic[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class EveryDeclaration:
    """Something done again and again; `seconds` may name a setting."""

    seconds: float | str


Declaration = OnDeclaration | CommandDeclaration | EveryDeclaration


def on(
    topic: Topic[P],
    *,
    scope: Scope = "site",
    policy: QueuePolicy | None = None,
    retry: RetryPolicy | None = None,
    concurrency: int = 1,
    where: Where | None = None,
) -> Callable[
    [Callable[[Sv, Event[P]], Awaitable[None]]], Callable[[Sv, Event[P]], Awaitable[None]]
]:
    """Handle the messages of a topic.

    An event (QoS 1) is acknowledged after the handler has returned; a handler that raises is
    retried and then dead-lettered, and the service goes on.

    Args:
        topic: What to listen to.
        scope: ``site``: from every node of the site; ``node``: from this node only.
        policy: What a full queue does; by default it waits for events and drops the oldest of
            QoS 0.
        retry: How often a failed message is tried again; the bus's default by default.
        concurrency: How many messages the handler may have at once; above 1, order is lost.
        where: Given the service, names that the topic's placeholders must have, for example
            ``lambda service: {"camera": service.settings.camera}``.
    """
    return _marker(
        OnDeclaration(
            topic=topic,
            scope=scope,
            policy=policy,
            retry=retry,
            concurrency=concurrency,
            where=where,
        )
    )


def command(
    topic: Topic[C],
) -> Callable[[Callable[[Sv, Event[C]], Awaitable[R]]], Callable[[Sv, Event[C]], Awaitable[R]]]:
    """Handle a command to this service; what the handler returns goes to who asked.

    An error becomes a reply with ``ok=False``. To say no on purpose, raise
    `CommandRefusedError`. A command that has expired is not acted on.
    """
    return _marker(CommandDeclaration(topic=topic))


def every(
    *, seconds: float | str
) -> Callable[[Callable[[Sv], Awaitable[None]]], Callable[[Sv], Awaitable[None]]]:
    """Call a method again and again, first after one interval, while the service runs.

    Args:
        seconds: The interval, or the name of a setting that holds it.
    """
    return _marker(EveryDeclaration(seconds=seconds))


def declarations_of(kind: type) -> list[tuple[str, Declaration]]:
    """What a class declares, with the names of its methods, in order of definition.

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


F = TypeVar("F", bound=Callable[..., Any])


def _marker(declaration: Declaration) -> Callable[[F], F]:
    def mark(method: F) -> F:
        # Decorators apply from the inside out; the outer one comes first in the source.
        setattr(method, _MARK, (declaration, *getattr(method, _MARK, ())))
        return method

    return mark
