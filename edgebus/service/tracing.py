"""Steps of a trace, from an input to the model that learnt from it.

Each step gives the messages that it makes their `traceparent`. Where OpenTelemetry is installed
(extra ``otel``) and set up, for example by ``opentelemetry-instrument -- edgebus run SERVICE``,
each step is a span there too; else it costs a microsecond and nothing is imported.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgebus.contracts import new_id
from edgebus.contracts.trace import CURRENT, begin_trace, continue_trace

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, SpanContext
    from opentelemetry.trace import Tracer as OtelTracer

Attribute = str | int | float | bool


def messaging(operation: Literal["send", "process"], *, topic: str, message: str) -> dict[str, str]:
    """Attributes of a step that sends or handles one message, by OpenTelemetry's conventions.

    Args:
        operation: What is done with it.
        topic: Concrete topic.
        message: Its id.
    """
    return {
        "messaging.system": "mqtt",
        "messaging.operation.type": operation,
        "messaging.destination.name": topic,
        "messaging.message.id": message,
    }


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a trace.

    Attributes:
        traceparent: For the messages that it makes.
    """

    traceparent: str


class Tracer:
    """Makes the steps of one service.

    Args:
        service: Its name.
    """

    def __init__(self, service: str) -> None:
        self._service = service
        self._otel = _find_otel()

    @contextmanager
    def step(
        self,
        name: str,
        *,
        parent: str | None = None,
        identifier: str | None = None,
        links: Sequence[str] = (),
        attributes: Mapping[str, Attribute] | None = None,
    ) -> Iterator[Step]:
        """Do one step; what is published meanwhile is stamped with it.

        An error that leaves it is noted in its span.

        Args:
            name: What is done, such as ``detect``.
            parent: The traceparent of the message that it is done because of; None or not valid:
                a new trace.
            identifier: For a new trace: the id of its first message.
            links: Traceparents of other messages that it has to do with.
            attributes: More facts for the span.
        """
        if self._otel is None:
            with _current(_own(parent, identifier)) as step:
                yield step
            return
        with self._otel.start_as_current_span(
            f"{self._service} {name}",
            context=_context(parent),
            links=_links(links),
            attributes=dict(attributes or {}),
        ) as span:
            found = span.get_span_context()
            if not span.is_recording():
                # Installed and not set up: the trace goes on all the same.
                traceparent = _own(parent, identifier)
            else:
                flags = int(found.trace_flags)
                traceparent = f"00-{found.trace_id:032x}-{found.span_id:016x}-{flags:02x}"
            with _current(traceparent) as step:
                yield step


@contextmanager
def _current(traceparent: str) -> Iterator[Step]:
    token = CURRENT.set(traceparent)
    try:
        yield Step(traceparent)
    finally:
        CURRENT.reset(token)


def _own(parent: str | None, identifier: str | None) -> str:
    return continue_trace(parent) or begin_trace(identifier or new_id())


def _find_otel() -> OtelTracer | None:
    if importlib.util.find_spec("opentelemetry") is None:
        return None
    try:
        from opentelemetry.trace import get_tracer
    except ImportError:
        return None
    return get_tracer("edgebus")


def _context(parent: str | None) -> Context:
    """The context of a step: its parent's span, elsewhere; or none, also not the caller's."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    found = _span_context(parent)
    return Context() if found is None else set_span_in_context(NonRecordingSpan(found), Context())


def _span_context(traceparent: str | None) -> SpanContext | None:
    from opentelemetry.trace import SpanContext, TraceFlags

    known = continue_trace(traceparent)  # also a check
    if known is None or traceparent is None:
        return None
    _, trace, span, flags = traceparent.split("-")[:4]
    return SpanContext(
        trace_id=int(trace, 16),
        span_id=int(span, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(flags, 16)),
    )


def _links(traceparents: Sequence[str]) -> list[Link] | None:
    from opentelemetry.trace import Link

    found = [_span_context(text) for text in traceparents]
    return [Link(context) for context in found if context is not None] or None
