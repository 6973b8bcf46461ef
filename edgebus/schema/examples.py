"""One example of each message, made from its JSON Schema: what must be there, with plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

# Values of a form that the schema does not say, by the name of the field.
_BY_NAME: Mapping[str, str] = {
    "id": "01939f5e-7c00-7000-8000-000000000001",
    "frame": "01939f5e-7c00-7000-8000-000000000002",
    "request": "01939f5e-7c00-7000-8000-000000000003",
    "instance": "01939f5e-7c00-7000-8000-000000000004",
    "source": "lab/pi-01/server",
    "provider": "lab/gpu-01/distributor",
    "topic": "edgebus/lab/pi-01/server/model",
    "stream": "front",
    "model": "street",
    "channel": "stable",
    "name": "street",
    "label": "person",
    "node": "lab/pi-01/server",
    "media_type": "application/json",
    "version": "1.0",
}
# Of pairs the second is the larger one.
_NUMBERS = {"x1": 10, "y1": 20, "x2": 40, "y2": 80, "width": 640, "height": 480}
_BY_FORMAT = {"date-time": "2026-01-01T12:00:00.000000Z", "uuid": _BY_NAME["id"]}
_DIGEST = "ab" * 32


def example(document: Schema) -> dict[str, Any]:
    """An example of a message's JSON, with the fields that each message has and those it needs.

    Args:
        document: The message's JSON Schema, with its parts under ``$defs``.
    """
    made: dict[str, Any] = _Maker(document.get("$defs", {})).object(document)
    return made


class _Maker:
    def __init__(self, parts: Mapping[str, Schema]) -> None:
        self._parts = parts

    def object(self, schema: Schema) -> dict[str, Any]:
        fields: Schema = schema.get("properties", {})
        wanted = [name for name in fields if name in schema.get("required", ())]
        if "schema" in fields:  # of a command it may be left out; people copy examples
            wanted = list(dict.fromkeys((*wanted, "schema")))
        return {name: self.value(fields[name], name) for name in wanted}

    def value(self, schema: Schema, name: str) -> Any:
        if "$ref" in schema:
            return self.value(self._parts[schema["$ref"].rpartition("/")[2]], name)
        for word in ("anyOf", "oneOf", "allOf"):
            if word in schema:
                part = next(each for each in schema[word] if each.get("type") != "null")
                return self.value(part, name)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        match schema.get("type"):
            case "object":
                return self.object(schema)
            case "array":
                return self._array(schema, name)
            case "boolean":
                return True
            case "integer" | "number":
                return self._number(schema, name)
            case _:
                return self._text(schema, name)

    def _array(self, schema: Schema, name: str) -> list[Any]:
        if "prefixItems" in schema:
            return [self.value(each, name) for each in schema["prefixItems"]]
        items = schema.get("items", {})
        count = max(1, schema.get("minItems", 1)) if items else 0
        return [self.value(items, name.removesuffix("s"))] * count

    @staticmethod
    def _number(schema: Schema, name: str) -> float:
        if "exclusiveMinimum" in schema:
            least: float = schema["exclusiveMinimum"] + 1
        else:
            least = schema.get("minimum", 0)
        value: float = _NUMBERS.get(name, least)
        most: float = schema.get("maximum", value)
        return min(value, most)

    @staticmethod
    def _text(schema: Schema, name: str) -> str:
        if schema.get("default"):
            return str(schema["default"])
        if schema.get("format") in _BY_FORMAT:
            return str(_BY_FORMAT[schema["format"]])
        if name in _BY_NAME:
            return _BY_NAME[name]
        is_digest = "digest" in name or "64" in str(schema.get("pattern", ""))
        return _DIGEST if is_digest else name.rstrip("_") or "name"
