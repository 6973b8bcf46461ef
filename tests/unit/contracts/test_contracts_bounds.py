"""What a message may hold is bounded everywhere, so that whoever accepted it can say it again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from edgebus.contracts import (
    Message,
    RecordPayload,
)
from edgebus.contracts.registry import all_topics

_LONGEST = 65_535


def _messages() -> dict[str, type[Message]]:
    kinds: dict[str, type[Message]] = {}
    for topic in all_topics().values():
        payload = topic.payload
        kind = payload.record_type if issubclass(payload, RecordPayload) else payload
        if issubclass(kind, Message):
            kinds[kind.schema_id()] = kind
            reply = getattr(topic, "reply", None)
            if reply is not None:
                kinds[reply.schema_id()] = reply
    return kinds


def _unbounded(schema: Any, at: str, definitions: dict[str, Any]) -> Iterator[str]:
    """The places of a JSON schema where a value has no end."""
    if "$ref" in schema:
        yield from _unbounded(definitions[schema["$ref"].rpartition("/")[2]], at, definitions)
        return
    for key in ("anyOf", "oneOf", "allOf"):
        for part in schema.get(key, ()):
            yield from _unbounded(part, at, definitions)
    if "const" in schema or "enum" in schema:
        return
    kind = schema.get("type")
    if kind == "string" and not (
        schema.get("maxLength", _LONGEST + 1) <= _LONGEST
        or "pattern" in schema
        or schema.get("format") == "date-time"
    ):
        yield f"{at}: string"
    if kind in ("integer", "number") and not (
        {"minimum", "maximum"} <= schema.keys() or {"exclusiveMinimum", "maximum"} <= schema.keys()
    ):
        yield f"{at}: {kind}"
    if kind == "array":
        if "maxItems" not in schema:
            yield f"{at}: array"
        for part in [schema.get("items", {}), *schema.get("prefixItems", ())]:
            yield from _unbounded(part, f"{at}[]", definitions)
    if kind == "object":
        for name, part in schema.get("properties", {}).items():
            yield from _unbounded(part, f"{at}.{name}", definitions)
        values = schema.get("additionalProperties")
        if isinstance(values, dict):
            if "maxProperties" not in schema:
                yield f"{at}: map"
            if schema.get("propertyNames", {}).get("maxLength", _LONGEST) > 200:
                yield f"{at}: names of a map"
            yield from _unbounded(values, f"{at}{{}}", definitions)


@pytest.mark.parametrize("name", sorted(_messages()))
def test_no_message_of_ours_has_a_field_without_an_end(name: str) -> None:
    schema = _messages()[name].model_json_schema(by_alias=True, mode="validation")
    assert list(_unbounded(schema, name, schema.get("$defs", {}))) == []
