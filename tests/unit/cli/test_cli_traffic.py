"""Figures of what goes over the bus."""

from __future__ import annotations

import json

import pytest

from edgebus.contracts import topics
from edgebus.inspect import Traffic
from edgebus_detection.messages import CAMERA_FRAME
from recording_examples import DETECTOR, frame_message, later, state_message


def test_rates_are_of_the_window_and_counts_of_all() -> None:
    traffic = Traffic(window_s=10)
    traffic.start(100.0)
    for n in range(200):
        traffic.add("a/b", b"12345", now=100.0 + n / 10, received=0.0, retained=False)
    [line] = traffic.lines(120.0)
    assert line.messages == 200
    assert line.rate == pytest.approx(10, rel=0.1)
    assert line.bytes_per_s == pytest.approx(50, rel=0.1)
    assert (line.size_p50, line.size_max) == (5, 5)
    assert line.age_p50_ms is None
    [line] = traffic.lines(200.0)
    assert (line.messages, line.rate) == (200, 0.0)


def test_rates_of_the_first_seconds_are_not_too_small() -> None:
    traffic = Traffic(window_s=10)
    traffic.start(0.0)
    for n in range(20):
        traffic.add("a", b"", now=n / 10, received=0.0, retained=False)
    assert traffic.lines(2.0)[0].rate == pytest.approx(10)


def test_topics_of_the_contracts_count_by_pattern_and_ages_by_their_time() -> None:
    traffic = Traffic()
    traffic.start(0.0)
    for index in range(3):
        message = frame_message(index, at=index)
        traffic.add(
            message.topic,
            message.payload,
            now=index,
            received=later(index + 0.04).timestamp(),
            retained=False,
        )
    old = state_message()
    # What was kept for a week is not a week late.
    traffic.add(
        old.topic, old.payload, now=2, received=later(7 * 86_400).timestamp(), retained=True
    )
    lines = {line.name: line for line in traffic.lines(3.0)}
    assert set(lines) == {CAMERA_FRAME.address, topics.SERVICE_STATE.address}
    frames = lines[CAMERA_FRAME.address]
    assert frames.messages == 3
    assert frames.age_p50_ms == pytest.approx(40)
    assert lines[topics.SERVICE_STATE.address].age_max_ms is None


@pytest.mark.parametrize("payload", [b"", b"{", b'{"time": "yesterday"}', b'{"time": 1}', b"\xff"])
def test_what_says_no_time_has_no_age(payload: bytes) -> None:
    traffic = Traffic()
    traffic.start(0.0)
    name = topics.SERVICE_METRICS.at(DETECTOR).name
    traffic.add(name, payload, now=0.0, received=0.0, retained=False)
    assert traffic.lines(1.0)[0].age_p50_ms is None


def test_memory_is_bounded_whatever_comes() -> None:
    traffic = Traffic(topics=10)
    traffic.start(0.0)
    body = json.dumps({"time": "2026-05-04T12:00:00Z"}).encode()
    for n in range(5000):
        traffic.add(f"t/{n}", body, now=n / 1000, received=0.0, retained=False)
    lines = traffic.lines(5.0)
    assert len(lines) == 11
    assert sum(line.messages for line in lines) == 5000
    assert lines[0].name == "(other topics)"
