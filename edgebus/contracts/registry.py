"""Every topic that is known here: the framework's own, and those of installed packages.

A package names a module of `Topic` constants in the entry-point group ``edgebus.topics``; from
then on its messages are recorded, described, validated and documented like the framework's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from itertools import permutations
from types import ModuleType
from typing import Any

from edgebus.contracts import control, models, topics
from edgebus.contracts.errors import STRANGE, ContractError
from edgebus.contracts.payload import Message, RecordPayload
from edgebus.contracts.topic import CommandTopic, Topic

ENTRY_POINTS = "edgebus.topics"

_CACHED_NAMES = 4096


class RegistryError(ContractError):
    """Two packages declare the same thing; both are named."""

    exit_code = 2


def entry_point(group: str, name: str) -> EntryPoint | None:
    """The one entry point of a name that installed packages bring; None: nobody does.

    Args:
        group: For example ``edgebus.services``.
        name: What is loaded.

    Raises:
        RegistryError: Two packages bring different things of this name.
    """
    # One package may be found in two places; what it brings is still one thing.
    found = {point.value: point for point in entry_points(group=group, name=name)}
    if len(found) > 1:
        places = " and ".join(sorted(map(_package, found.values())))
        kind = group.removeprefix("edgebus.")
        msg = f"{name!r} in {kind} is brought by {places}; uninstall one of them, or rename it"
        raise RegistryError(msg)
    return next(iter(found.values()), None)


def _package(point: EntryPoint) -> str:
    dist = f" of {point.dist.name} {point.dist.version}" if point.dist else ""
    return f"{point.value}{dist}"


@cache
def all_topics() -> Mapping[str, Topic[Any]]:
    """Every topic by its constant's name: the framework's first, then by package.

    Where a name is taken, the entry point's goes in front: ``FLOW_SAMPLES``. A package whose module
    cannot be imported is left out, with a warning.

    Raises:
        RegistryError: A filter of one topic would match all of another's messages.
    """
    found = _topics_in(topics)
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        try:
            module = import_module(point.module)
        except STRANGE as error:  # a stranger's module may raise anything
            package = f" of {point.dist.name}" if point.dist else ""
            warnings.warn(
                f"topics {point.value}{package} are left out: {type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            continue
        for name, topic in _topics_in(module).items():
            taken = found.get(name, topic) is not topic
            found[f"{point.name.upper()}_{name}" if taken else name] = topic
    for (name, one), (other, two) in permutations(found.items(), 2):
        if one is not two and _covers(one, two):
            msg = (
                f"topics {name} ({one.address}, {one.payload.__name__}) and {other} "
                f"({two.address}, {two.payload.__name__}) cannot be told apart by who subscribes "
                f"to {name}; give one of them another last level"
            )
            raise RegistryError(msg)
    return found


@lru_cache(maxsize=_CACHED_NAMES)
def topic_of(name: str) -> Topic[Any] | None:
    """The topic that a concrete name belongs to; None where nobody has declared it.

    Where several match, a literal counts more than a placeholder, and further left counts more.
    """
    parts = name.split("/")
    for literals, topic in _by_length().get(len(parts), ()):
        if all(parts[at] == level for at, level in literals):
            return topic
    return None


@cache
def all_messages() -> Mapping[str, type[Message]]:
    """Every message that may be on the bus, by schema identifier, sorted.

    The records inside other payloads count; bases that nobody sends do not.

    Raises:
        RegistryError: Two classes have the same schema identifier.
    """
    carried: list[type[Any]] = []
    for topic in all_topics().values():
        carried.append(topic.payload)
        if isinstance(topic, CommandTopic):
            carried.append(topic.reply)
    # What the framework says on topics of no constant.
    carried += [kind for module in (control, models) for kind in vars(module).values()]
    found: dict[str, type[Message]] = {}
    for each in carried:
        kind = each.record_type if _is(each, RecordPayload) else each
        if not _is(kind, Message) or kind in (Message, control.Command):
            continue
        other = found.setdefault(kind.schema_id(), kind)
        if other is not kind:
            msg = (
                f"{_place(other)} and {_place(kind)} both are {kind.schema_id()}; "
                'give one of them a name: class X(Message, version=1, name="…")'
            )
            raise RegistryError(msg)
    return dict(sorted(found.items()))


@cache
def _by_length() -> Mapping[int, list[tuple[list[tuple[int, str]], Topic[Any]]]]:
    """Literal levels and topics by number of levels, those that are to be tried first first."""
    found: dict[int, list[tuple[list[tuple[int, str]], Topic[Any]]]] = {}
    for topic in sorted(all_topics().values(), key=_rank):
        literals = [
            (at, level) for at, level in enumerate(topic.levels) if topic.placeholders[at] is None
        ]
        found.setdefault(len(topic.levels), []).append((literals, topic))
    return found


def _rank(topic: Topic[Any]) -> list[bool]:
    """Sorts what is to be tried first to the front: literals before placeholders."""
    return [name is not None for name in topic.placeholders]


def _covers(one: Topic[Any], other: Topic[Any]) -> bool:
    """Check whether `one` matches each concrete topic of `other`."""
    if len(one.levels) != len(other.levels):
        return False
    levels = zip(one.placeholders, one.levels, other.placeholders, other.levels, strict=True)
    return all(
        name is not None or (other_name is None and level == other_level)
        for name, level, other_name, other_level in levels
    )


def _topics_in(module: ModuleType) -> dict[str, Topic[Any]]:
    return {name: value for name, value in vars(module).items() if isinstance(value, Topic)}


def _is(kind: Any, base: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)


def _place(thing: Any) -> str:
    kind = thing.payload if isinstance(thing, Topic) else thing
    return f"{kind.__module__}.{kind.__qualname__}"
