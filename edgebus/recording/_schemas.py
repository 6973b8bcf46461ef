"""Schemas that go into a recording, so that it explains itself without EdgeBus."""

from __future__ import annotations

import json
from typing import Any

from edgebus.contracts import Message


def json_schema(kind: type[Message]) -> bytes:
    """The JSON Schema of what a message has on the wire.

    Fields that are None are left out there, so "X or null" is X: viewers that know one type per
    field can show it.
    """
    schema = kind.model_json_schema(by_alias=True, mode="serialization")
    return json.dumps(_without_null(schema), ensure_ascii=False).encode()


def _without_null(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_null(item) for item in node]
    if not isinstance(node, dict):
        return node
    made = {key: _without_null(value) for key, value in node.items()}
    options = made.get("anyOf")
    if isinstance(options, list):
        kept = [option for option in options if option != {"type": "null"}]
        if len(kept) == 1:
            del made["anyOf"]
            made = {**kept[0], **made}
    if made.get("default", made) is None:
        del made["default"]
    return made
