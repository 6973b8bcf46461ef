"""Attacks on the MQTT parser: damaged packets of both versions, cut anywhere."""

from __future__ import annotations

from random import Random

from edgebus.mqtt import (
    NO_PROPERTIES,
    Ack,
    Connack,
    Connect,
    Disconnect,
    Kind,
    LastWill,
    Packet,
    Parser,
    Pingresp,
    Properties,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    encode_packet,
)
from tests.soak.mutating import mutated_bytes
from tests.soak.target import Target, WrongError

__all__ = ["wire_targets"]

_CASES = 50


def wire_targets() -> list[Target]:
    """Whatever comes, the parser gives well-formed packets or a `ProtocolError`."""
    return [
        Target(f"MQTT {version} stream", _Attack(v5=version == "5"), share=0.5, cases=_CASES)
        for version in ("5", "3.1.1")
    ]


class _Attack:
    def __init__(self, *, v5: bool) -> None:
        self._v5 = v5
        self._seeds = [encode_packet(packet, v5=v5) for packet in _packets(v5=v5)]

    def __call__(self, random: Random) -> int:
        return sum(self._one(random) for _ in range(_CASES))

    def _one(self, random: Random) -> int:
        valid = b"".join(random.choices(self._seeds, k=random.randint(1, 3)))
        stream = mutated_bytes(random, valid)
        parser = Parser(v5=self._v5, max_packet_bytes=1_000_000)
        step = random.choice((1, 7, 64, len(stream) or 1))
        packets: list[Packet] = []
        for at in range(0, len(stream), step):
            packets += parser.feed(stream[at : at + step])
        for packet in packets:
            again = Parser(v5=self._v5)
            if again.feed(encode_packet(packet, v5=self._v5)) != [packet]:
                raise WrongError(f"accepted and not to be written again: {packet}")
        return int(parser.failure is None)


def _packets(*, v5: bool) -> list[Packet]:
    def properties(**values: object) -> Properties:
        return Properties(**values) if v5 else NO_PROPERTIES  # type: ignore[arg-type]

    user = properties(user_properties=(("a", "b"), ("a", "")))
    full = properties(
        payload_format_indicator=1,
        message_expiry_interval=9,
        content_type="application/json",
        response_topic="a/b",
        correlation_data=b"\0\1",
        subscription_identifiers=(1, 268_435_455),
    )
    will = LastWill(topic="w", payload=b"gone", qos=1, retain=True, properties=user)
    return [
        Publish("edgebus/lab/pi-01/detector/state", b"{}", properties=full),
        Publish("a/é", b"x" * 300, qos=1, retain=True, packet_id=7, properties=user),
        Publish("a", b"", qos=2, duplicate=True, packet_id=65_535),
        Ack(Kind.PUBACK, 1),
        Ack(Kind.PUBREC, 2, 0x97 if v5 else 0, properties(reason_string="full")),
        Ack(Kind.PUBREL, 3),
        Connect(client_id="c", username="u", password=b"p", will=will, keepalive_s=30),
        Connack(session_present=True, properties=properties(maximum_packet_size=9, maximum_qos=1)),
        Subscribe(packet_id=4, subscriptions=(Subscription("a/+", 1), Subscription("#", 0))),
        Suback(packet_id=5, codes=(0, 1, 0x80)),
        Unsuback(packet_id=6, codes=(0, 0x11) if v5 else ()),
        Pingresp(),
        Disconnect(code=0x8E if v5 else 0),
    ]
