"""How a message of the bus lies in an MCAP file, and how it comes out again, byte for byte.

JSON stays JSON. A picture is wrapped as foxglove.CompressedImage, whose `data` is the JPEG as it
was, its record included. Everything else is raw bytes. What a channel of MCAP cannot say of an
MQTT message (QoS, whether it is kept by the broker) stands in the channel's metadata.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from edgebus.bus import RawMessage
from edgebus.contracts import Qos
from edgebus.contracts.peek import instant_of, json_object, record_in
from edgebus.contracts.registry import all_messages, topic_of
from edgebus.recording._schemas import IMAGE_SCHEMA

__all__ = ["Form", "Laid", "circumstances_of", "lay", "lift", "nanoseconds"]

Kind = Literal["json", "image", "raw"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_JSON = "application/json"
_JPEG = "image/jpeg"
_BYTES = "application/octet-stream"
_PREFIX = "edgebus."


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What the messages of one channel have in common.

    Attributes:
        topic: Concrete topic.
        kind: How they lie in the file.
        schema: Name of their schema; empty where there is none.
        qos: Quality of service they came with.
        retain: Whether the broker keeps the last of them, as far as that can be seen.
        retained: They came from what the broker had kept: state from before the recording.
        content_type: MIME type.
    """

    topic: str
    kind: Kind
    schema: str = ""
    qos: Qos = 0
    retain: bool = False
    retained: bool = False
    content_type: str = ""

    @property
    def encoding(self) -> str:
        """MCAP's message encoding."""
        return {"json": "json", "image": "protobuf"}.get(self.kind, self.content_type or _BYTES)

    @property
    def metadata(self) -> dict[str, str]:
        """What `circumstances_of` reads back."""
        return {
            f"{_PREFIX}qos": str(self.qos),
            f"{_PREFIX}retain": str(self.retain).lower(),
            f"{_PREFIX}retained": str(self.retained).lower(),
            f"{_PREFIX}content_type": self.content_type,
        }


@dataclass(frozen=True, slots=True)
class Laid:
    """A message as it goes into the file.

    Attributes:
        form: Says which channel.
        data: The bytes there.
        sent: When it was sent, in nanoseconds since 1970; when it was received where it does
            not say.
    """

    form: Form
    data: bytes
    sent: int


def lay(message: RawMessage) -> Laid:
    """Lay a message into its form; whatever it is, there is one."""
    topic = topic_of(message.topic)
    retain = topic.retain if topic is not None else message.retained
    received = nanoseconds(message.received)
    common: dict[str, Any] = {
        "topic": message.topic,
        "qos": 1 if message.qos else 0,
        "retain": retain,
        "retained": message.retained,
    }
    if _is_jpeg(message.payload):
        record = record_in(message.topic, message.payload)
        sent = received if record is None else nanoseconds(record.time)
        taken = getattr(record, "captured", None)
        data = CompressedImage(
            timestamp=_timestamp(sent if taken is None else nanoseconds(taken)),
            frame_id=getattr(record, "camera", getattr(record, "stream", message.topic)),
            data=message.payload,
            format="jpeg",
        ).SerializeToString()
        form = Form(kind="image", schema=IMAGE_SCHEMA, content_type=_JPEG, **common)
        return Laid(form, data, sent)
    body = json_object(message.payload)
    if body is not None:
        name = body.get("schema")
        if topic is None or not isinstance(name, str) or name not in all_messages():
            name = ""
        form = Form(kind="json", schema=name, content_type=_JSON, **common)
        time = instant_of(body.get("time"))
        return Laid(form, message.payload, received if time is None else nanoseconds(time))
    content_type = message.content_type or (topic.payload.content_type if topic else _BYTES)
    return Laid(Form(kind="raw", content_type=content_type, **common), message.payload, received)


def lift(*, encoding: str, schema: str, data: bytes) -> bytes:
    """The payload of a recorded message, as it was on the wire.

    Raises:
        ValueError: A picture whose wrapper is broken.
    """
    if encoding == "protobuf" and schema == IMAGE_SCHEMA:
        try:
            return CompressedImage.FromString(data).data
        except DecodeError as error:
            msg = f"a broken {IMAGE_SCHEMA}: {error}"
            raise ValueError(msg) from error
    return data


def circumstances_of(metadata: dict[str, str], *, encoding: str) -> dict[str, Any]:
    """QoS, retain flag and content type from a channel's metadata.

    Files of other tools have none: then QoS 0, not retained.
    """
    fallback = {"json": _JSON, "protobuf": _JPEG}.get(encoding, _BYTES)
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


def _is_jpeg(payload: bytes) -> bool:
    return payload.startswith(b"\xff\xd8\xff")


def _timestamp(value: int) -> Timestamp:
    return Timestamp(seconds=value // 1_000_000_000, nanos=value % 1_000_000_000)
