"""Every topic that is known here: the framework's own, and those of installed packages.

A package names a module of `Topic` constants in the entry-point group ``edgebus.topics``; from
then on its messages are recorded, described, validated and documented like the framework's own.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from edgebus.contracts import control, models, topics
from edgebus.contracts.payload import Message, RecordPayload
from edgebus.contracts.topic import Topic

__all__ = ["ENTRY_POINTS", "all_messages", "all_topics", "topic_of"]

ENTRY_POINTS = "edgebus.topics"


@cache
def all_topics() -> dict[str, Topic[Any]]:
    """Every topic by its constant's name: the framework's first, then by package."""
    found = _topics_in(topics)
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        found |= _topics_in(import_module(point.module))
    return found


def topic_of(name: str) -> Topic[Any] | None:
    """The topic that a concrete name belongs to; None where nobody has declared it."""
    candidates = _by_length().get(name.count("/"), ())
    matching = [topic for topic in candidates if topic.parse(name) is not None]
    # "{node}/{service}/…" matches more than "{node}/detector/…" does: the most exact one counts.
    return min(matching, key=lambda topic: len(topic.names), default=None)


@cache
def all_messages() -> dict[str, type[Message]]:
    """Every message that may be on the bus, by schema identifier, sorted.

    The records inside other payloads count; bases that nobody sends do not.
    """
    carried: list[type[Any]] = [topic.payload for topic in all_topics().values()]
    # A reply may be of a class that no topic names.
    carried += [kind for module in (control, models) for kind in vars(module).values()]
    kinds = [
        kind.record_type if issubclass(kind, RecordPayload) else kind
        for kind in carried
        if isinstance(kind, type)
    ]
    messages = {
        kind.schema_id(): kind
        for kind in kinds
        if issubclass(kind, Message) and kind not in (Message, control.Command)
    }
    return dict(sorted(messages.items()))


@cache
def _by_length() -> dict[int, list[Topic[Any]]]:
    """The topics by their number of slashes, so that few need to be tried."""
    found: dict[int, list[Topic[Any]]] = {}
    for topic in all_topics().values():
        found.setdefault(len(topic.levels) - 1, []).append(topic)
    return found


def _topics_in(module: ModuleType) -> dict[str, Topic[Any]]:
    return {name: value for name, value in vars(module).items() if isinstance(value, Topic)}
