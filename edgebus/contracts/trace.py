"""Which messages belong together: W3C Trace Context, level 1 (https://www.w3.org/TR/trace-context).

A message carries its place in a trace as `traceparent`: ``00-{trace}-{span}-{flags}``. Whoever
makes a message because of another one continues its trace: same trace, new span. A trace that
begins without OpenTelemetry is named after the id of its first message.
"""

from __future__ import annotations

import random
import re
from contextvars import ContextVar
from typing import Annotated, Any
from uuid import UUID

from pydantic import BeforeValidator, WithJsonSchema

CURRENT: ContextVar[str | None] = ContextVar("edgebus.traceparent", default=None)
"""The traceparent of what is being done; the bus stamps it on what is published meanwhile."""

_FORM = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def _parse(value: Any) -> re.Match[str] | None:
    found = _FORM.fullmatch(value) if isinstance(value, str) else None
    if found is None or not int(found[1], 16) or not int(found[2], 16):
        return None
    # A later version may say more; the first one says exactly this.
    return None if found[4] and value.startswith("00") else found


def _known(value: Any) -> str | None:
    """A traceparent; None for anything else, as the specification asks for (§4.3)."""
    found = _parse(value)
    return None if found is None else f"00-{found[1]}-{found[2]}-{found[3]}"


Traceparent = Annotated[
    str | None,
    BeforeValidator(_known),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"},
                {"type": "null"},
            ]
        }
    ),
]
"""A place in a trace. What is none is dropped: a stranger's trace never costs a message."""


def begin_trace(identifier: str) -> str:
    """The traceparent of a new trace.

    Args:
        identifier: Id of its first message, a UUID.
    """
    return f"00-{UUID(identifier).hex}-{_span()}-01"


def continue_trace(traceparent: str | None) -> str | None:
    """The traceparent of what is done because of a message; None where that has none."""
    found = _parse(traceparent)
    return None if found is None else f"00-{found[1]}-{_span()}-{found[3]}"


def trace_of(traceparent: str | None) -> str | None:
    """The trace that a traceparent belongs to: 32 hexadecimal digits."""
    found = _parse(traceparent)
    return None if found is None else found[1]


def _span() -> str:
    # Not a secret: it tells the steps of one trace apart.
    return f"{random.getrandbits(64) or 1:016x}"
