"""The path of one frame through a recording, as far as the model that learnt from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from edgebus.contracts.peek import json_object, record_in
from edgebus.contracts.trace import trace_of
from edgebus.recording.errors import RecordingError
from edgebus.recording.reader import Recorded

__all__ = ["FrameNotFoundError", "Hop", "follow"]

# What follows from what, by the names of the schemas; the first parent that is there counts.
_PARENTS: dict[str, tuple[str, ...]] = {
    "frame": (),
    "truth": ("frame",),
    "detections": ("frame",),
    "sample": ("detections", "frame"),
    "training": ("sample",),
    "candidate": ("training",),
    "release": ("candidate",),
    "modelstatus": ("release",),
}


class FrameNotFoundError(RecordingError):
    """A recording has no frame with this id, or more than one.

    Attributes:
        wanted: What was asked for.
    """

    exit_code = 2

    def __init__(self, wanted: str, *, found: int) -> None:
        many = "no frame has" if not found else f"{found} frames have"
        super().__init__(
            f"{many} the id {wanted!r} in this recording; ids of frames are in detections, "
            "samples and in: edgebus topics watch --json"
        )
        self.wanted = wanted


@dataclass(slots=True, kw_only=True)
class Hop:
    """One message on the path.

    Attributes:
        kind: Name of its schema, such as ``detections``.
        topic: Where it was said.
        time: When it was sent, nanoseconds since 1970.
        body: Its fields; of a picture, those of its record.
        next: What followed from it, in order of time.
    """

    kind: str
    topic: str
    time: int
    body: dict[str, Any]
    next: list[Hop] = field(default_factory=list)


def follow(recording: Iterable[Recorded], wanted: str) -> Hop:
    """The path that begins with a frame.

    Messages belong to it by their trace, or by naming the frame. A training run has a trace of its
    own and names those of its samples.

    Args:
        recording: The messages in order; they are read twice.
        wanted: Id of the frame, or its beginning or end.

    Raises:
        FrameNotFoundError: There is no such frame, or more than one.
    """
    frame = _find(recording, wanted)
    traces = {trace_of(frame.body.get("traceparent"))} - {None}
    hops: dict[Any, Hop] = {_key(frame): frame}
    for message in recording:
        hop = _hop(message)
        if hop is None or _key(hop) in hops:
            continue
        own = trace_of(hop.body.get("traceparent"))
        named = {trace_of(text) for text in _texts(hop.body.get("traces"))}
        if named & traces:
            traces.add(own)
        elif own not in traces and hop.body.get("input", hop.body.get("frame")) != frame.body["id"]:
            continue
        hops[_key(hop)] = hop
    for hop in hops.values():
        if hop is not frame:
            _parent(hop, hops.values(), fallback=frame).next.append(hop)
    for hop in hops.values():
        hop.next.sort(key=lambda other: other.time)
    return frame


def _find(recording: Iterable[Recorded], wanted: str) -> Hop:
    text = wanted.strip().lower()
    found: dict[str, Hop] = {}
    for message in recording:
        if not message.topic.endswith("/frame"):
            continue
        hop = _hop(message)
        if hop is None or hop.kind != "frame":
            continue
        identifier = str(hop.body.get("id"))
        if text and (identifier.startswith(text) or identifier.endswith(text)):
            found.setdefault(identifier, hop)
    if len(found) != 1:
        raise FrameNotFoundError(wanted, found=len(found))
    return found.popitem()[1]


def _hop(message: Recorded) -> Hop | None:
    """A message of the kinds that a path has."""
    record = record_in(message.topic, message.payload)
    body = json_object(message.payload if record is None else record.encode())
    if body is None:
        return None
    kind = str(body.get("schema", "")).partition("/")[0]
    if kind not in _PARENTS or not isinstance(body.get("id"), str):
        return None
    return Hop(kind=kind, topic=message.topic, time=message.published, body=body)


def _key(hop: Hop) -> Any:
    """What tells hops apart; an edge says many times how far it is, the first of a kind counts."""
    if hop.kind == "modelstatus":
        return hop.body.get("source"), hop.body.get("sequence"), hop.body.get("state")
    return hop.body["id"]


def _parent(hop: Hop, all_hops: Iterable[Hop], *, fallback: Hop) -> Hop:
    """What a message followed from: the last one before it of the kinds that come before."""
    everything = list(all_hops)
    for kind in _PARENTS[hop.kind]:
        before = [other for other in everything if other.kind == kind and other.time <= hop.time]
        if before:
            return max(before, key=lambda other: other.time)
    return fallback


def _texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
