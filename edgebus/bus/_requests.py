"""Commands and their answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, TypeVar

from edgebus.bus.errors import CommandFailedError
from edgebus.bus.event import RawMessage
from edgebus.contracts import Address, ContractError, Identity, PayloadError, Reply
from edgebus.contracts.topics import REPLY

__all__ = ["Requests", "reply_address", "target_of"]

R = TypeVar("R", bound=Reply)


@dataclass(slots=True)
class _Pending:
    future: asyncio.Future[Any]
    kind: type[Reply]
    topic: str


class Requests:
    """The commands that wait for an answer. The first answer counts, later ones are ignored."""

    def __init__(self) -> None:
        self._pending: dict[str, _Pending] = {}

    def expect(self, request: str, kind: type[R], *, topic: str) -> asyncio.Future[R]:
        """A future for the answer to the command with id `request`."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._pending[request] = _Pending(future, kind, topic)
        return future

    def forget(self, request: str) -> None:
        """Nobody waits for this answer any more."""
        self._pending.pop(request, None)

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
    """Why an answer is not of the type that was asked for: perhaps it is a plain no."""
    try:
        plain = Reply.decode(payload)
    except PayloadError:
        return error
    return error if plain.ok else CommandFailedError(topic=topic, detail=plain.detail)


def target_of(address: Address[Any]) -> Identity:
    """Whom a command goes to: the first four levels of its topic."""
    base, site, node, service, *_ = address.name.split("/")
    return Identity(base=base, site=site, node=node, service=service)


def reply_address(reply_to: str, *, identity: Identity) -> Address[Reply]:
    """The topic of an answer, which lies below the prefix of the one who answers.

    Raises:
        ContractError: `reply_to` is elsewhere; answering there could be made to overwrite
            anything.
    """
    names = REPLY.parse(reply_to)
    if names is None or not reply_to.startswith(identity.prefix + "/"):
        expected = REPLY.at(identity, request="ID").name
        msg = f"reply_to {reply_to!r} is not below {identity.prefix}; it must look like {expected}"
        raise ContractError(msg)
    return REPLY.at(identity, request=names["request"])
