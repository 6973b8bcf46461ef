"""Rewriting of ids and times in recorded messages, so that services take them for new ones.

Every id and every time of a message changes in the same way, wherever it stands: what names another
message still names it, and what came 80 ms later still does. Both are computed, nothing is
remembered, so a recording may be of any length.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from edgebus.contracts import PayloadError, RecordPayload, rfc3339
from edgebus.contracts.registry import topic_of

_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


class IdRewriter:
    """Moves messages in time: an instant t becomes `start` + (t - `origin`) / `speed`.

    Args:
        origin: When the recording began.
        start: When the replay begins.
        speed: How much faster it goes.
        salt: Makes the ids of this replay differ from those of any other.
    """

    def __init__(self, *, origin: datetime, start: datetime, speed: float, salt: bytes) -> None:
        self._origin = origin
        self._start = start
        self._speed = speed
        self._mask = int.from_bytes(hashlib.sha256(salt).digest()[:8], "big")

    def topic(self, topic: str) -> str:
        """A topic with its ids renewed, such as that of a reply."""
        return "/".join(self._value(level) for level in topic.split("/"))

    def payload(self, topic: str, data: bytes) -> bytes:
        """A payload with its ids and times renewed; what is no JSON and has no record stays."""
        known = topic_of(topic)
        if known is not None and issubclass(known.payload, RecordPayload):
            try:
                old = known.payload.decode(data)
                record = known.payload.record_type.decode(self._json(old.record.encode()))
                return old.with_record(record).encode()
            except PayloadError:
                return data
        if data.lstrip()[:1] != b"{":
            return data
        try:
            return self._json(data)
        except (ValueError, RecursionError):
            return data

    def instant(self, time: datetime) -> datetime:
        """A time, moved."""
        if math.isinf(self._speed):
            return self._start
        return self._start + (time - self._origin) / self._speed

    def identifier(self, value: str) -> str:
        """A UUIDv7, moved in time like everything else and different in its random part."""
        number = UUID(value).int
        made = timedelta(milliseconds=number >> 80)
        epoch = datetime.fromtimestamp(0, tz=self._origin.tzinfo)
        milliseconds = max(0, int((self.instant(epoch + made) - epoch) / timedelta(milliseconds=1)))
        # The 62 random bits behind the variant; version, variant and the counter before them stay.
        number ^= self._mask & (2**62 - 1)
        return str(UUID(int=(milliseconds & (2**48 - 1)) << 80 | number & (2**80 - 1)))

    def _json(self, data: bytes) -> bytes:
        body = self._value(json.loads(data))
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            if _UUID7.fullmatch(value):
                return self.identifier(value)
            if _TIME.fullmatch(value):
                try:
                    return rfc3339(self.instant(datetime.fromisoformat(value)))
                except (ValueError, OverflowError):
                    return value
            if "/" in value:  # a topic, such as where a reply goes
                return "/".join(self._value(part) for part in value.split("/"))
            return value
        if isinstance(value, dict):
            return {key: self._value(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._value(item) for item in value]
        return value
