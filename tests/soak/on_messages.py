"""Attacks on what comes over the wire: messages, JPEG records, names, packets."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from edgebus.contracts import (
    ContractError,
    Identity,
    Message,
    NameRefusedError,
    PayloadError,
    check_segment,
)
from edgebus.contracts.peek import record_in, sent_at
from edgebus.contracts.registry import all_messages, all_topics
from edgebus.inspect import as_json, as_line
from edgebus.mqtt import Parser
from edgebus_detection.messages import Frame, FrameRecord, JpegPayload, Sample, SampleRecord
from edgebus_detection.models.testing import tiny_picture
from edgebus_detection.vision import ImageError, decode_picture, encode_jpeg
from tests.soak.making import Maker, text
from tests.soak.mutating import mutated_bytes, mutated_json
from tests.soak.target import Target, WrongError

__all__ = ["message_targets"]

_TOPICS = tuple(all_topics().values())
_ME = Identity(site="lab", node="pi-01", service="soak")


def message_targets() -> list[Target]:
    """Every message model, pictures with records, names, and MQTT packets."""
    kinds = all_messages()
    models = [
        Target(f"message {identifier}", _message(kind), share=1.0)
        for identifier, kind in kinds.items()
    ]
    return [
        *models,
        Target("jpeg frame", _picture(Frame, FrameRecord), share=3.0),
        Target("jpeg sample", _picture(Sample, SampleRecord), share=3.0),
        Target("jpeg pixels", _pixels, share=1.0),
        Target("names", _names, share=1.0),
        Target("any topic, any bytes", _anything(tuple(kinds.values())), share=2.0),
        Target("mqtt packets", _packets, share=2.0),
    ]


def _message(kind: type[Message]) -> Callable[[Random], int]:
    """A valid message survives the wire; anything else is refused or can be said again."""

    def attack(random: Random) -> int:
        made = Maker(random).model(kind)
        wire = made.encode()
        if kind.decode(wire) != made:
            msg = f"{wire!r} came back as something else"
            raise WrongError(msg)
        how = random.random()
        if how < 0.1:
            return 1
        if how < 0.6:
            hostile = mutated_json(random, json.loads(wire))
        elif how < 0.9:
            hostile = mutated_bytes(random, wire)
        else:
            hostile = random.randbytes(random.randrange(200))
        return _accepted(kind, hostile)

    return attack


def _accepted(kind: type[Message], hostile: bytes) -> int:
    try:
        read = kind.decode(hostile)
    except PayloadError as error:
        _check_words(error, hostile)
        return 0
    again = kind.decode(read.encode())
    if again != read:
        msg = f"accepted {hostile[:500]!r}, but says it differently itself: {read.encode()[:500]!r}"
        raise WrongError(msg)
    return 1


def _check_words(error: PayloadError, hostile: bytes) -> None:
    """An error must not carry the payload along: it goes to logs and dead letters."""
    words = str(error)
    if len(words) > 2000:
        msg = f"an error of {len(words)} characters for {len(hostile)} bytes"
        raise WrongError(msg)
    words.encode()


def _plain_jpegs() -> tuple[bytes, ...]:
    picture = tiny_picture()
    return tuple(encode_jpeg(picture, quality=quality) for quality in (20, 90))


_PLAIN = _plain_jpegs()


def _picture(
    kind: type[JpegPayload[Any]], record_type: type[FrameRecord] | type[SampleRecord]
) -> Callable[[Random], int]:
    """A picture with its record, whole and damaged."""

    def attack(random: Random) -> int:
        record = Maker(random).model(record_type, width=64, height=48)
        plain = random.choice(_PLAIN)
        how = random.random()
        if how < 0.2:  # a sender's own JPEG library may be odd too
            try:
                made = kind.build(mutated_bytes(random, plain), record)
            except PayloadError:
                return 0
            if kind.decode(made.encode()).record != record:
                msg = "the record came back as another"
                raise WrongError(msg)
            return 1
        whole = kind.build(plain, record).encode()
        if how < 0.3:
            head, _, tail = whole.partition(record.encode())
            hostile = head + mutated_json(random, json.loads(record.encode()))[:65533] + tail
        elif how < 0.35:
            hostile = _many_markers(random, whole)
        else:
            hostile = mutated_bytes(random, whole, other=plain)
        try:
            read = kind.decode(hostile)
        except PayloadError as error:
            _check_words(error, hostile)
            return 0
        kind.build(hostile, read.record)
        return 1

    return attack


def _many_markers(random: Random, whole: bytes) -> bytes:
    filler = random.choice((b"\xff", b"\xff\xd0", b"\xff\xe0\x00\x02", b"\xff\xfe\x00\x02"))
    return whole[:2] + filler * random.choice((10, 5000, 200_000)) + whole[2:]


def _pixels(random: Random) -> int:
    """A damaged picture on its way to a detector: refused, or decoded to the size it claims."""
    record = Maker(random).model(FrameRecord, width=64, height=48)
    whole = Frame.build(random.choice(_PLAIN), record).encode()
    try:
        frame = Frame.decode(mutated_bytes(random, whole))
        picture = decode_picture(frame.encode())
    except (PayloadError, ImageError):
        return 0
    if picture.shape not in ((48, 64, 3), (64, 48, 3)):  # the latter: turned by EXIF
        msg = f"a picture of shape {picture.shape}"
        raise WrongError(msg)
    return 1


def _names(random: Random) -> int:
    """A name is refused, or it is exactly one level of every topic."""
    name = text(random, 0, 100) if random.random() < 0.3 else _damaged_name(random)
    try:
        check_segment(name)
    except NameRefusedError as error:
        str(error).encode()
        return 0
    topic = random.choice(_TOPICS)
    part = random.choice(topic.names)
    others = dict.fromkeys(topic.names, "x")
    address = topic.at(_ME, **{**others, part: name})
    parsed = topic.parse(address.name)
    if parsed is None or parsed[part] != name or "\0" in address.name:
        msg = f"{name!r} is not one level of {address.name!r}"
        raise WrongError(msg)
    try:
        topic.any(**{part: name})
    except ContractError as error:
        msg = f"{name!r} can be published to and not subscribed to: {error}"
        raise WrongError(msg) from error
    return 1


def _damaged_name(random: Random) -> str:
    name = list(Maker(random).segment())
    for _ in range(random.choice((0, 1, 1, 2))):
        place = random.randrange(len(name) + 1)
        name.insert(place, random.choice("+#/$ \t\n\0\x7f\u2028\u200b\ud800*>é漢"))
    return "".join(name)


def _anything(kinds: tuple[type[Message], ...]) -> Callable[[Random], int]:
    """What tools do with whatever they see: describe it, look for its time."""

    def attack(random: Random) -> int:
        topic = random.choice(_TOPICS)
        maker = Maker(random)
        name = topic.at(_ME, **{key: maker.segment() for key in topic.names}).name
        if random.random() < 0.3:
            name += "/third/party"
        kind = topic.payload
        if not issubclass(kind, Message) or random.random() < 0.3:
            kind = random.choice(kinds)
        wire = maker.model(kind).encode()
        if random.random() < 0.5:
            payload = mutated_json(random, json.loads(wire))
        else:
            payload = mutated_bytes(random, wire, other=random.choice(_PLAIN))
        as_line(name, payload).encode()
        json.loads(as_json(name, payload, {"retained": False}).encode())
        record_in(name, payload)
        return int(sent_at(name, payload) is not None)

    return attack


_PUBLISH = bytes.fromhex("3010 0003 612f62") + b"\x00" + b"0123456789"
_PACKETS = (
    bytes.fromhex("20 03 00 00 00"),
    bytes.fromhex("20 02 00 00"),
    _PUBLISH,
    bytes.fromhex("90 04 0001 00 01"),
    bytes.fromhex("40 02 0001"),
    bytes.fromhex("d0 00"),
    bytes.fromhex("e0 02 8e 00"),
)


def _packets(random: Random) -> int:
    """What a broker sends, damaged, in pieces: packets, or a failure that says why."""
    stream = b"".join(random.choice(_PACKETS) for _ in range(random.randint(1, 6)))
    hostile = mutated_bytes(random, stream)
    parser = Parser(v5=random.random() < 0.5, max_packet_bytes=random.choice((100, 2**20)))
    found = 0
    while hostile:
        cut = random.randint(1, len(hostile))
        found += len(parser.feed(hostile[:cut]))
        hostile = hostile[cut:]
    return int(parser.failure is None and found > 0)
