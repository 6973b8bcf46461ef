"""The client's session as plain code: identifiers, windows, resending, QoS 2, keep-alive."""

from __future__ import annotations

import pytest

from edgebus.bus.transport import Outgoing
from edgebus.mqtt import (
    Ack,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Kind,
    Packet,
    Parser,
    Pingreq,
    Pingresp,
    Properties,
    ProtocolError,
    Publish,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from edgebus.mqtt._session import KeepAlive, Limits, Memory, Session


class Wire:
    """Reads what a session sends, and keeps what it tells."""

    def __init__(self, *, v5: bool = True) -> None:
        self._parser = Parser(v5=v5)
        self.messages: list[Publish] = []
        self.ended: list[Disconnect] = []
        self._sent: list[Packet] = []

    def send(self, data: bytes, more: bytes = b"") -> None:
        self._sent += self._parser.feed(data + more)
        assert self._parser.failure is None

    def message(self, packet: Publish) -> None:
        self.messages.append(packet)

    def disconnected(self, packet: Disconnect) -> None:
        self.ended.append(packet)

    def take(self) -> list[Packet]:
        """What was sent since the last time."""
        sent, self._sent = self._sent, []
        return sent


def make(
    wire: Wire,
    *,
    memory: Memory | None = None,
    connack: Connack | None = None,
    window: int = 100,
    present: bool = False,
    v5: bool = True,
) -> Session:
    return Session(
        owner=wire,
        send=wire.send,
        memory=memory or Memory(),
        limits=Limits.of(connack or Connack(), v5=v5),
        window=window,
        session_present=present,
        v5=v5,
    )


def event(n: int, *, retain: bool = False, size: int = 3) -> Outgoing:
    return Outgoing(topic=f"t/{n}", payload=b"x" * size, qos=1, retain=retain)


def puback(number: int, code: int = 0, reason: str | None = None) -> Ack:
    return Ack(Kind.PUBACK, number, code, Properties(reason_string=reason))


@pytest.mark.parametrize("size", [0, 3, 100_000])
@pytest.mark.parametrize("v5", [True, False])
def test_publish_writes_one_packet(size: int, v5: bool) -> None:
    wire = Wire(v5=v5)
    message = Outgoing(
        topic="a/b",
        payload=b"x" * size,
        qos=0,
        retain=True,
        content_type="application/json",
        expiry_s=9,
    )
    make(wire, v5=v5).publish(message)
    [packet] = wire.take()
    assert isinstance(packet, Publish)
    assert packet[:4] == ("a/b", b"x" * size, 0, True)
    if v5:
        assert packet.properties == Properties(
            payload_format_indicator=1, content_type="application/json", message_expiry_interval=9
        )


def test_events_get_identifiers_and_their_acknowledgements() -> None:
    wire = Wire()
    session = make(wire)
    told: list[tuple[int, str | None]] = []
    for n in range(3):
        session.publish(event(n), lambda why, n=n: told.append((n, why)))  # type: ignore[misc]
    assert [p.packet_id for p in wire.take() if isinstance(p, Publish)] == [1, 2, 3]
    session.receive(puback(2))
    session.receive(puback(1, 0x10))  # no matching subscribers: the broker has it all the same
    session.receive(puback(3, 0x97, "disk full"))
    assert told == [(1, None), (0, None), (2, "quota exceeded (disk full)")]


@pytest.mark.parametrize(("window", "maximum"), [(2, None), (100, 2)])
def test_no_more_than_the_receive_maximum_is_in_flight(window: int, maximum: int | None) -> None:
    wire = Wire()
    connack = Connack(properties=Properties(receive_maximum=maximum))
    session = make(wire, connack=connack, window=window)
    for n in range(5):
        session.publish(event(n))
    session.publish(Outgoing(topic="now", payload=b"", qos=0))
    topics = [p.topic for p in wire.take() if isinstance(p, Publish)]
    assert topics == ["t/0", "t/1", "now"]  # QoS 0 is not held up
    session.receive(puback(1))
    session.receive(puback(2))
    assert [p.topic for p in wire.take() if isinstance(p, Publish)] == ["t/2", "t/3"]


def test_identifiers_in_use_are_left_out_when_they_wrap_around() -> None:
    wire = Wire()
    session = make(wire, window=65_535)
    session.publish(event(0))
    for number in range(2, 65_536):
        session.publish(event(number))
        session.receive(puback(number))
    wire.take()
    session.publish(event(1))
    session.publish(event(2))
    assert [p.packet_id for p in wire.take() if isinstance(p, Publish)] == [2, 3]


def test_all_identifiers_in_use_is_an_error_not_a_loop() -> None:
    wire = Wire()
    session = make(wire, window=65_535)
    for n in range(65_535):
        session.publish(event(n))
    with pytest.raises(ProtocolError, match="in use"):
        session.unsubscribe(("a",), answered=lambda _why: None)


def test_an_unacknowledged_event_goes_again_under_its_identifier() -> None:
    memory, messages = Memory(), [event(n) for n in range(4)]
    wire = Wire()
    first = make(wire, memory=memory)
    for message in messages[:3]:
        first.publish(message)
    first.receive(puback(2))
    wire.take()

    second = make(wire, memory=memory, present=True)
    for message in (messages[0], messages[2], messages[3]):
        second.publish(message)
    again = [p for p in wire.take() if isinstance(p, Publish)]
    assert [(p.packet_id, p.duplicate, p.topic) for p in again] == [
        (1, True, "t/0"),
        (3, True, "t/2"),
        (4, False, "t/3"),
    ]
    for number in (1, 3, 4):
        second.receive(puback(number))
    assert not memory.sent


def test_a_lost_session_is_forgotten_here_too() -> None:
    memory, message = Memory(), event(0)
    memory.accepted.add(5)
    wire = Wire()
    make(wire, memory=memory).publish(message)
    wire.take()
    make(wire, memory=memory, present=False).publish(message)
    [packet] = wire.take()
    assert isinstance(packet, Publish)
    assert (packet.packet_id, packet.duplicate) == (1, False)
    assert memory.accepted == set()


def test_old_identifiers_wait_for_their_messages() -> None:
    memory, old = Memory(), event(0)
    wire = Wire()
    make(wire, memory=memory).publish(old)
    session = make(wire, memory=memory, present=True)
    wire.take()
    session._last_id = 65_535
    session.publish(event(1))
    session.publish(old)
    assert [p.packet_id for p in wire.take() if isinstance(p, Publish)] == [2, 1]


def test_a_received_event_is_acknowledged_when_asked() -> None:
    wire = Wire()
    session = make(wire)
    session.receive(Publish("a", b"1", qos=1, packet_id=700))
    assert wire.take() == []
    assert [m.packet_id for m in wire.messages] == [700]
    session.acknowledge(700)
    assert wire.take() == [Ack(Kind.PUBACK, 700)]


def test_qos_2_is_delivered_once() -> None:
    wire, memory = Wire(), Memory()
    session = make(wire, memory=memory)
    message = Publish("a", b"1", qos=2, packet_id=9)
    session.receive(message)
    session.receive(message._replace(duplicate=True))  # we still work on it
    assert wire.take() == []
    session.acknowledge(9)
    assert wire.take() == [Ack(Kind.PUBREC, 9)]

    # The connection breaks before the broker saw PUBREC: it sends the message again.
    session = make(wire, memory=memory, present=True)
    session.receive(message._replace(duplicate=True))
    assert wire.take() == [Ack(Kind.PUBREC, 9)]
    assert len(wire.messages) == 1
    session.receive(Ack(Kind.PUBREL, 9))
    session.receive(Ack(Kind.PUBREL, 9))
    assert wire.take() == [Ack(Kind.PUBCOMP, 9), Ack(Kind.PUBCOMP, 9, 0x92)]
    session.receive(message)  # the identifier is free: another message
    assert len(wire.messages) == 2


def test_qos_2_that_was_not_handled_before_the_loss_is_delivered_again() -> None:
    wire, memory = Wire(), Memory()
    message = Publish("a", b"1", qos=2, packet_id=9)
    make(wire, memory=memory).receive(message)
    make(wire, memory=memory, present=True).receive(message._replace(duplicate=True))
    assert len(wire.messages) == 2


@pytest.mark.parametrize("v5", [True, False])
def test_subscribe_and_unsubscribe(v5: bool) -> None:
    wire = Wire(v5=v5)
    session = make(wire, v5=v5)
    told: list[str | None] = []
    session.subscribe("a/+", 1, identifier=77, answered=told.append)
    session.subscribe("secret", 1, identifier=78, answered=told.append)
    session.unsubscribe(("a/+", "b"), answered=told.append)
    first, second, third = wire.take()
    assert isinstance(first, Subscribe)
    assert first.properties.subscription_identifiers == ((77,) if v5 else ())
    assert isinstance(second, Subscribe)
    assert isinstance(third, Unsubscribe)
    assert third.filters == ("a/+", "b")
    refused = 0x87 if v5 else 0x80
    session.receive(Suback(packet_id=second.packet_id, codes=(refused,)))
    session.receive(Suback(packet_id=first.packet_id, codes=(1,)))
    session.receive(Unsuback(packet_id=third.packet_id, codes=(0, 0x11) if v5 else ()))
    assert told == ["not authorized" if v5 else "unspecified error", None, None]


def test_what_the_broker_cannot_is_refused_before_it_is_asked() -> None:
    wire = Wire()
    properties = Properties(
        wildcard_subscription_available=0,
        shared_subscription_available=0,
        subscription_identifier_available=0,
        maximum_qos=0,
        retain_available=0,
    )
    session = make(wire, connack=Connack(properties=properties))
    told: list[str | None] = []
    session.subscribe("a/#", 0, identifier=1, answered=told.append)
    session.subscribe("$share/g/a", 0, identifier=1, answered=told.append)
    assert told == ["the broker allows no wildcards", "the broker has no shared subscriptions"]
    assert session.publish(event(1), told.append) == "the broker takes QoS 0 only"
    assert wire.take() == []
    session.subscribe("a", 0, identifier=1, answered=told.append)
    session.publish(Outgoing(topic="s", payload=b"", qos=0, retain=True))
    subscribe, publish = wire.take()
    assert isinstance(subscribe, Subscribe)
    assert subscribe.properties == Properties()
    assert isinstance(publish, Publish)
    assert not publish.retain


@pytest.mark.parametrize(
    "packet",
    [
        puback(1),
        Ack(Kind.PUBREC, 1),
        Ack(Kind.PUBCOMP, 1),
        Suback(packet_id=1, codes=(0,)),
        Unsuback(packet_id=1),
        Connack(),
        Connect(client_id="x"),
        Pingreq(),
        Auth(),
        Publish("", b"", properties=Properties(topic_alias=1)),
    ],
)
def test_what_no_broker_may_send_is_a_protocol_error(packet: Packet) -> None:
    with pytest.raises(ProtocolError) as caught:
        make(Wire()).receive(packet)
    assert caught.value.code >= 0x80


def test_a_broker_says_good_bye_only_in_version_5() -> None:
    wire = Wire()
    make(wire).receive(Disconnect(code=0x8E))
    assert [packet.code for packet in wire.ended] == [0x8E]
    with pytest.raises(ProtocolError):
        make(wire, v5=False).receive(Disconnect())


def test_limits_of_a_broker_that_names_none() -> None:
    assert Limits.of(Connack(), v5=True) == Limits()
    assert not Limits.of(Connack(), v5=False).identifiers


def test_keepalive_asks_a_silent_broker_and_takes_it_for_dead() -> None:
    clock = KeepAlive(interval_s=8, now=100.0)
    assert clock.tick(105.9, reading=True) is None
    assert clock.tick(106.0, reading=True) == "ask"
    assert clock.tick(113.9, reading=True) is None
    assert clock.tick(114.0, reading=True) == "dead"


def test_keepalive_is_content_with_any_traffic() -> None:
    clock = KeepAlive(interval_s=8, now=0.0)
    for second in range(1, 100):
        clock.received = clock.sent = second
        assert clock.tick(second + 0.5, reading=True) is None


def test_keepalive_also_asks_when_only_we_or_only_they_talk() -> None:
    for attribute in ("sent", "received"):
        clock = KeepAlive(interval_s=8, now=0.0)
        asked = []
        for second in range(1, 14):
            setattr(clock, attribute, float(second))
            asked.append(clock.tick(float(second), reading=True))
        assert "ask" in asked
        assert "dead" not in asked


def test_keepalive_does_not_expect_an_answer_while_nobody_reads() -> None:
    clock = KeepAlive(interval_s=8, now=0.0)
    said = [clock.tick(float(second), reading=False) for second in range(1, 100)]
    assert said.count("ask") == 16  # every six seconds, so that the broker keeps us
    assert "dead" not in said
    assert clock.tick(100.0, reading=True) is None


def test_keepalive_can_be_off() -> None:
    clock = KeepAlive(interval_s=0, now=0.0)
    assert clock.tick(1e9, reading=True) is None
    assert clock.pause_s > 0


def test_pingresp_is_taken() -> None:
    wire = Wire()
    make(wire).receive(Pingresp())
    assert wire.take() == []
