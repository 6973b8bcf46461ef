"""The parts of the bus that know neither sockets nor clocks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebus.bus import (
    BrokerSettings,
    DropOldest,
    Latest,
    Loss,
    OutboxFullError,
    Outgoing,
    QueuePolicy,
    RawMessage,
    RetryPolicy,
    Wait,
)
from edgebus.bus._consumer import SeenIds
from edgebus.bus._dead_letters import _text
from edgebus.bus._delivery import AckWindow
from edgebus.bus._link import Backoff, TakeoverJudge, client_id
from edgebus.bus._outbox import Outbox
from edgebus.bus.queues import Buffer
from edgebus.contracts import Identity

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Waiting(NamedTuple):
    message: RawMessage


def waiting(topic: str, size: int = 1, qos: int = 1) -> Waiting:
    return Waiting(RawMessage(topic, bytes(size), qos, False, False, NOW))


# Acknowledgements


@given(st.permutations(range(12)))
def test_acks_leave_in_arrival_order_however_handlers_finish(order: list[int]) -> None:
    sent: list[int] = []
    window = AckWindow(sent.append)
    slots = [window.arrived(token, 0.0) for token in range(12)]
    for count, number in enumerate(order, start=1):
        window.finish(slots[number])
        finished = set(order[:count])
        free = next((n for n in range(12) if n not in finished), 12)
        assert sent == list(range(free))
    assert len(window) == 0


def test_a_token_is_held_until_it_is_acknowledged() -> None:
    window = AckWindow(lambda _token: None)
    slot = window.arrived(7, 0.0)
    assert window.holds(7)
    window.finish(slot)
    assert not window.holds(7)


# Queues


@given(
    st.sampled_from([Latest, DropOldest, Wait]),
    st.integers(1, 5),
    st.integers(1, 50),
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 30), st.sampled_from([0, 1]))),
)
def test_queues_are_bounded_and_lose_nothing_uncounted(
    kind: type, messages: int, size: int, items: list[tuple[str, int, int]]
) -> None:
    policy: QueuePolicy = kind(messages=messages, bytes=size)
    buffer: Buffer[Waiting] = Buffer(policy)
    dropped: list[Waiting] = []
    put = [waiting(*item) for item in items]
    for item in put:
        dropped += buffer.put(item)
        if kind is not Wait:
            assert len(buffer) <= messages
            assert buffer.bytes <= size or len(buffer) == 1
    if kind is Wait:
        assert all(item.message.qos == 0 for item in dropped)
    taken = [buffer.take() for _ in range(len(buffer))]
    assert buffer.bytes == 0
    assert {id(item) for item in taken} | {id(item) for item in dropped} == {id(i) for i in put}
    assert len(taken) + len(dropped) == len(put)
    if kind is not Latest:
        left = {id(item) for item in taken}
        assert [id(item) for item in taken] == [id(item) for item in put if id(item) in left]


def test_latest_keeps_the_place_in_the_line() -> None:
    buffer: Buffer[Waiting] = Buffer(Latest())
    buffer.put(waiting("slow"))
    buffer.put(waiting("fast"))
    newer = waiting("slow", 2)
    assert [item.message.topic for item in buffer.put(newer)] == ["slow"]
    assert buffer.take() is newer


def test_latest_by_another_key() -> None:
    buffer: Buffer[Waiting] = Buffer(Latest(key=lambda message: message.topic[0]))
    assert buffer.put(waiting("a1")) == []
    assert len(buffer.put(waiting("a2"))) == 1
    assert len(buffer) == 1


# Outbox

JSON = "application/json"
JPEG = "image/jpeg"


def outgoing(topic: str, *, size: int = 1, kind: str = JSON, retain: bool = False) -> Outgoing:
    return Outgoing(topic=topic, payload=bytes(size), qos=1, retain=retain, content_type=kind)


def drain(outbox: Outbox, *, window: int = 1000, now: float = 0.0) -> list[str]:
    sent = []
    while (entry := outbox.next(window=window, now=now)) is not None:
        sent.append(entry.message.topic)
    return sent


def test_outbox_sends_in_order_within_the_window() -> None:
    outbox = Outbox(max_messages=10, max_bytes=1000)
    for name in "abcde":
        outbox.put(outgoing(name))
    first = outbox.next(window=2, now=0)
    assert drain(outbox, window=2) == ["b"]
    assert first is not None
    outbox.settle(first)
    assert drain(outbox, window=2) == ["c"]
    assert len(outbox) == 4


def test_outbox_sends_again_in_the_old_order_after_a_loss() -> None:
    outbox = Outbox(max_messages=10, max_bytes=1000)
    entries = [outbox.put(outgoing(name)) for name in "abcde"]
    drain(outbox, window=3)
    outbox.settle(entries[1])
    outbox.rewind()
    outbox.settle(entries[0])  # too late: it will be sent again
    assert drain(outbox) == ["a", "c", "d", "e"]


def test_outbox_is_bounded_in_messages_and_bytes() -> None:
    outbox = Outbox(max_messages=2, max_bytes=100)
    outbox.put(outgoing("a", size=60))
    with pytest.raises(OutboxFullError, match="60 of 100 bytes"):
        outbox.put(outgoing("b", size=41))
    outbox.put(outgoing("b", size=40))
    assert not outbox.has_room
    with pytest.raises(OutboxFullError) as full:
        outbox.put(outgoing("c", size=0))
    assert full.value.messages == 2
    # One message always fits.
    assert Outbox(max_messages=1, max_bytes=1).put(outgoing("x", size=99)).message.topic == "x"


def test_outbox_replaces_a_state_that_still_waits_but_not_one_on_its_way() -> None:
    outbox = Outbox(max_messages=10, max_bytes=1000)
    done: list[str | None] = []
    outbox.put(outgoing("state", retain=True)).done = done.append
    outbox.put(outgoing("event"))
    outbox.put(outgoing("state", retain=True, size=5))
    assert done == [None]
    assert drain(outbox) == ["event", "state"]
    outbox.put(outgoing("state", retain=True))
    assert len(outbox) == 3


def test_outbox_sends_control_first_and_little_bulk_at_a_time() -> None:
    outbox = Outbox(max_messages=100, max_bytes=10**8)
    pictures = [outbox.put(outgoing(f"p{n}", size=300_000, kind=JPEG)) for n in range(4)]
    outbox.put(outgoing("command"))
    assert drain(outbox) == ["command", "p0"]  # a second picture would exceed 512 KiB in flight
    outbox.settle(pictures[0])
    assert drain(outbox) == ["p1"]


def test_outbox_drops_what_expired_and_says_so() -> None:
    outbox = Outbox(max_messages=5000, max_bytes=10**6)
    reasons: list[str | None] = []
    for _ in range(3000):
        outbox.put(outgoing("late"), deadline=5.0).done = reasons.append
    outbox.put(outgoing("good"), deadline=50.0)
    assert drain(outbox, now=10.0) == ["good"]
    assert len(reasons) == 3000
    assert all(reason and "expired" in reason for reason in reasons)
    assert outbox.bytes == 1


# De-duplication, back-off, retries


def test_seen_ids_are_bounded_and_the_oldest_goes_first() -> None:
    seen = SeenIds(3)
    for name in "abc":
        seen.add(("t", name))
    seen.add(("t", "a"))
    seen.add(("t", "d"))
    assert [("t", name) in seen for name in "abcd"] == [True, False, True, True]
    assert len(seen) == 3


def test_backoff_doubles_up_to_the_maximum_and_jitters_fully() -> None:
    backoff = Backoff(first=1, maximum=5, uniform=lambda: 1.0)
    assert [backoff.next() for _ in range(5)] == [1, 2, 4, 5, 5]
    backoff.reset()
    assert backoff.next() == 1
    assert Backoff(first=1, maximum=5, uniform=lambda: 0.0).next() == 0


def test_retry_delays() -> None:
    retry = RetryPolicy(attempts=5, first_delay_s=0.5, factor=3, max_delay_s=10)
    assert [retry.delay(attempt) for attempt in range(1, 5)] == [0.5, 1.5, 4.5, 10]


# Take-over

TAKEN = Loss("taken_over", "session taken over")


def test_a_young_process_without_a_birth_gives_up_at_the_first_takeover() -> None:
    judge = TakeoverJudge(patient=False)
    judge.connected(100.0)
    assert judge.lost(TAKEN, 101.0)


@pytest.mark.parametrize(("patient", "at"), [(True, 0.0), (False, 1000.0)])
def test_others_give_up_only_after_a_long_fight(patient: bool, at: float) -> None:
    judge = TakeoverJudge(patient=patient)
    judge.connected(0.0)
    verdicts = []
    for number in range(5):
        judge.connected(at + number)
        verdicts.append(judge.lost(TAKEN, at + number + 0.5))
    assert [bool(verdict) for verdict in verdicts] == [False] * 4 + [True]


def test_rare_takeovers_are_no_fight() -> None:
    judge = TakeoverJudge(patient=False)
    judge.connected(0.0)
    for hour in range(1, 20):
        judge.connected(hour * 3600.0)
        assert judge.lost(TAKEN, hour * 3600.0 + 1) is None


@pytest.mark.parametrize("kind", ["closed", "failed"])
def test_a_bad_link_is_no_fight(kind: Literal["closed", "failed"]) -> None:
    judge = TakeoverJudge(patient=False)
    for number in range(100):
        judge.connected(float(number))
        assert judge.lost(Loss(kind, "cut"), number + 0.5) is None


# Settings and names


def test_credentials_leave_the_url() -> None:
    settings = BrokerSettings(url="mqtts://me:p%40ss@host.example:8884")
    assert settings.url == "mqtts://host.example:8884"
    assert (settings.host, settings.port, settings.tls) == ("host.example", 8884, True)
    assert settings.username == "me"
    assert settings.password is not None
    assert settings.password.get_secret_value() == "p@ss"
    assert "p@ss" not in repr(settings)


def test_default_ports_and_packet_limits() -> None:
    assert BrokerSettings(url="mqtt://h").port == 1883
    assert BrokerSettings(url="mqtts://h").port == 8883
    assert BrokerSettings().packet_limit is None
    assert BrokerSettings(version="3.1.1").packet_limit == 1024 * 1024
    assert BrokerSettings(version="3.1.1", max_packet_bytes=8000).packet_limit == 8000


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:1883", "no broker address"),
        ("http://host", "no broker address"),
        ("mqtt://", "names no host"),
        ("mqtt://host/path", "has a path"),
        ("mqtt://host:0", "port 0"),
        ("mqtt://host:99999", "[Pp]ort"),
    ],
)
def test_bad_addresses(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BrokerSettings(url=url)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="pasword"):
        BrokerSettings.model_validate({"pasword": "x"})


def test_client_ids_are_distinct_and_plain() -> None:
    one = client_id(Identity(site="a:b", node="c", service="d"))
    two = client_id(Identity(site="a", node="b:c", service="d"))
    assert one != two
    assert client_id(Identity(site="a", node="b", service="c"), "edgebus/+/x/#") == (
        "edgebus:a:b:c:edgebus%2F%2B%2Fx%2F%23"
    )


# Dead letters


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"plain", "plain"),
        (b"\xff\xd8", None),
        (b"a\0b", None),
        (b"x" * 5000, "x" * 4096),
        (("x" * 4095 + "é" + "y" * 100).encode(), "x" * 4095),
        (b"x" * 4000 + b"\xff" * 1000, None),
        (b"", ""),
    ],
)
def test_the_start_of_a_dead_letter_where_it_is_text(payload: bytes, text: str | None) -> None:
    assert _text(payload) == text
