"""The schemas that go into a recording, so that it explains itself without EdgeBus."""

from __future__ import annotations

import json
from typing import Any

from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from edgebus.contracts import Message

__all__ = ["IMAGE_SCHEMA", "image_schema", "json_schema"]

IMAGE_SCHEMA = CompressedImage.DESCRIPTOR.full_name
"""The name by which Foxglove knows a picture."""


def json_schema(kind: type[Message]) -> bytes:
    """The JSON Schema of what a message has on the wire.

    Fields that are None are left out there, so "X or null" is X: viewers that know one type per
    field can show it.
    """
    schema = kind.model_json_schema(by_alias=True, mode="serialization")
    return json.dumps(_without_null(schema), ensure_ascii=False).encode()


def image_schema() -> bytes:
    """The definition of foxglove.CompressedImage: a serialised FileDescriptorSet."""
    files = FileDescriptorSet()
    added: set[str] = set()

    def add(file: FileDescriptor) -> None:
        for needed in file.dependencies:
            add(needed)
        if file.name not in added:
            added.add(file.name)
            file.CopyToProto(files.file.add())

    add(CompressedImage.DESCRIPTOR.file)
    return files.SerializeToString()


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
