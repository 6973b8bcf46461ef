"""Commands and their answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from edgebus.bus._consumer import ConsumerOptions
from edgebus.bus._tasks import Tasks
from edgebus.bus.errors import CommandFailedError
from edgebus.bus.event import RawMessage
from edgebus.bus.queues import Wait
from edgebus.bus.settings import RetryPolicy
from edgebus.bus.subscription import Registry
from edgebus.contracts import (
    Address,
    Command,
    ContractError,
    Identity,
    NameRefusedError,
    PayloadError,
    Reply,
)
from edgebus.contracts.topics import REPLY

R = TypeVar("R", bound=Reply)


@dataclass(slots=True)
class _Pending:
    future: asyncio.Future[Any]
    kind: type[Reply]
    topic: str


class Requests:
    """The commands that wait for an answer. The first answer counts, later ones are ignored.

    Args:
        registry: Where the answers are subscribed to.
        tasks: Runs the subscribing, which outlives the request that needed it first.
    """

    def __init__(self, *, registry: Registry, tasks: Tasks) -> None:
        self._registry = registry
        self._tasks = tasks
        self._pending: dict[str, _Pending] = {}
        self._listening: dict[str, asyncio.Task[None]] = {}

    @asynccontextmanager
    async def expect(
        self, address: Address[Any], command: Command, kind: type[R]
    ) -> AsyncIterator[tuple[str, asyncio.Future[R]]]:
        """Be ready for the answer to a command: the topic it must go to, and its future."""
        # The first four levels name whom the command goes to; the answer comes from there.
        base, site, node, service, *_ = address.name.split("/")
        target = Identity(base=base, site=site, node=node, service=service)
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._pending[command.id] = _Pending(answer, kind, address.name)
        try:
            await self._listen_to(target)
            yield REPLY.at(target, request=command.id).name, answer
        finally:
            self._pending.pop(command.id, None)

    async def _listen_to(self, target: Identity) -> None:
        """Subscribe to a service's answers, once."""
        task = self._listening.get(target.prefix)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._tasks.spawn(self._subscribe(target), name=f"answers of {target}")
            self._listening[target.prefix] = task
        await asyncio.shield(task)

    async def _subscribe(self, target: Identity) -> None:
        wanted = REPLY.any(
            base=target.base, site=target.site, node=target.node, service=target.service
        )
        options = ConsumerOptions(
            name=self._registry.free_name(f"answers of {target}"),
            policy=Wait(),
            retry=RetryPolicy(attempts=1),
            internal=True,
        )
        await self._registry.add([(wanted.name, None)], self.answered, options=options, qos=1)

    async def answered(self, message: RawMessage) -> None:
        """An answer came in: the last level of its topic is the command's id."""
        pending = self._pending.pop(message.topic.rpartition("/")[2], None)
        if pending is None or pending.future.done():
            return
        try:
            pending.future.set_result(pending.kind.decode(message.payload))
        except PayloadError as error:
            pending.future.set_exception(_explain(message.payload, error, topic=pending.topic))


def _explain(payload: bytes, error: PayloadError, *, topic: str) -> Exception:
    """The error for an answer of another type than the one asked for: perhaps a plain no."""
    try:
        plain = Reply.decode(payload)
    except PayloadError:
        return error
    return error if plain.ok else CommandFailedError(topic=topic, detail=plain.detail)


def reply_address(command: Command, *, identity: Identity) -> Address[Reply] | None:
    """The topic of an answer: below the prefix of the one who asks, or of the one who answers.

    Args:
        command: The command; None is returned where it asks for no answer.
        identity: The service that answers. Below its own prefix it may write on any broker; the
            bus's own `request` asks for that.

    Raises:
        ContractError: `reply_to` is elsewhere; answering there could be made to overwrite
            anything.
    """
    reply_to = command.reply_to
    if reply_to is None:
        return None
    names = REPLY.parse(reply_to)
    if names is not None:
        request = names.pop("request")
        prefix = reply_to.removesuffix(f"/replies/{request}")
        if prefix in (f"{identity.base}/{command.source}", identity.prefix):
            with suppress(NameRefusedError):
                return REPLY.at(Identity(**names), request=request)
    # They come from outside, and the error goes into logs.
    asked, source = reply_to[:80], command.source[:80]
    msg = (
        f"reply_to {asked!r} is not below {identity.base}/{source}, the prefix of the command's "
        f"source, nor below {identity.prefix}; it must look like "
        f"{identity.base}/{source}/replies/ID or {identity.prefix}/replies/ID"
    )
    raise ContractError(msg)
