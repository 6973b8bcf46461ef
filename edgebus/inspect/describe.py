"""Views of one message of the bus: one line, or one JSON object; nothing here touches a socket."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgebus.contracts import Message, Payload, PayloadError, RawBytes, RecordPayload
from edgebus.contracts.registry import topic_of

_LONGEST = 160
# Said by the line itself, or by nobody who looks at a terminal.
_QUIET = frozenset({"id", "time", "source", "schema"})


def as_line(name: str, payload: bytes) -> str:
    """A payload in one line: the schema and its fields in short, or what is wrong with it."""
    if not payload:
        return "(cleared)"
    topic = topic_of(name)
    if topic is None:
        return _foreign(payload)
    try:
        decoded = topic.payload.decode(payload)
    except PayloadError as error:
        return f"{error} ({human_bytes(len(payload))})"
    return _line(decoded, len(payload))


def as_json(name: str, payload: bytes, circumstances: Mapping[str, Any]) -> str:
    """A payload with its circumstances as one JSON object.

    Bytes with a record inside show as that; bytes that are no text show as their number alone.

    Args:
        name: Concrete topic.
        payload: Its bytes.
        circumstances: More fields of the object, such as ``retained``.
    """
    body: dict[str, Any] = {"topic": name, **circumstances, "size": len(payload)}
    topic = topic_of(name)
    if topic is not None and payload:
        body["schema"] = topic.payload.schema_id()
        try:
            decoded = topic.payload.decode(payload)
        except PayloadError as error:
            body["error"] = error.reason
        else:
            if isinstance(decoded, RecordPayload):
                decoded = decoded.record
            if isinstance(decoded, Message):
                body["payload"] = json.loads(decoded.encode())
    elif payload:
        body["payload"] = _parsed(payload)
    # A third party's JSON may hold half a surrogate pair, which no terminal takes; as the escape
    # that it came as it stays JSON.
    return json.dumps(body, ensure_ascii=False).encode(errors="backslashreplace").decode()


def human_bytes(count: float) -> str:
    """A size for people: ``312 B``, ``1.4 MB`` (powers of 1000)."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _line(decoded: Payload, size: int) -> str:
    if isinstance(decoded, RecordPayload):
        what = f"{decoded.schema_id()} {decoded.format_name} {human_bytes(size)}"
        return f"{what} {_fields(decoded.record)}"
    if isinstance(decoded, Message):
        return f"{decoded.schema_id()} {_fields(decoded)}"
    if isinstance(decoded, RawBytes):
        return human_bytes(size)
    return f"{decoded.schema_id()} {human_bytes(size)}"


def _fields(message: Message) -> str:
    body = json.loads(message.encode())
    shown = [f"{key}={_short(value)}" for key, value in body.items() if key not in _QUIET]
    return _cut(" ".join(shown))


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"[{len(value)}]" if len(value) > 3 else f"[{', '.join(map(_short, value))}]"
    if isinstance(value, dict):
        if (label := value.get("label")) is not None:  # something labelled
            score = value.get("score")
            return str(label) if score is None else f"{label} {score:.2f}"
        if "name" in value and "version" in value:  # a model
            return f"{value['name']}@{value['version']}"
        inner = ", ".join(f"{k}: {_short(v)}" for k, v in list(value.items())[:8])
        return "{" + inner + (", …" if len(value) > 8 else "") + "}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _foreign(payload: bytes) -> str:
    text = _parsed(payload)
    if text is None:
        return human_bytes(len(payload))
    return _cut(" ".join((text if isinstance(text, str) else json.dumps(text)).split()))


def _parsed(payload: bytes) -> Any:
    """JSON as its value, text as itself, else None."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # the latter for JSON a thousand brackets deep
        return text if text.isprintable() else None


def printable(text: str) -> str:
    """Text from the bus, so that it cannot steer the terminal."""
    return "".join(c if c.isprintable() else "·" for c in text)


def _cut(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
