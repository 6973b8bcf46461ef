"""Tables and points of any kind of message, by its fields.

A row begins with `heard`, the time at which telemetry received the message; all other times are
the senders' own. All of them are RFC 3339, UTC, microseconds, so rows of several nodes sort
together as text.

A field of a part, such as `version` of the model, keeps its own name where no other field of the
message has it; else it is prefixed: `target_version`. The name of a named part stands under the
part's own name. Lists are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from cachetools import LRUCache

from edgebus.bus import Event
from edgebus.contracts import (
    STRANGE,
    Message,
    Metrics,
    Record,
    Segment,
    ServiceState,
    Topic,
    rfc3339,
)
from edgebus.workload import Figure

Value = float | int | str | bool

_WHO = ("heard", "site", "node", "service", "time")
_NOT_FIELDS = frozenset({"id", "time", "source", "schema_", "traceparent"})
# Placeholders with ever new values; as tags each of them would be a series of its own.
_ENDLESS = frozenset({"digest", "index", "job", "letter", "request"})
_MAX_TAG_VALUES = 1000
_OTHER = "(other)"
_MAX_ENTRIES = 256
_MAX_NAMES = 2000  # figures of one service
_MAX_SERVICES = 4096
_TABLES = {"metrics": "metrics", "modelstatus": "models", "rollout": "rollouts"}
_TABLES |= {"state": "states", "training": "trainings"}
_FIGURES: dict[str, dict[str, Figure]] = {
    "state/1": {"up": lambda message: message.state in {"ready", "degraded"}},
    "training/1": {"seconds": lambda message: float(sum(message.seconds.values()))},
}


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a series.

    Attributes:
        measurement: The series' family.
        time: When.
        tags: Indexed labels.
        fields: Values. The type of a field must never change: InfluxDB refuses the second one.
    """

    measurement: str
    time: datetime
    tags: Mapping[str, str]
    fields: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class _Column:
    """A field of a message, or of a part of it."""

    path: tuple[str, ...]
    types: frozenset[type]
    named: bool

    def value(self, message: Any) -> Any:
        """Its value; None where it, or a part on the way there, is absent."""
        for step in self.path:
            message = getattr(message, step, None)
        return message


class Series:
    """One kind of message as a CSV table and as a measurement of InfluxDB.

    Args:
        kind: The class of its messages.
        topics: Where they are published.
        figures: More columns by name, each with what computes it; one of a field's name replaces
            the field.
    """

    def __init__(
        self, kind: type[Message], topics: Sequence[Topic[Any]], figures: Mapping[str, Figure]
    ) -> None:
        name = kind.schema_id().partition("/")[0]
        self.table = self.measurement = _TABLES.get(name, name)
        self._figures = figures
        self._columns = {n: c for n, c in _columns(kind).items() if n not in figures}
        names = dict.fromkeys(name for topic in topics for name in topic.names)
        self._names = [n for n in names if n not in {"base", *_WHO, *self._columns}]
        self._tags = [name for name in self._names if name not in _ENDLESS]
        self._known: dict[str, set[str]] = {}
        self.failed = 0
        """Figures that raised an error."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The table's header."""
        return (*_WHO, *self._names, *self._columns, *self._figures)

    def rows(self, event: Event[Any]) -> list[list[str]]:
        """The rows of a message: one, for most kinds."""
        message = event.payload
        values = [column.value(message) for column in self._columns.values()]
        values += [self._figure(name, message) for name in self._figures]
        return [[*self._who(event), *map(_text, values)]]

    def point(self, event: Event[Any]) -> Point:
        """The point of a message, at the time when it was sent."""
        message = event.payload
        tags = dict(zip(_WHO[1:4], event.topic.split("/")[1:4], strict=True))
        tags |= {name: event.names[name] for name in self._tags if name in event.names}
        fields: dict[str, Value] = {}
        for name, column in self._columns.items():
            value = column.value(message)
            if column.named:
                tags |= {} if value is None else {name: str(value)}
            else:
                fields |= _fields(name, value, column.types)
        for name in self._figures:
            fields |= _fields(name, self._figure(name, message), frozenset())
        tags = {name: self._bounded(name, value) for name, value in tags.items()}
        return Point(self.measurement, self._time(event), tags, fields)

    def _figure(self, name: str, message: Any) -> Any:
        """One figure; None where it raises, whatever that is: the message's own fields stay."""
        try:
            return self._figures[name](message)
        except STRANGE:  # a stranger's code
            self.failed += 1
            return None

    def _time(self, event: Event[Any]) -> datetime:
        time: datetime = event.payload.time
        return time

    def _who(self, event: Event[Any]) -> list[str]:
        who = event.topic.split("/")[1:4]
        names = (event.names.get(name, "") for name in self._names)
        return [rfc3339(event.received), *who, rfc3339(event.payload.time), *names]

    def _bounded(self, name: str, value: str) -> str:
        """A tag's value; from one number of different ones on, the rest counts as one."""
        known = self._known.setdefault(name, set())
        if value not in known and len(known) >= _MAX_TAG_VALUES:
            return _OTHER
        known.add(value)
        return value


class _States(Series):
    """States of services."""

    def _time(self, event: Event[ServiceState]) -> datetime:
        # A will was written long before it is sent, so it counts from now.
        return event.received if event.payload.state == "offline" else event.payload.time


class _Metrics(Series):
    """Heartbeats: a row per counter and gauge, each a field of its own name."""

    def __init__(
        self, kind: type[Message], topics: Sequence[Topic[Any]], figures: Mapping[str, Figure]
    ) -> None:
        super().__init__(kind, topics, figures)
        self.measurement = "services"
        self._columns = {n: c for n, c in self._columns.items() if n not in {"counters", "gauges"}}

        self._names_of: LRUCache[str, set[str]] = LRUCache(_MAX_SERVICES)

    def _known_names(self, source: str, values: Mapping[str, float]) -> dict[str, float]:
        """The figures of a service under its first names; one that makes up new ones is cut off."""
        known = self._names_of.setdefault(source, set())
        known.update(islice((n for n in values if n not in known), _MAX_NAMES - len(known)))
        return {name: value for name, value in values.items() if name in known}

    @property
    def columns(self) -> tuple[str, ...]:
        """The table's header."""
        return (*super().columns, "name", "kind", "value")

    def rows(self, event: Event[Metrics]) -> list[list[str]]:
        """One row per counter and gauge, and one for the process where it has none."""
        (head,) = super().rows(event)
        message = event.payload
        rows = [
            [*head, name, kind, _text(value)]
            for kind, values in (("counter", message.counters), ("gauge", message.gauges))
            for name, value in sorted(self._known_names(message.source, values).items())
        ]
        return rows or [[*head, "", "", ""]]

    def point(self, event: Event[Metrics]) -> Point:
        """CPU, memory, and every counter and gauge."""
        made = super().point(event)
        message = event.payload
        values = self._known_names(message.source, message.counters | message.gauges)
        figures = {name: float(value) for name, value in values.items()}
        return Point(made.measurement, made.time, made.tags, {**made.fields, **figures})


def series_of(
    topics: Sequence[Topic[Any]], figures: Mapping[str, Mapping[str, Figure]]
) -> dict[type[Message], Series]:
    """A series per class of messages on these topics.

    Args:
        topics: Topics of JSON messages.
        figures: More columns by schema identifier, of the workloads.
    """
    special: dict[type[Message], type[Series]] = {Metrics: _Metrics, ServiceState: _States}
    found = {
        kind: special.get(kind, Series)(
            kind,
            [topic for topic in topics if topic.payload is kind],
            {**_FIGURES.get(kind.schema_id(), {}), **figures.get(kind.schema_id(), {})},
        )
        for kind in dict.fromkeys(topic.payload for topic in topics)
    }
    tables: set[str] = set()
    measurements: set[str] = set()
    for kind, series in found.items():
        # Another version of a message, or one named like a table of ours, has other columns.
        own = kind.schema_id().replace("/", "_")
        series.table = own if series.table in tables else series.table
        series.measurement = own if series.measurement in measurements else series.measurement
        tables.add(series.table)
        measurements.add(series.measurement)
    return found


def _columns(kind: type[Message]) -> dict[str, _Column]:
    leaves = list(_leaves(kind, (), _NOT_FIELDS))
    # A message may speak of another node than its own.
    shorts = Counter([*_WHO, *(_short(leaf.path) for leaf in leaves)])
    return {
        short if shorts[short] == 1 else _long(leaf.path): leaf
        for leaf in leaves
        for short in (_short(leaf.path),)
    }


def _leaves(
    kind: type[Record], above: tuple[str, ...], leave_out: frozenset[str]
) -> Iterator[_Column]:
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if name not in kind.model_fields or name in leave_out:
            continue
        path, types = (*above, name), frozenset(_types(hint))
        parts = [t for t in types if issubclass(t, Record)]
        if parts:
            yield from _leaves(parts[0], path, frozenset())
        else:
            yield _Column(path, types, named=Segment in _options(hint))


def _options(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a field's type."""
    return get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)


def _types(hint: Any) -> Iterator[type]:
    """The classes that a field's values may have; those of a container are left out."""
    for option in _options(hint):
        if get_origin(option) is Annotated:
            yield from _types(get_args(option)[0])
        elif isinstance(option, type) and get_origin(option) is None:
            yield option


def _short(path: tuple[str, ...]) -> str:
    return _without_name(path)[-1]


def _long(path: tuple[str, ...]) -> str:
    name = "_".join(_without_name(path))
    return f"its_{name}" if name in _WHO else name


def _without_name(path: tuple[str, ...]) -> tuple[str, ...]:
    return path[:-1] if len(path) > 1 and path[-1] == "name" else path


def _fields(name: str, value: Any, types: frozenset[type]) -> dict[str, Value]:
    """The fields of a point that a value makes; their types do not depend on it."""
    if value is None or isinstance(value, datetime):
        return {}
    if isinstance(value, Mapping):
        numbers = ((k, v) for k, v in value.items() if isinstance(v, int | float))
        return {f"{name}.{key}": float(number) for key, number in islice(numbers, _MAX_ENTRIES)}
    if isinstance(value, tuple):
        found: dict[str, Value] = {name: len(value)}
        for part in islice(value, _MAX_ENTRIES):
            if isinstance(part, Record) and isinstance(called := getattr(part, "name", None), str):
                for column, leaf in _parts(type(part)).items():
                    found |= _fields(f"{called}.{column}", leaf.value(part), leaf.types)
        return found
    if isinstance(value, float) or (float in types and not isinstance(value, bool)):
        return {name: float(value)}
    return {name: value if isinstance(value, bool | int) else str(value)}


def _parts(kind: type[Record]) -> dict[str, _Column]:
    return {"_".join(leaf.path): leaf for leaf in _leaves(kind, (), frozenset({"name"}))}


def _text(value: Any) -> str:
    """A value in a cell; numbers as the shortest text that keeps three decimals."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, tuple):
        return str(len(value))
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_text(one)}" for key, one in sorted(value.items()))
    return str(value).lower() if isinstance(value, bool) else str(value)
