"""Dead letters: messages that could not be handled, kept where a person can find them."""

from __future__ import annotations

from typing import Literal

import structlog

from edgebus.bus._publisher import Publisher
from edgebus.bus.errors import MessageTooLargeError, PublishRefusedError
from edgebus.bus.event import RawMessage
from edgebus.bus.transport import Outgoing
from edgebus.contracts import DeadLetter, Identity, RawBytes
from edgebus.contracts.topics import DEAD_LETTER, DEAD_LETTER_PAYLOAD

__all__ = ["LetterBox"]

_TEXT = 4096


class LetterBox:
    """Publishes dead letters below the service's own prefix: a record, then the bytes."""

    def __init__(self, *, publisher: Publisher, identity: Identity) -> None:
        self.accepted = 0
        self._publisher = publisher
        self._identity = identity
        self._log = structlog.get_logger("edgebus.bus").bind(source=identity.source)

    async def accept(
        self,
        message: RawMessage,
        *,
        expected: str,
        media_type: str,
        reason: Literal["invalid", "failed"],
        error: str,
        attempts: int,
        handler: str,
    ) -> None:
        """Keep a message; returns once the broker or the outbox has the letter.

        It waits for room in the outbox as long as it takes: the message is acknowledged
        afterwards, and would be lost otherwise.
        """
        self._log.warning("dead letter", topic=message.topic, reason=reason, error=error)
        if _is_letter(message.topic):
            return  # a letter about a letter would never end
        letter = DeadLetter(
            source=self._identity.source,
            topic=message.topic,
            expected=expected,
            reason=reason,
            error=error[:_TEXT],
            attempts=attempts,
            size=len(message.payload),
            media_type=message.content_type or media_type or RawBytes.content_type,
            handler=handler,
            text=_text(message.payload),
        )
        self.accepted += 1
        record = DEAD_LETTER.at(self._identity, letter=letter.id)
        body = DEAD_LETTER_PAYLOAD.at(self._identity, letter=letter.id)
        await self._send(record.name, letter.encode(), DeadLetter.content_type)
        await self._send(body.name, message.payload, RawBytes.content_type)

    async def _send(self, topic: str, payload: bytes, content_type: str) -> None:
        message = Outgoing(topic=topic, payload=payload, qos=1, content_type=content_type)
        try:
            await self._publisher.publish(message, wait=True)
        except (MessageTooLargeError, PublishRefusedError) as error:
            self._log.error("dead letter not published", topic=topic, reason=str(error))


def _is_letter(topic: str) -> bool:
    return DEAD_LETTER.parse(topic) is not None or DEAD_LETTER_PAYLOAD.parse(topic) is not None


def _text(payload: bytes) -> str | None:
    """The start of the payload where it is text."""
    try:
        text = payload[:_TEXT].decode()
    except UnicodeDecodeError as error:
        # The cut may have split the last character.
        if len(payload) <= _TEXT or error.start < _TEXT - 3:
            return None
        text = payload[: error.start].decode()
    return None if "\0" in text else text
