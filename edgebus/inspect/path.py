"""Path of one input through a recording, as far as the model that learnt from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgebus.contracts import SampleRecord
from edgebus.contracts.peek import json_object, record_in
from edgebus.contracts.registry import all_messages
from edgebus.contracts.trace import trace_of
from edgebus.workload import installed_workloads

if TYPE_CHECKING:
    from edgebus.recording import Recorded

Parents = Mapping[str, tuple[str, ...]]


class InputNotFoundError(LookupError):
    """A recording has no input with this id, or more than one.

    Attributes:
        wanted: What was asked for.
    """

    exit_code = 2

    def __init__(self, wanted: str, *, found: int) -> None:
        many = "no input has" if not found else f"{found} inputs have"
        super().__init__(
            f"{many} the id {wanted!r} in this recording; ids of inputs are in what was predicted "
            "of them, in samples and in: edgebus topics watch --json"
        )
        self.wanted = wanted


@dataclass(slots=True, kw_only=True)
class Hop:
    """One message on the path.

    Attributes:
        kind: Name of its schema, such as ``training``.
        topic: Where it was published.
        time: When it was sent, nanoseconds since 1970.
        body: Its fields; of bytes with a record inside, those of the record.
        next: What followed from it, in order of time.
    """

    kind: str
    topic: str
    time: int
    body: dict[str, Any]
    next: list[Hop] = field(default_factory=list)


def follow(recording: Iterable[Recorded], wanted: str) -> Hop:
    """The path that begins with an input.

    Messages belong to it by their trace, or by naming the input. A training run has a trace of its
    own and names those of its samples.

    Args:
        recording: The messages in order; they are read twice.
        wanted: Id of the input, or its beginning or end.

    Raises:
        InputNotFoundError: There is no such input, or more than one.
    """
    parents = _parents()
    start = _find(recording, wanted, parents)
    traces = {trace_of(start.body.get("traceparent"))} - {None}
    hops: dict[Any, Hop] = {_key(start): start}
    for message in recording:
        hop = _hop(message, parents)
        if hop is None or _key(hop) in hops:
            continue
        own = trace_of(hop.body.get("traceparent"))
        named = {trace_of(text) for text in _texts(hop.body.get("traces"))}
        if named & traces:
            traces.add(own)
        elif own not in traces and start.body["id"] not in hop.body.values():
            continue
        hops[_key(hop)] = hop
    for hop in hops.values():
        if hop is not start:
            _parent(hop, hops.values(), parents, fallback=start).next.append(hop)
    for hop in hops.values():
        hop.next.sort(key=lambda other: other.time)
    return start


def _parents() -> Parents:
    """Kinds by those that follow from them, by schema name; the first that is there counts."""
    samples = tuple(
        identifier.partition("/")[0]
        for identifier, kind in all_messages().items()
        if issubclass(kind, SampleRecord)
    )
    found: dict[str, tuple[str, ...]] = {
        "training": samples,
        "candidate": ("training",),
        "release": ("candidate",),
        "modelstatus": ("release",),
    }
    for workload in installed_workloads():
        found |= workload.follows
    return found


def _find(recording: Iterable[Recorded], wanted: str, parents: Parents) -> Hop:
    text = wanted.strip().lower()
    found: dict[str, Hop] = {}
    for message in recording:
        hop = _hop(message, parents)
        if hop is None or parents[hop.kind]:
            continue
        identifier = str(hop.body.get("id"))
        if text and (identifier.startswith(text) or identifier.endswith(text)):
            found.setdefault(identifier, hop)
    if len(found) != 1:
        raise InputNotFoundError(wanted, found=len(found))
    return found.popitem()[1]


def _hop(message: Recorded, parents: Parents) -> Hop | None:
    """A message of the kinds that a path has."""
    record = record_in(message.topic, message.payload)
    body = json_object(message.payload if record is None else record.encode())
    if body is None:
        return None
    kind = str(body.get("schema", "")).partition("/")[0]
    if kind not in parents or not isinstance(body.get("id"), str):
        return None
    return Hop(kind=kind, topic=message.topic, time=message.published, body=body)


def _key(hop: Hop) -> Any:
    """Identity of a hop; an edge reports its progress often, the first of each state counts."""
    if hop.kind == "modelstatus":
        return hop.body.get("source"), hop.body.get("sequence"), hop.body.get("state")
    return hop.body["id"]


def _parent(hop: Hop, all_hops: Iterable[Hop], parents: Parents, *, fallback: Hop) -> Hop:
    """The message that one followed from: the last before it, of the kinds that come before."""
    everything = list(all_hops)
    for kind in parents[hop.kind]:
        before = [other for other in everything if other.kind == kind and other.time <= hop.time]
        if before:
            return max(before, key=lambda other: other.time)
    return fallback


def _texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
