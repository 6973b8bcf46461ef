"""Facts of any payload on the bus, a third party's too, without its class."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from edgebus.contracts.errors import PayloadError
from edgebus.contracts.payload import Message, RecordPayload
from edgebus.contracts.registry import topic_of


def sent_at(topic: str, payload: bytes) -> datetime | None:
    """Time at which a message was sent, as it says; None where it does not.

    Args:
        topic: Its concrete topic.
        payload: Its bytes: JSON with a `time`, or bytes with a record inside.
    """
    record = record_in(topic, payload)
    if record is not None:
        return record.time
    body = json_object(payload)
    return None if body is None else instant_of(body.get("time"))


def record_in(topic: str, payload: bytes) -> Message | None:
    """The record inside a payload, where its topic is known to have one."""
    known = topic_of(topic)
    if known is None or not issubclass(known.payload, RecordPayload):
        return None
    try:
        record: Message = known.payload.decode(payload).record
    except PayloadError:
        return None
    return record


def json_object(payload: bytes) -> dict[str, Any] | None:
    """A payload that is one JSON object; None for anything else."""
    if payload.lstrip()[:1] != b"{":
        return None
    try:
        body = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def instant_of(value: Any) -> datetime | None:
    """An RFC 3339 text as a time; None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return None
    return time if time.tzinfo is not None else None
