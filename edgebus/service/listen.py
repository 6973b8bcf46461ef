"""Subscriptions of what a service declares."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from edgebus.bus import Bus, Event, RetryPolicy, is_ours
from edgebus.contracts import Command, Message, RecordPayload, Reply, Topic, utc_now
from edgebus.contracts.trace import CURRENT, continue_trace
from edgebus.service.declare import Call, CommandDeclaration, EveryDeclaration, OnDeclaration
from edgebus.service.errors import CommandRefusedError
from edgebus.service.service import Service

# A command's handler that takes too long has its answer; sending it takes a moment.
_ANSWER_S = 5.0


async def subscribe_all(service: Service[Any], bus: Bus) -> None:
    """Make every subscription that a service declares."""
    listened: dict[str, int] = {}
    for method, declaration in service.declarations:
        if isinstance(declaration, EveryDeclaration):
            continue
        count = listened[method] = listened.get(method, 0) + 1
        name = method if count == 1 else f"{method}-{count}"
        handler = getattr(service, method)
        if isinstance(declaration, CommandDeclaration):
            await _listen_for_commands(service, bus, declaration, handler, name=name)
        else:
            await _listen(service, bus, declaration, handler, name=name)


async def tick(service: Service[Any], method: str, declaration: EveryDeclaration) -> None:
    """Call a method every so many seconds, for ever; a call that was missed is left out."""
    seconds = declaration.seconds
    interval = float(getattr(service.settings, seconds)) if isinstance(seconds, str) else seconds
    call: Callable[[], Awaitable[None]] = getattr(service, method)
    loop = asyncio.get_running_loop()
    due = loop.time() + interval
    while True:
        await asyncio.sleep(due - loop.time())
        await call()
        due = max(due + interval, loop.time())


async def _listen(
    service: Service[Any], bus: Bus, declaration: OnDeclaration, handler: Any, *, name: str
) -> None:
    declared = declaration.topic
    topic = declared if isinstance(declared, Topic) else declared(service)
    if topic is None:
        return
    names = {"site": service.identity.site}
    if declaration.scope == "node":
        names["node"] = service.identity.node
    if declaration.where is not None:
        names |= declaration.where(service)
    await bus.subscribe(
        topic.any(base=service.identity.base, **names),
        _traced(handler, declaration.call),
        policy=declaration.policy,
        retry=declaration.retry or RetryPolicy(),
        concurrency=declaration.concurrency,
        name=name,
    )


async def _listen_for_commands(
    service: Service[Any], bus: Bus, declaration: CommandDeclaration, handler: Any, *, name: str
) -> None:
    identity = service.identity
    topic = declaration.topic
    names = {"site": identity.site, "node": identity.node}
    if "service" in topic.names:
        names["service"] = identity.service
    await bus.subscribe(
        topic.any(base=identity.base, **names),
        _answering(service, bus, _traced(handler, declaration.call), name=name),
        # Whatever a command's handler raises is its answer; acting twice would be no better.
        retry=RetryPolicy(attempts=1),
        limit_s=bus.handler_s + _ANSWER_S,
        name=name,
        on_expired=_too_late(bus),
    )


def _traced(
    handler: Callable[..., Awaitable[Any]], call: Call
) -> Callable[[Event[Any]], Awaitable[Any]]:
    """Wrap a handler so that what it publishes continues the trace of what it handles."""

    async def handle(event: Event[Any]) -> Any:
        message = (
            event.payload.record if isinstance(event.payload, RecordPayload) else event.payload
        )
        parent = message.traceparent if isinstance(message, Message) else None
        token = CURRENT.set(parent and continue_trace(parent))
        try:
            return await call(handler, event)
        finally:
            CURRENT.reset(token)

    return handle


def _too_late(bus: Bus) -> Callable[[Event[Command]], Awaitable[None]]:
    """Tell whoever still waits that the command is not acted upon.

    It is over for most; not for one whose clock, or this one, is wrong.
    """

    async def answer(event: Event[Command]) -> None:
        bus.check_reply(event)
        now, expires = utc_now(), event.payload.expires
        late = 0.0 if expires is None else (now - expires).total_seconds()
        reason = (
            f"not acted upon: by this host's clock ({now:%Y-%m-%d %H:%M:%S} UTC) the command "
            f"expired {late:,.0f} s ago; is one of the two clocks wrong?"
        )
        await bus.reply(event, Reply(ok=False, detail=reason))

    return answer


def _answering(
    service: Service[Any],
    bus: Bus,
    handler: Callable[[Event[Command]], Awaitable[Reply | None]],
    *,
    name: str,
) -> Callable[[Event[Command]], Awaitable[None]]:
    """Wrap a command's handler so that whoever asked always gets an answer."""

    async def answer(event: Event[Command]) -> None:
        bus.check_reply(event)  # who cannot be answered is not obeyed either; a dead letter tells
        reply: Reply | None
        try:
            async with asyncio.timeout(bus.handler_s) as limit:
                reply = await handler(event)
        except CommandRefusedError as error:
            reply = Reply(ok=False, detail=str(error))
        except BaseException as error:
            if is_ours(error):
                raise
            if limit.expired():
                reason = f"not done within {bus.handler_s:g} s (bus.handler_s), and cancelled"
                error = TimeoutError(reason)
            service.log.exception("command failed", command=name, sender=event.payload.source)
            reply = Reply(ok=False, detail=f"{type(error).__name__}: {error}")
        if reply is not None:
            await bus.reply(event, reply)

    return answer
