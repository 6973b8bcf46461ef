"""Changes of the contracts with which services of two versions misunderstand each other.

A fleet is never updated at once: an old service reads what a new one says, and a new one what an
old one says. Both directions are compared, schema by schema, as sets of documents: whatever the
writer may send, the reader must accept. Plain functions on plain data; nothing here reads files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["break", "note"]
Schema = Mapping[str, Any]

_LOWER_BOUNDS = ("minimum", "exclusiveMinimum", "minLength", "minItems")
_UPPER_BOUNDS = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One difference that matters.

    Attributes:
        kind: ``break``: two versions misunderstand each other; ``note``: they do not, and it is
            worth knowing.
        where: Schema and field, or topic.
        what: What has changed, for whom, and what to do.
    """

    kind: Kind
    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Contracts:
    """The published contracts of one version.

    Attributes:
        schemas: JSON Schema by schema identifier, such as ``detections/1``.
        asyncapi: The AsyncAPI 3.0 document; empty where there was none.
    """

    schemas: Mapping[str, Schema]
    asyncapi: Schema


def compare(old: Contracts, new: Contracts) -> list[Change]:
    """Every change between two versions that matters, breaks first."""
    changes = [*_compare_schemas(old.schemas, new.schemas)]
    if old.asyncapi:
        changes += _compare_channels(old.asyncapi, new.asyncapi)
    return sorted(changes, key=lambda change: (change.kind != "break", change.where))


def refusals(reader: Schema, writer: Schema) -> list[tuple[str, str]]:
    """Why a reader may refuse what a writer sends: pairs of path and reason.

    A writer sends no fields but those that its schema names, and no null: fields without a value
    are left out.

    Args:
        reader: The schema that the reader validates with; fields it does not know it ignores.
        writer: The schema of all that the writer may send.
    """
    return list(_Comparison(reader, writer).of(reader, writer, ()))


def _compare_schemas(old: Mapping[str, Schema], new: Mapping[str, Schema]) -> Iterator[Change]:
    for identifier in sorted(old):
        if identifier not in new:
            yield _gone(identifier, new)
            continue
        before, after = old[identifier], new[identifier]
        for who, reader, writer in (
            ("old readers refuse new", before, after),
            ("new readers refuse old", after, before),
        ):
            for path, reason in refusals(reader, writer):
                where = f"{identifier} {path}".rstrip()
                yield Change(
                    kind="break",
                    where=where,
                    what=f"{who} messages: {reason}; declare a new major version of the schema",
                )
    for identifier in sorted(set(new) - set(old)):
        yield Change(kind="note", where=identifier, what="is new")


def _gone(identifier: str, new: Mapping[str, Schema]) -> Change:
    name = identifier.partition("/")[0]
    majors = sorted(other for other in new if other.partition("/")[0] == name)
    if majors:
        what = f"is replaced by {', '.join(majors)}; old readers take no part until updated"
        return Change(kind="note", where=identifier, what=what)
    what = "is gone and nothing replaces it; keep it, or declare a new major version"
    return Change(kind="break", where=identifier, what=what)


def _compare_channels(old: Schema, new: Schema) -> Iterator[Change]:
    before, after = old.get("channels", {}), new.get("channels", {})
    for name in sorted(before):
        address = str(before[name].get("address"))
        if name not in after:
            what = "is gone; keep publishing there until nobody listens"
            yield Change(kind="break", where=address, what=what)
            continue
        moved = str(after[name].get("address"))
        if moved != address:
            what = f"has moved to {moved}; who listens at the old place hears nothing"
            yield Change(kind="break", where=address, what=what)
        yield from _compare_carried(
            address, _carried(old, before[name]), _carried(new, after[name])
        )
        yield from _compare_sending(address, _sending(old, name), _sending(new, name))
    for name in sorted(set(after) - set(before)):
        yield Change(kind="note", where=str(after[name].get("address")), what="is new")


def _compare_carried(address: str, before: set[str], after: set[str]) -> Iterator[Change]:
    for message in sorted(before - after):
        name = message.partition("/")[0]
        successors = sorted(m for m in after if m.partition("/")[0] == name)
        if successors:
            what = f"carries {', '.join(successors)} instead of {message}"
            yield Change(kind="note", where=address, what=what)
        else:
            what = f"carries no {message} any more; old readers wait for it in vain"
            yield Change(kind="break", where=address, what=what)
    majors = {message.partition("/")[0] for message in before}
    for message in sorted(after - before):
        if message.partition("/")[0] in majors:
            continue
        # A reader that knows one kind only takes everything for it.
        kind: Kind = "note" if len(before) > 1 else "break"
        what = f"carries {message} too"
        if kind == "break":
            what += "; old readers expect one kind of message there: give it a topic of its own"
        yield Change(kind=kind, where=address, what=what)


def _compare_sending(address: str, before: Schema, after: Schema) -> Iterator[Change]:
    if before.get("retain") and not after.get("retain"):
        what = "is no longer retained; who comes late learns nothing"
        yield Change(kind="break", where=address, what=what)
    if after.get("retain") and not before.get("retain"):
        what = "is retained now; readers get the last message again when they subscribe"
        yield Change(kind="note", where=address, what=what)
    if int(after.get("qos", 0)) < int(before.get("qos", 0)):
        what = f"has QoS {after.get('qos', 0)}, before {before.get('qos', 0)}; it may be lost"
        yield Change(kind="break", where=address, what=what)


def _carried(document: Schema, channel: Schema) -> set[str]:
    """The schema identifiers of a channel's messages."""
    components = document.get("components", {}).get("messages", {})
    return {str(components.get(key, {}).get("name", key)) for key in channel.get("messages", {})}


def _sending(document: Schema, channel: str) -> Schema:
    """The MQTT binding with which a channel is published to."""
    for operation in document.get("operations", {}).values():
        reference = operation.get("channel", {}).get("$ref")
        if operation.get("action") == "send" and reference == f"#/channels/{channel}":
            found: Schema = operation.get("bindings", {}).get("mqtt", {})
            return found
    return {}


class _Comparison:
    """One reader against one writer, with the definitions of each."""

    def __init__(self, reader: Schema, writer: Schema) -> None:
        self._reader_root = reader
        self._writer_root = writer
        # Definitions that are compared already; a schema may contain itself.
        self._open: set[tuple[str, str]] = set()

    def of(
        self, reader: Schema, writer: Schema, path: tuple[str, ...]
    ) -> Iterator[tuple[str, str]]:
        """Why `reader` may refuse what `writer` describes."""
        pair = (str(reader.get("$ref")), str(writer.get("$ref")))
        if "$ref" in reader and "$ref" in writer:
            if pair in self._open:
                return
            self._open.add(pair)
        reader, writer = _resolve(reader, self._reader_root), _resolve(writer, self._writer_root)
        readers = list(_alternatives(reader, self._reader_root))
        writers = list(_alternatives(writer, self._writer_root))
        for sent in writers:
            attempts = [list(self._one(accepted, sent, path)) for accepted in readers]
            if attempts and all(attempts):
                yield from min(attempts, key=len)
        self._open.discard(pair)

    def _one(
        self, reader: Schema, writer: Schema, path: tuple[str, ...]
    ) -> Iterator[tuple[str, str]]:
        here = ".".join(path)
        for reason in _scalar_refusals(reader, writer):
            yield here, reason
        if _type(reader) == _type(writer) == "object":
            yield from self._objects(reader, writer, path)
        if _type(reader) == _type(writer) == "array":
            items, sent = reader.get("items"), writer.get("items")
            if isinstance(items, Mapping):
                inner = sent if isinstance(sent, Mapping) else {}
                yield from self.of(items, inner, (*path, "[]"))

    def _objects(
        self, reader: Schema, writer: Schema, path: tuple[str, ...]
    ) -> Iterator[tuple[str, str]]:
        known, sent = reader.get("properties", {}), writer.get("properties", {})
        always = set(writer.get("required", ()))
        for name in reader.get("required", ()):
            where = ".".join((*path, name))
            if name in known and name not in sent:
                yield where, "it is required and not sent"
            elif name not in always:
                yield where, "it is required and may be missing"
        for name, value in sent.items():
            if name in known:
                yield from self.of(known[name], value, (*path, name))
            elif reader.get("additionalProperties") is False:
                yield ".".join((*path, name)), "it is unknown, and unknown fields are refused"
        values = reader.get("additionalProperties")
        if isinstance(values, Mapping):
            more = writer.get("additionalProperties")
            inner = more if isinstance(more, Mapping) else {}
            yield from self.of(values, inner, (*path, "*"))


def _scalar_refusals(reader: Schema, writer: Schema) -> Iterator[str]:
    wanted, sent = _type(reader), _type(writer)
    if wanted is not None and wanted != sent and (wanted, sent) != ("number", "integer"):
        yield f"its type is {sent or 'any'}, not {wanted}"
        return
    accepted, possible = _values(reader), _values(writer)
    if accepted is not None:
        if possible is None:
            yield f"it may be more than {_listed(accepted)}"
        elif strange := [value for value in possible if value not in accepted]:
            yield f"it may be {_listed(strange)}, known are {_listed(accepted)}"
        return
    if possible is not None:
        return
    yield from _bound_refusals(reader, writer)
    for keyword in ("pattern", "format"):
        limit = reader.get(keyword)
        if limit is not None and writer.get(keyword) != limit:
            yield f"{keyword} {limit!r} is asked for, it has {writer.get(keyword)!r}"


def _bound_refusals(reader: Schema, writer: Schema) -> Iterator[str]:
    for keyword in _LOWER_BOUNDS:
        limit, least = reader.get(keyword), writer.get(keyword)
        if limit is not None and (least is None or least < limit):
            if keyword in ("minLength", "minItems") and limit == 0:
                continue
            yield f"{keyword} {limit} is asked for, it has {'none' if least is None else least}"
    for keyword in _UPPER_BOUNDS:
        limit, most = reader.get(keyword), writer.get(keyword)
        if limit is not None and (most is None or most > limit):
            yield f"{keyword} {limit} is asked for, it has {'none' if most is None else most}"


def _type(schema: Schema) -> str | None:
    kind = schema.get("type")
    if kind is None and (values := _values(schema)):
        names = {str: "string", bool: "boolean", int: "integer", float: "number"}
        return names.get(type(values[0]))
    return None if kind is None else str(kind)


def _values(schema: Schema) -> list[Any] | None:
    """The values that a schema lists one by one; None where it does not."""
    if "const" in schema:
        return [schema["const"]]
    return list(schema["enum"]) if "enum" in schema else None


def _alternatives(schema: Schema, root: Schema) -> Iterator[Schema]:
    """The kinds of value that a schema allows, without null."""
    options: Iterable[Schema] = schema.get("anyOf") or schema.get("oneOf") or [schema]
    for option in options:
        found = _resolve(option, root)
        if found is not schema and ("anyOf" in found or "oneOf" in found):
            yield from _alternatives(found, root)
        elif found.get("type") != "null":
            yield found


def _resolve(schema: Schema, root: Schema) -> Schema:
    """Follow ``$ref`` into the document's own definitions."""
    seen = 0
    while isinstance(reference := schema.get("$ref"), str) and seen < 16:
        name = reference.rpartition("/")[2]
        schema = root.get("$defs", {}).get(name, {})
        seen += 1
    return schema


def _listed(values: list[Any]) -> str:
    return ", ".join(repr(value) for value in values)
