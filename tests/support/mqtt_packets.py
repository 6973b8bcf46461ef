"""Hypothesis strategies for every packet of MQTT."""

from __future__ import annotations

from functools import cache
from typing import Any

from hypothesis import strategies as st

from edgebus.mqtt import (
    NO_PROPERTIES,
    Ack,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Kind,
    LastWill,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from edgebus.mqtt._packets import RETURN_CODES, VALID_CODES
from edgebus.mqtt._properties import _SEVERAL, _TABLE

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
blobs = st.binary(max_size=20)
identifiers = st.integers(1, 0xFFFF)
u16, u32 = st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
names = st.text("ab/äé$", min_size=1, max_size=12)
filters = st.sampled_from(["a", "#", "+", "a/+/b", "a/#", "$share/g/a/+", "ä/é", "/"])

_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "payload_format_indicator": st.integers(0, 1),
    "message_expiry_interval": u32,
    "correlation_data": blobs,
    "authentication_data": blobs,
    "subscription_identifiers": st.lists(st.integers(1, 268_435_455), min_size=1, max_size=3).map(
        tuple
    ),
    "user_properties": st.lists(st.tuples(texts, texts), min_size=1, max_size=3).map(tuple),
    "session_expiry_interval": u32,
    "will_delay_interval": u32,
    "maximum_packet_size": st.integers(1, 0xFFFFFFFF),
    "server_keep_alive": u16,
    "topic_alias_maximum": u16,
    "topic_alias": identifiers,
    "receive_maximum": identifiers,
}
_FLAGS = {
    "request_problem_information",
    "request_response_information",
    "maximum_qos",
    "retain_available",
    "wildcard_subscription_available",
    "subscription_identifier_available",
    "shared_subscription_available",
}


def properties(kind: Kind, *, v5: bool) -> st.SearchStrategy[Properties]:
    """Any properties that a packet of this kind may have."""
    if not v5:
        return st.just(NO_PROPERTIES)
    fields = {field for field, _, kinds in _TABLE.values() if kind in kinds}
    values = {
        field: st.integers(0, 1) if field in _FLAGS else _VALUES.get(field, texts)
        for field in sorted(fields)
    }
    if kind is Kind.SUBSCRIBE:
        values["subscription_identifiers"] = st.integers(1, 268_435_455).map(lambda n: (n,))
    assert "user_properties" in _SEVERAL
    return st.fixed_dictionaries({}, optional=values).map(
        lambda chosen: Properties(**chosen) if chosen else NO_PROPERTIES
    )


@cache
def packets(*, v5: bool) -> st.SearchStrategy[Packet]:
    """Any packet that can be sent in a version of MQTT, by a client or a broker."""

    def code(kind: Kind, otherwise: list[int]) -> st.SearchStrategy[int]:
        return st.sampled_from(sorted(VALID_CODES[kind])) if v5 else st.sampled_from(otherwise)

    def of(kind: Kind) -> st.SearchStrategy[Properties]:
        return properties(kind, v5=v5)

    wills = st.builds(
        LastWill,
        topic=names,
        payload=blobs,
        qos=st.integers(0, 2),
        retain=st.booleans(),
        properties=of(Kind.WILL),
    )
    subscriptions = st.builds(
        Subscription,
        filters,
        st.integers(0, 2),
        *((st.booleans(), st.booleans(), st.integers(0, 2)) if v5 else ()),
    )

    @st.composite
    def publishes(draw: st.DrawFn) -> Publish:
        qos = draw(st.integers(0, 2))
        return Publish(
            draw(names),
            draw(st.binary(max_size=300)),
            qos,
            draw(st.booleans()),
            bool(qos) and draw(st.booleans()),
            draw(identifiers) if qos else 0,
            draw(of(Kind.PUBLISH)),
        )

    @st.composite
    def acks(draw: st.DrawFn) -> Ack:
        kind = draw(st.sampled_from([Kind.PUBACK, Kind.PUBREC, Kind.PUBREL, Kind.PUBCOMP]))
        return Ack(kind, draw(identifiers), draw(code(kind, [0])), draw(of(kind)))

    @st.composite
    def connects(draw: st.DrawFn) -> Connect:
        username = draw(st.none() | texts)
        has_password = v5 or username is not None
        return Connect(
            client_id=draw(texts),
            clean_start=draw(st.booleans()),
            keepalive_s=draw(u16),
            username=username,
            password=draw(st.none() | blobs) if has_password else None,
            will=draw(st.none() | wills),
            properties=draw(of(Kind.CONNECT)),
        )

    @st.composite
    def connacks(draw: st.DrawFn) -> Connack:
        number = draw(code(Kind.CONNACK, sorted(RETURN_CODES.values())))
        return Connack(
            code=number,
            session_present=not number and draw(st.booleans()),
            properties=draw(of(Kind.CONNACK)),
        )

    every: list[st.SearchStrategy[Packet]] = [
        publishes(),
        acks(),
        connects(),
        connacks(),
        st.builds(
            Subscribe,
            packet_id=identifiers,
            subscriptions=st.lists(subscriptions, min_size=1, max_size=3).map(tuple),
            properties=of(Kind.SUBSCRIBE),
        ),
        st.builds(
            Suback,
            packet_id=identifiers,
            codes=st.lists(code(Kind.SUBACK, [0, 1, 2, 0x80]), min_size=1, max_size=3).map(tuple),
            properties=of(Kind.SUBACK),
        ),
        st.builds(
            Unsubscribe,
            packet_id=identifiers,
            filters=st.lists(filters, min_size=1, max_size=3).map(tuple),
            properties=of(Kind.UNSUBSCRIBE),
        ),
        st.builds(
            Unsuback,
            packet_id=identifiers,
            codes=st.lists(code(Kind.UNSUBACK, [0]), min_size=1, max_size=3).map(tuple)
            if v5
            else st.just(()),
            properties=of(Kind.UNSUBACK),
        ),
        st.builds(Pingreq),
        st.builds(Pingresp),
        st.builds(
            Disconnect,
            code=code(Kind.DISCONNECT, [0]),
            properties=of(Kind.DISCONNECT),
        ),
    ]
    if v5:
        every.append(st.builds(Auth, code=code(Kind.AUTH, [0]), properties=of(Kind.AUTH)))
    return st.one_of(every)
