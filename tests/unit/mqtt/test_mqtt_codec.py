"""The codec: round trips, any chunking, any bytes, and what the specification rules out."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebus.mqtt import (
    NO_PROPERTIES,
    Ack,
    Connack,
    Kind,
    Packet,
    Parser,
    Pingresp,
    Properties,
    ProtocolError,
    Publish,
    PublishEncoder,
    encode_packet,
)
from edgebus.mqtt._wire import Reader, encode_text, encode_varint
from mqtt_packets import packets

versions = st.booleans()


def parse(data: bytes, *, v5: bool, **options: int) -> list[Packet]:
    """All packets in `data`; raises what the parser found wrong."""
    parser = Parser(v5=v5, **options)
    found = parser.feed(data)
    if parser.failure is not None:
        raise parser.failure
    return found


@settings(max_examples=300)
@given(st.data(), versions)
def test_every_packet_survives_the_wire(data: st.DataObject, v5: bool) -> None:
    packet = data.draw(packets(v5=v5))
    assert parse(encode_packet(packet, v5=v5), v5=v5) == [packet]


@settings(max_examples=150)
@given(st.data(), versions)
def test_cutting_the_stream_anywhere_changes_nothing(data: st.DataObject, v5: bool) -> None:
    wanted = data.draw(st.lists(packets(v5=v5), min_size=1, max_size=5))
    stream = b"".join(encode_packet(packet, v5=v5) for packet in wanted)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    parser = Parser(v5=v5)
    found: list[Packet] = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += parser.feed(stream[start:stop])
    assert parser.failure is None
    assert found == wanted


@settings(max_examples=1000)
@given(st.binary(max_size=64), versions)
def test_any_bytes_are_packets_or_a_protocol_error(stream: bytes, v5: bool) -> None:
    parser = Parser(v5=v5)
    for byte in stream:
        for packet in parser.feed(bytes((byte,))):
            # What was accepted is well formed: it can be written and read again.
            assert parse(encode_packet(packet, v5=v5), v5=v5) == [packet]


@settings(max_examples=300)
@given(st.data(), versions)
def test_a_damaged_packet_is_a_packet_or_a_protocol_error(data: st.DataObject, v5: bool) -> None:
    stream = bytearray(encode_packet(data.draw(packets(v5=v5)), v5=v5))
    for _ in range(data.draw(st.integers(1, 3))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    parser = Parser(v5=v5)
    for packet in parser.feed(bytes(stream)):
        assert parse(encode_packet(packet, v5=v5), v5=v5) == [packet]


@given(st.integers(0, 268_435_455))
def test_variable_byte_integers(value: int) -> None:
    encoded = encode_varint(value)
    assert len(encoded) <= 4
    reader = Reader(encoded)
    assert reader.varint() == value
    reader.finish()


@pytest.mark.parametrize("value", [-1, 268_435_456])
def test_a_number_too_large_for_the_wire_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="variable byte integer"):
        encode_varint(value)


@pytest.mark.parametrize("text", ["a\0b", "x" * 65_536])
def test_a_string_that_mqtt_cannot_carry_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"NUL|65535"):
        encode_text(text)


def text(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + encode_varint(len(body)) + body


TOPIC = text(b"a/b")
BOTH, ONLY_5, ONLY_3 = (True, False), (True,), (False,)
# What is wrong, the section that rules it out, the versions, the bytes.
WRONG: list[tuple[str, str, tuple[bool, ...], bytes]] = [
    ("reserved type 0", "2.1.2", BOTH, packet(0x00, b"")),
    ("AUTH in 3.1.1", "2.1.2", ONLY_3, packet(0xF0, b"")),
    ("flags on PINGRESP", "2.1.3", BOTH, packet(0xD1, b"")),
    ("flags on PUBACK", "2.1.3", BOTH, packet(0x42, b"\0\1")),
    ("PUBREL without its flag", "2.1.3", BOTH, packet(0x60, b"\0\1")),
    ("length of five bytes", "2.1.4", BOTH, b"\x30\xff\xff\xff\xff\x01"),
    ("length not the shortest", "1.5.5", BOTH, b"\x30\x80\x00"),
    ("QoS 3", "3.3.1", BOTH, packet(0x36, TOPIC + b"\0\1\0")),
    ("DUP at QoS 0", "3.3.1", BOTH, packet(0x38, TOPIC + b"\0")),
    ("no topic at all", "2.1.4", BOTH, packet(0x30, b"")),
    ("topic longer than the packet", "2.1.4", BOTH, packet(0x30, b"\0\x09ab")),
    ("no packet identifier", "2.1.4", BOTH, packet(0x32, TOPIC)),
    ("packet identifier 0", "2.2.1", BOTH, packet(0x32, TOPIC + b"\0\0\0")),
    ("PUBACK 0", "2.2.1", BOTH, packet(0x40, b"\0\0")),
    ("topic of length 0", "3.3.2.1", BOTH, packet(0x30, b"\0\0\0")),
    ("+ in a topic", "3.3.2.1", BOTH, packet(0x30, text(b"a/+") + b"\0")),
    ("# in a topic", "3.3.2.1", BOTH, packet(0x30, text(b"#") + b"\0")),
    ("NUL in a topic", "1.5.4", BOTH, packet(0x30, text(b"a\0b") + b"\0")),
    ("topic that is no UTF-8", "1.5.4", BOTH, packet(0x30, text(b"\xff\xfe") + b"\0")),
    ("surrogate in a topic", "1.5.4", BOTH, packet(0x30, text(b"\xed\xa0\x80") + b"\0")),
    ("no property length", "2.1.4", ONLY_5, packet(0x30, TOPIC)),
    ("properties beyond the packet", "2.2.2.1", ONLY_5, packet(0x30, TOPIC + b"\x05\x01")),
    ("unknown property", "2.2.2.2", ONLY_5, packet(0x30, TOPIC + b"\x02\x7f\0")),
    ("property of another packet", "2.2.2.2", ONLY_5, packet(0x30, TOPIC + b"\x03\x21\0\1")),
    ("property twice", "2.2.2.2", ONLY_5, packet(0x30, TOPIC + b"\x04\x01\0\x01\0")),
    ("flag that is 2", "2.2.2.2", ONLY_5, packet(0x30, TOPIC + b"\x02\x01\x02")),
    ("topic alias 0", "2.2.2.2", ONLY_5, packet(0x30, TOPIC + b"\x03\x23\0\0")),
    ("property cut short", "2.1.4", ONLY_5, packet(0x30, TOPIC + b"\x02\x02\0\0\0\1\0")),
    ("property over the end of all", "2.2.2.1", ONLY_5, packet(0x20, b"\0\0\x02\x21\0\1")),
    ("CONNACK flags", "3.2.2.1", BOTH, packet(0x20, b"\x02\0\0")),
    ("session present on a refusal", "3.2.2.1.1", ONLY_3, packet(0x20, b"\x01\x05")),
    ("session present on a refusal", "3.2.2.1.1", ONLY_5, packet(0x20, b"\x01\x87\0")),
    ("return code 6", "3.2.2.2", ONLY_3, packet(0x20, b"\0\x06")),
    ("reason code of no CONNACK", "2.4", ONLY_5, packet(0x20, b"\0\x8e\0")),
    ("CONNACK with more behind", "2.1.4", ONLY_3, packet(0x20, b"\0\0\0")),
    ("receive maximum 0", "2.2.2.2", ONLY_5, packet(0x20, b"\0\0\x03\x21\0\0")),
    ("maximum QoS 2", "2.2.2.2", ONLY_5, packet(0x20, b"\0\0\x02\x24\x02")),
    ("PUBACK with more behind", "2.1.4", ONLY_3, packet(0x40, b"\0\1\0")),
    ("reason code of no PUBACK", "2.4", ONLY_5, packet(0x40, b"\0\1\x8e")),
    ("SUBACK without codes", "2.1.4", ONLY_3, packet(0x90, b"\0\1")),
    ("SUBACK code 3", "2.4", BOTH, packet(0x90, b"\0\1\0\x03")),
    ("UNSUBACK without codes", "2.1.4", ONLY_5, packet(0xB0, b"\0\1\0")),
    ("PINGRESP with a body", "2.1.4", BOTH, packet(0xD0, b"\0")),
    ("SUBSCRIBE without filters", "2.1.4", ONLY_3, packet(0x82, b"\0\1")),
    (
        "two identifiers",
        "2.2.2.2",
        ONLY_5,
        packet(0x82, b"\0\1\x04\x0b\1\x0b\2" + text(b"a") + b"\0"),
    ),
    ("SUBSCRIBE at QoS 3", "3.8.3.1", ONLY_3, packet(0x82, b"\0\1" + text(b"a") + b"\3")),
    ("retain handling 3", "3.8.3.1", ONLY_5, packet(0x82, b"\0\1\0" + text(b"a") + b"\x30")),
    ("bad filter", "4.7.1", ONLY_3, packet(0x82, b"\0\1" + text(b"a#") + b"\0")),
    ("another protocol", "3.1.2.2", BOTH, packet(0x10, text(b"MQIsdp") + b"\x03\0\0\0")),
    ("reserved connect flag", "3.1.2.3", ONLY_3, packet(0x10, text(b"MQTT") + b"\4\1\0\0\0\0")),
]


@pytest.mark.parametrize(
    ("section", "v5", "stream"),
    [
        pytest.param(section, v5, stream, id=f"{what} {'5' if v5 else '3.1.1'}")
        for what, section, wanted, stream in WRONG
        for v5 in wanted
    ],
)
def test_what_the_specification_rules_out(section: str, v5: bool, stream: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(stream, v5=v5)
    assert caught.value.section == section
    assert caught.value.code >= 0x80
    assert section in str(caught.value)


def test_packets_before_a_wrong_one_come_out() -> None:
    parser = Parser(v5=True)
    good = encode_packet(Pingresp(), v5=True)
    assert parser.feed(good + b"\x00\x00" + good) == [Pingresp()]
    assert parser.failure is not None
    assert parser.feed(good) == []


def test_a_refusal_in_version_3_is_understood_by_a_version_5_client() -> None:
    refusal = Connack(code=0x84)
    assert parse(encode_packet(refusal, v5=False), v5=True) == [refusal]


def test_a_packet_over_the_limit_is_refused_from_its_header() -> None:
    head = PublishEncoder(v5=True).head(
        "a", 2_000_000, first=0x30, packet_id=0, content_type="", expiry_s=None
    )
    with pytest.raises(ProtocolError) as caught:
        parse(head[:6], v5=True, max_packet_bytes=1_000_000)
    assert caught.value.code == 0x95


def test_a_claimed_size_takes_no_memory() -> None:
    parser = Parser(v5=True)
    tracemalloc.start()
    try:
        parser.feed(b"\x30\xff\xff\xff\x7f" + b"\0\1a\0")
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [0, 100, 9_000, 60_000, 262_144, 5_000_000])
@pytest.mark.parametrize("step", [1_000, 65_536, 10_000_000])
def test_large_packets_between_small_ones(size: int, step: int) -> None:
    large = Publish(
        "a/b", bytes(range(256)) * (size // 256) + b"x" * (size % 256), qos=1, packet_id=7
    )
    wanted = [Publish("a", b"1"), large, Publish("a", b"2"), large, Publish("a", b"3")]
    stream = b"".join(encode_packet(item, v5=True) for item in wanted)
    parser = Parser(v5=True)
    found: list[Packet] = []
    for at in range(0, len(stream), step):
        found += parser.feed(stream[at : at + step])
    assert found == wanted
    assert len(parser.room()) <= 262_144  # it does not keep what a large packet needed


@given(
    st.text("ab/ä", min_size=1, max_size=10),
    st.binary(max_size=40),
    st.sampled_from([0, 1, 77, 65_535]),
    st.sampled_from(["", "application/json", "image/jpeg"]),
    st.none() | st.integers(0, 0xFFFFFFFF),
    versions,
)
def test_the_fast_encoder_writes_what_the_plain_one_writes(
    topic: str, payload: bytes, packet_id: int, content_type: str, expiry_s: int | None, v5: bool
) -> None:
    encoder = PublishEncoder(v5=v5)
    first = 0x33 if packet_id else 0x31
    heads = [
        encoder.head(
            topic,
            len(payload),
            first=first,
            packet_id=packet_id,
            content_type=content_type,
            expiry_s=expiry_s,
        )
        for _ in range(2)  # the second time from what it has kept
    ]
    properties = NO_PROPERTIES
    if v5 and (content_type or expiry_s is not None):
        properties = Properties(
            payload_format_indicator=int(content_type == "application/json")
            if content_type
            else None,
            content_type=content_type or None,
            message_expiry_interval=expiry_s,
        )
    plain = Publish(
        topic,
        payload,
        qos=1 if packet_id else 0,
        retain=True,
        packet_id=packet_id,
        properties=properties,
    )
    assert [head + payload for head in heads] == [encode_packet(plain, v5=v5)] * 2


def test_what_cannot_be_written_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="receive_maximum cannot go with PUBLISH"):
        encode_packet(Publish("a", b"", properties=Properties(receive_maximum=1)), v5=True)
    with pytest.raises(ValueError, match="message_expiry_interval -1"):
        encode_packet(Publish("a", b"", properties=Properties(message_expiry_interval=-1)), v5=True)
    with pytest.raises(ValueError, match="packet identifier 0"):
        encode_packet(Ack(Kind.PUBACK, 0), v5=True)


def test_kept_topics_and_properties_do_not_grow_for_ever() -> None:
    parser = Parser(v5=True)
    for n in range(10_000):
        properties = Properties(message_expiry_interval=n)
        sent = Publish(f"t/{n}", b"", properties=properties)
        assert parser.feed(encode_packet(sent, v5=True)) == [sent]
    assert len(parser._decoder._topics) <= 4096
    assert len(parser._decoder._properties) <= 4096
