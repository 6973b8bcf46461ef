"""Where a payload stands in a trace."""

from __future__ import annotations

from edgebus.contracts import Message, Payload, RecordPayload

__all__ = ["traceparent_of"]


def traceparent_of(payload: Payload) -> str | None:
    """The place in a trace of a message, or of the record in a picture."""
    if isinstance(payload, RecordPayload):
        payload = payload.record
    return payload.traceparent if isinstance(payload, Message) else None
