"""Dead letters: messages that could not be handled, published where a person can find them.

The broker retains the last few letters of each service: topics ``…/deadletter/0`` to
``…/deadletter/15`` form a ring. So a person can list what went wrong yesterday although nobody
was subscribed, on any broker, and the number of topics stays bounded (ADR 7).
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import structlog

from edgebus.addresses import hide_credentials
from edgebus.bus._publisher import Publisher
from edgebus.bus.errors import MessageTooLargeError, PublishRefusedError
from edgebus.bus.event import RawMessage
from edgebus.bus.settings import BusSettings
from edgebus.bus.transport import Outgoing
from edgebus.contracts import DeadLetter, Identity, RawBytes
from edgebus.contracts.topics import DEAD_LETTER, DEAD_LETTER_PAYLOAD

_TEXT = 4096


class DeadLetterPublisher:
    """Publishes dead letters below the service's own prefix: a record, then the bytes.

    Args:
        publisher: Takes them to the broker.
        identity: Whose letters they are.
        settings: Number of letters that the broker retains, and their rate.
    """

    def __init__(self, *, publisher: Publisher, identity: Identity, settings: BusSettings) -> None:
        self.accepted = 0
        self.suppressed = 0
        self._publisher = publisher
        self._identity = identity
        # A tool's random identity never comes back: nobody would ever clear what it retains.
        self._retained = 0 if settings.ephemeral else settings.dead_letters_retained
        self._max_bytes = settings.dead_letter_bytes
        # Not always from 0: a service that crashes with each message would keep its last one only.
        self._next = random.randrange(self._retained) if self._retained else 0
        self._limiter = Limiter(burst=settings.dead_letters_burst, rate=settings.dead_letters_per_s)
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
        """Publish a dead letter; returns once the broker or the outbox has it.

        It waits for room in the outbox as long as it takes: the message is acknowledged
        afterwards, and would be lost otherwise. A subscription that fails on message after
        message has a limited rate of letters; the rest is counted, and the next letter carries
        the count.
        """
        allowed, missed = self._limiter.take(handler)
        if not allowed:
            self.suppressed += 1
            if missed == 1:
                self._log.warning("too many dead letters, counting on", handler=handler)
            return
        self._log.warning("dead letter", topic=message.topic, reason=reason, error=error)
        if _is_letter(message.topic):
            return  # a letter about a letter would never end
        payload = message.payload
        fits = len(payload) <= self._max_bytes
        letter = DeadLetter(
            source=self._identity.source,
            topic=message.topic,
            expected=expected,
            reason=reason,
            error=hide_credentials(error)[:_TEXT],
            attempts=attempts,
            size=len(payload),
            digest=hashlib.sha256(payload).hexdigest() if fits else None,
            qos=1 if message.qos else 0,
            media_type=message.content_type or media_type or RawBytes.content_type,
            handler=handler,
            suppressed=missed,
            text=_text(payload),
        )
        self.accepted += 1
        place = str(self._next)
        self._next = (self._next + 1) % max(1, self._retained)
        record = DEAD_LETTER.at(self._identity, letter=place)
        body = DEAD_LETTER_PAYLOAD.at(self._identity, letter=place)
        await self._send(record.name, letter.encode(), DeadLetter.content_type)
        # An empty payload is better than that of the letter that was here before.
        data = payload if fits else b""
        if not await self._send(body.name, data, RawBytes.content_type) and self._retained:
            await self._send(body.name, b"", RawBytes.content_type)

    async def _send(self, topic: str, payload: bytes, content_type: str) -> bool:
        """True where it was published; False where the broker does not take it."""
        message = Outgoing(
            topic=topic,
            payload=payload,
            qos=1,
            retain=self._retained > 0,
            content_type=content_type,
        )
        try:
            # Not repeated with each new connection as state is: it may have been discarded.
            await self._publisher.publish(message, wait=True, remember=False)
        except (MessageTooLargeError, PublishRefusedError) as error:
            self._log.error("dead letter not published", topic=topic, reason=str(error))
            return False
        return True


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


@dataclass(slots=True)
class _Bucket:
    tokens: float
    since: float
    missed: int = 0


class Limiter:
    """A token bucket per key.

    Args:
        burst: What may be taken at once.
        rate: What comes back per second.
        clock: Monotonic, in seconds.
    """

    def __init__(
        self, *, burst: int, rate: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._rate = rate
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def take(self, key: str) -> tuple[bool, int]:
        """Take one.

        Returns:
            Whether there was one, and how many were missed since one was had, this one included.
        """
        now = self._clock()
        bucket = self._buckets.setdefault(key, _Bucket(self._burst, now))
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.since) * self._rate)
        bucket.since = now
        if bucket.tokens < 1:
            bucket.missed += 1
            return False, bucket.missed
        bucket.tokens -= 1
        missed, bucket.missed = bucket.missed, 0
        return True, missed
