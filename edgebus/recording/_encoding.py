"""Encoding of the bus's messages in an MCAP file, and back, byte for byte.

JSON stays JSON, all else is raw bytes, unless a kind of payload names a format around it that
viewers show. What a channel of MCAP cannot say of an MQTT message (QoS, whether it is kept by the
broker) stands in the channel's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from edgebus.bus import RawMessage
from edgebus.contracts import Message, PayloadError, Qos, RecordPayload, Wrapper
from edgebus.contracts.payload import Overlay
from edgebus.contracts.peek import instant_of, json_object, record_in
from edgebus.contracts.registry import all_messages, all_topics, topic_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_JSON = "application/json"
_BYTES = "application/octet-stream"
_PREFIX = "edgebus."
DRAWN = f"{_PREFIX}drawn"
"""Marks channels of overlays in their metadata."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """Facts that the messages of one channel have in common.

    Attributes:
        topic: Concrete topic.
        encoding: MCAP's message encoding.
        schema: Name of their schema; empty where there is none.
        qos: Quality of service they came with.
        retain: Whether the broker keeps the last of them, as far as that can be seen.
        retained: They came from what the broker had kept: state from before the recording.
        content_type: MIME type.
        drawn: They are overlays of another channel's messages: nobody has sent them.
    """

    topic: str
    encoding: str
    schema: str = ""
    qos: Qos = 0
    retain: bool = False
    retained: bool = False
    content_type: str = ""
    drawn: bool = False

    @property
    def metadata(self) -> dict[str, str]:
        """What `channel_facts` reads back."""
        if self.drawn:
            return {DRAWN: "true"}
        return {
            f"{_PREFIX}qos": str(self.qos),
            f"{_PREFIX}retain": str(self.retain).lower(),
            f"{_PREFIX}retained": str(self.retained).lower(),
            f"{_PREFIX}content_type": self.content_type,
        }


@dataclass(frozen=True, slots=True)
class Encoded:
    """A message as it goes into the file.

    Attributes:
        channel: Where to.
        data: The bytes there.
        sent: When it was sent, in nanoseconds since 1970; when it was received where it does
            not say.
    """

    channel: Channel
    data: bytes
    sent: int


@cache
def wrappers() -> Mapping[str, tuple[Wrapper, str]]:
    """The formats that kinds of payload are wrapped in, by schema, and what MIME type is inside."""
    found: dict[str, tuple[Wrapper, str]] = {}
    for topic in all_topics().values():
        kind = topic.payload
        if issubclass(kind, RecordPayload) and (wrapper := kind.recorded_as()) is not None:
            found.setdefault(wrapper.schema, (wrapper, kind.content_type))
    return found


def encode(message: RawMessage) -> Encoded:
    """A message in the form of its channel; whatever it is, there is one."""
    topic = topic_of(message.topic)
    common: dict[str, Any] = {
        "topic": message.topic,
        "qos": 1 if message.qos else 0,
        "retain": topic.retain if topic is not None else message.retained,
        "retained": message.retained,
    }
    for wrapper, content_type in wrappers().values():
        if wrapper.fits(message.payload):
            record = record_in(message.topic, message.payload)
            sent = message.received if record is None else record.time
            data = wrapper.wrap(message.payload, record=record, topic=message.topic, sent=sent)
            channel = Channel(
                encoding=wrapper.encoding,
                schema=wrapper.schema,
                content_type=content_type,
                **common,
            )
            return Encoded(channel, data, nanoseconds(sent))
    body = json_object(message.payload)
    if body is not None:
        name = body.get("schema")
        if topic is None or not isinstance(name, str) or name not in all_messages():
            name = ""
        channel = Channel(encoding="json", schema=name, content_type=_JSON, **common)
        time = instant_of(body.get("time")) or message.received
        return Encoded(channel, message.payload, nanoseconds(time))
    content_type = message.content_type or (topic.payload.content_type if topic else _BYTES)
    channel = Channel(encoding=content_type, content_type=content_type, **common)
    record = record_in(message.topic, message.payload)
    sent = message.received if record is None else record.time
    return Encoded(channel, message.payload, nanoseconds(sent))


@cache
def overlays() -> Mapping[str, Overlay]:
    """What draws messages over the inputs that they are about, by the messages' schema."""
    kinds = all_messages().items()
    return {name: drawn for name, kind in kinds if (drawn := kind.overlay()) is not None}


def overlay_of(encoded: Encoded) -> Encoded | None:
    """The overlay of a message; None for one without, or that is not what its schema says."""
    drawn = overlays().get(encoded.channel.schema)
    if drawn is None:
        return None
    try:
        message = all_messages()[encoded.channel.schema].decode(encoded.data)
    except PayloadError:
        return None
    channel = Channel(
        topic=f"{encoded.channel.topic}/{drawn.level}",
        encoding=drawn.encoding,
        schema=drawn.schema,
        drawn=True,
    )
    return Encoded(channel, drawn.draw(message), encoded.sent)


def schema_of(name: str) -> tuple[str, bytes]:
    """MCAP's encoding of a schema, and the schema."""
    forms: dict[str, Wrapper | Overlay] = {each.schema: each for each in overlays().values()}
    forms |= {schema: wrapper for schema, (wrapper, _) in wrappers().items()}
    if name in forms:
        return forms[name].schema_encoding, forms[name].definition()
    return "jsonschema", json_schema(all_messages()[name])


def decode(*, encoding: str, schema: str, data: bytes) -> bytes:
    """The payload of a recorded message, as it was on the wire.

    Raises:
        ValueError: A wrapper is broken.
    """
    known = wrappers().get(schema)
    if known is not None and known[0].encoding == encoding:
        return known[0].unwrap(data)
    return data


def channel_facts(metadata: dict[str, str], *, encoding: str, schema: str) -> dict[str, Any]:
    """QoS, retain flag and content type from a channel's metadata.

    Files of other tools have none: then QoS 0, not retained.
    """
    _, inside = wrappers().get(schema, (None, _BYTES))
    fallback = _JSON if encoding == "json" else inside
    return {
        "qos": 1 if metadata.get(f"{_PREFIX}qos") == "1" else 0,
        "retain": metadata.get(f"{_PREFIX}retain") == "true",
        "retained": metadata.get(f"{_PREFIX}retained") == "true",
        "content_type": metadata.get(f"{_PREFIX}content_type") or fallback,
    }


def nanoseconds(time: datetime) -> int:
    """Since 1970, exact to the microsecond; 0 for anything before."""
    passed = max(time, _EPOCH) - _EPOCH
    return ((passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds) * 1000


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
