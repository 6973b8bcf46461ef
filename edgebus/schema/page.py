"""Page of the contracts in HTML: no script or style from elsewhere, readable offline.

Made from the AsyncAPI document alone, so that it says what `schemas/asyncapi.yaml` says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Schema = Mapping[str, Any]

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "pattern": "matches {}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    """One row of a message's table."""

    name: str
    kind: str
    refers: str | None
    required: bool
    meaning: str
    limits: str
    default: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A message, or a record inside of messages.

    Attributes:
        name: Name of the class, also its anchor.
        schema: Schema identifier; empty for a record.
        meaning: What it says.
        media: MIME type; empty for a record.
        fields: Its fields.
        record: For bytes with a record inside: the message that is their record.
    """

    name: str
    schema: str
    meaning: str
    media: str
    fields: tuple[_Field, ...]
    record: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Channel:
    """One topic."""

    anchor: str
    levels: tuple[tuple[str, bool], ...]
    address: str
    meaning: str
    qos: int
    retain: bool
    messages: tuple[str, ...]
    parameters: tuple[tuple[str, str], ...]


def asyncapi_page(document: Schema) -> str:
    """The page of an AsyncAPI 3.0 document, as HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("edgebus.schema", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    messages = list(_messages(document))
    carried = {part.name for part in messages} | {p.record for p in messages if p.record}
    return environment.get_template("asyncapi.html.j2").render(
        info=document["info"],
        default=document.get("defaultContentType", ""),
        groups=_groups(document),
        messages=messages,
        parts=[part for part in _records(document) if part.name not in carried],
    )


def _groups(document: Schema) -> dict[str, list[_Channel]]:
    """The topics by kind of service, by title."""
    found: dict[str, list[_Channel]] = {}
    for name, channel in document["channels"].items():
        made = _channel(document, name, channel)
        found.setdefault(_title(document, name, made.address), []).append(made)
    return found


def _title(document: Schema, name: str, address: str) -> str:
    """The group of a topic: the services that publish it, or what every service has."""
    if "cmd" in address.split("/"):
        return "Commands"
    tags = [tag["name"] for tag in _operation(document, name, "send").get("tags", ())]
    return ", ".join(tags).capitalize() or "Every service"


def _operation(document: Schema, channel: str, action: str) -> Schema:
    for operation in document["operations"].values():
        if (
            operation["channel"]["$ref"] == f"#/channels/{channel}"
            and operation["action"] == action
        ):
            found: Schema = operation
            return found
    return {}


def _channel(document: Schema, name: str, channel: Schema) -> _Channel:
    address = str(channel["address"])
    sending = _operation(document, name, "send").get("bindings", {}).get("mqtt", {})
    return _Channel(
        anchor=f"topic-{name}",
        levels=tuple(
            (level, _PLACEHOLDER.fullmatch(level) is not None) for level in address.split("/")
        ),
        address=address,
        meaning=str(channel.get("description", "")),
        qos=int(sending.get("qos", 0)),
        retain=bool(sending.get("retain", False)),
        messages=tuple(channel["messages"]),
        parameters=tuple(
            (key, str(value.get("description", "")))
            for key, value in channel.get("parameters", {}).items()
        ),
    )


def _messages(document: Schema) -> Iterator[_Part]:
    schemas = document["components"]["schemas"]
    for name, message in document["components"]["messages"].items():
        record = message.get("x-edgebus-record", {}).get("$ref")
        payload = record or message["payload"].get("$ref")
        body = schemas[_last(payload)] if payload else {}
        yield _Part(
            name=name,
            schema=str(message["name"]),
            meaning=_paragraph(message.get("description") or message.get("summary", "")),
            media=str(message.get("contentType", "")),
            fields=tuple(_fields(body)),
            record=_last(record) if record else None,
        )


def _records(document: Schema) -> Iterator[_Part]:
    """The parts of messages."""
    used = _references(document["components"]["schemas"])
    for name, body in document["components"]["schemas"].items():
        if name in used:
            meaning = _paragraph(str(body.get("description", "")))
            yield _Part(
                name=name, schema="", meaning=meaning, media="", fields=tuple(_fields(body))
            )


def _references(node: Any) -> set[str]:
    if isinstance(node, Mapping):
        found = {_last(node["$ref"])} if isinstance(node.get("$ref"), str) else set()
        return found.union(*(_references(value) for value in node.values()))
    if isinstance(node, list):
        return set().union(*(_references(value) for value in node))
    return set()


def _fields(body: Schema) -> Iterator[_Field]:
    required = set(body.get("required", ()))
    meanings = _attributes(str(body.get("description", "")))
    for name, field in body.get("properties", {}).items():
        kind, refers = _kind(field)
        default = field.get("default")
        yield _Field(
            name=name,
            kind=kind,
            refers=refers,
            required=name in required,
            meaning=str(field.get("description", "") or meanings.get(name, "")),
            limits=", ".join(_limits(field)),
            default=None if default is None or "const" in field else json.dumps(default),
        )


def _kind(field: Schema) -> tuple[str, str | None]:
    """A field's type in words, and the record that it refers to."""
    if "$ref" in field:
        name = _last(field["$ref"])
        return name, name
    if "const" in field:
        return json.dumps(field["const"]), None
    if "enum" in field:
        return " | ".join(json.dumps(value) for value in field["enum"]), None
    for word in ("anyOf", "oneOf", "allOf"):
        if word in field:
            kinds = [_kind(part) for part in field[word] if part.get("type") != "null"]
            refers = next((name for _, name in kinds if name), None)
            return " | ".join(kind for kind, _ in kinds), refers
    kind = str(field.get("type", "any"))
    if kind == "array":
        inner, refers = _kind(field.get("items", {}))
        return f"list of {inner}", refers
    if kind == "object" and isinstance(field.get("additionalProperties"), Mapping):
        inner, refers = _kind(field["additionalProperties"])
        return f"mapping to {inner}", refers
    return kind if kind == "integer" else str(field.get("format", kind)), None


def _limits(field: Schema) -> Iterator[str]:
    for part in (field, *field.get("anyOf", ())):
        for keyword, words in _LIMITS.items():
            if keyword in part:
                yield words.format(part[keyword])


def _attributes(docstring: str) -> dict[str, str]:
    """Attributes that a Google style docstring describes: ``name: meaning`` lines, indented."""
    found: dict[str, str] = {}
    _, _, text = docstring.partition("Attributes:\n")
    last = ""
    for line in text.splitlines():
        names, colon, meaning = line.strip().partition(": ")
        if colon and not line.startswith("        ") and re.fullmatch(r"[\w, ]+", names):
            for last in names.split(", "):
                found[last] = meaning
        elif last and line.strip():
            found[last] += f" {line.strip()}"
    return {name: meaning.replace("``", "") for name, meaning in found.items()}


def _paragraph(docstring: str) -> str:
    """The first paragraph."""
    return " ".join(docstring.split("\n\n", maxsplit=1)[0].split()).replace("``", "")


def _last(reference: str) -> str:
    return reference.rpartition("/")[2]
