"""Dead letters, put together from their records and payloads."""

from __future__ import annotations

import hashlib

import pytest

from edgebus.contracts import ContractError, DeadLetter, Identity, topics
from edgebus.inspect import DeadLetters, LetterNotFoundError, check_replayable

SERVICE = Identity(site="lab", node="pi", service="detector")


def letter(payload: bytes, *, kept: bool = True) -> DeadLetter:
    return DeadLetter(
        source=SERVICE.source,
        topic="edgebus/lab/pi/camera/front/frame",
        expected="frame/1",
        reason="invalid",
        error="[/red] is no picture",
        attempts=0,
        size=len(payload),
        media_type="image/jpeg",
        digest=hashlib.sha256(payload).hexdigest() if kept else None,
    )


def at(place: str, *, body: bool = False) -> str:
    topic = topics.DEAD_LETTER_PAYLOAD if body else topics.DEAD_LETTER
    return topic.at(SERVICE, letter=place).name


def test_a_record_and_its_bytes_meet_in_any_order() -> None:
    for turned in (False, True):
        pile = DeadLetters()
        record = letter(b"bytes")
        messages = [(at("3"), record.encode()), (at("3", body=True), b"bytes")]
        for topic, data in reversed(messages) if turned else messages:
            pile.add(topic, data)
        [found] = pile.letters()
        assert (found.record, found.payload) == (record, b"bytes")
        assert (found.topic, found.payload_topic) == (at("3"), at("3", body=True))


def test_bytes_of_another_letter_are_not_taken_for_its_own() -> None:
    pile = DeadLetters()
    pile.add(at("0"), letter(b"new").encode())
    pile.add(at("0", body=True), b"of the letter before")
    [found] = pile.letters()
    assert found.payload is None
    with pytest.raises(ContractError, match="was not kept"):
        check_replayable(found)


def test_a_recording_has_more_letters_than_the_ring() -> None:
    pile = DeadLetters()
    for n in range(5):
        pile.add(at("0"), letter(b"%d" % n).encode())
        pile.add(at("0", body=True), b"%d" % n)
    assert [found.payload for found in pile.letters()] == [b"0", b"1", b"2", b"3", b"4"]


def test_an_empty_payload_is_one_too() -> None:
    pile = DeadLetters()
    pile.add(at("0"), letter(b"").encode())
    assert check_replayable(pile.letters()[0]) == b""


def test_cleared_and_foreign_and_broken_messages_do_no_harm() -> None:
    pile = DeadLetters()
    pile.add(at("0"), b"")
    pile.add(at("1"), b"{broken")
    pile.add("zigbee/deadletter/1", b"x")
    assert pile.letters() == []
    assert pile.unreadable == 1


def test_letters_are_found_by_either_end_of_their_id() -> None:
    pile = DeadLetters()
    records = [letter(b"%d" % n) for n in range(2)]
    for n, record in enumerate(records):
        pile.add(at(str(n)), record.encode())
    for record in records:
        assert pile.find(record.id).record == record
        assert pile.find(record.id[-8:].upper()).record == record
    for wanted, found in (("", 0), ("nothing", 0), (records[0].id[:6], 2)):
        with pytest.raises(LetterNotFoundError, match="deadletter list") as caught:
            pile.find(wanted)
        assert str(caught.value).startswith("no dead letter" if not found else "2 dead letters")
