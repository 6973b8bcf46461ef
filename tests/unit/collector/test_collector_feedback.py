"""What operators say: held against the frames in memory, and what becomes of it."""

import pytest

from collector_examples import box, example
from edgebus.contracts import PayloadError, utc_now
from edgebus_collector.history import FeedbackRefusedError, History, resolve
from edgebus_detection import Detection
from edgebus_detection.messages import Feedback


def history(*examples, frames=10, size=10**7):
    kept = History(inputs=frames, size=size)
    for one in examples:
        kept.add(one)
    return kept


def meant(said, kept):
    return resolve(said, kept, Detection().verdict)


def feedback(verdict="wrong", camera="front", **fields):
    return Feedback(verdict=verdict, camera=camera, **fields)


def test_the_least_that_can_be_said_is_understood():
    said = Feedback.decode(b'{"camera": "front", "verdict": "wrong"}')
    assert (said.source, said.frame, said.node) == ("operator", None, None)
    assert said.time <= utc_now()


@pytest.mark.parametrize(
    "data",
    [
        b'{"camera": "front"}',
        b'{"camera": "front", "verdict": "bad"}',
        b'{"camera": "+", "verdict": "wrong"}',
        b'{"camera": "front", "verdict": "missed", "at": {"label": "car"}}',
        b'{"camera": "front", "verdict": "wrong_box", "box": -1}',
    ],
)
def test_what_says_too_little_or_nonsense_is_no_feedback(data):
    with pytest.raises(PayloadError):
        Feedback.decode(data)


def test_without_a_frame_the_newest_of_that_camera_is_meant():
    old, new, other = example(index=1), example(index=2), example(index=9, camera="back")
    seen = meant(feedback(), history(old, new, other))
    assert seen.example is new
    assert [verdict.verdict for verdict in seen.verdicts] == ["wrong"]
    assert meant(feedback(frame=old.input.record.id), history(old, new)).example is old


def refusal(said, kept):
    with pytest.raises(FeedbackRefusedError) as caught:
        meant(said, kept)
    return caught.value


def test_what_leads_nowhere_says_why():
    one = example(said=[box(score=0.9)])
    kept = history(one)
    assert refusal(feedback(camera="back"), kept).cause == "unknown"
    # The frame of another camera is not this camera's.
    late = refusal(feedback(camera="back", frame=one.input.record.id), kept)
    assert late.cause == "late"
    assert "raise buffer.history_inputs" in late.reason
    wrong = refusal(feedback("wrong_box", box=1), kept)
    assert (wrong.cause, wrong.reason) == ("invalid", "box 1 of 1: they are counted from 0")
    outside = feedback("missed", at=box("person", x=150.0, size=30.0))
    assert "reaches outside of its frame of 160 x 120" in refusal(outside, kept).reason
    assert kept.find("front", None).verdicts == ()


def test_two_people_may_say_the_same_and_one_only_once():
    kept = history(example(said=[box(score=0.9)]))
    meant(feedback("wrong_box", box=0, source="anna"), kept)
    seen = meant(feedback("wrong_box", box=0, source="ben"), kept)
    assert [verdict.by for verdict in seen.verdicts] == ["anna", "ben"]
    assert refusal(feedback("wrong_box", box=0, source="anna"), kept).cause == "repeated"


def test_a_frame_does_not_remember_verdicts_without_end():
    kept = history(example())
    for number in range(16):
        meant(feedback(note=str(number)), kept)
    assert refusal(feedback(note="one more"), kept).cause == "repeated"


def test_the_history_is_bounded_in_frames_and_bytes():
    frames = [example(index=index) for index in range(6)]
    kept = history(*frames, frames=3)
    assert len(kept) == 3
    assert kept.find("front", frames[2].input.record.id) is None
    assert kept.find("front", frames[3].input.record.id) is not None
    size = sum(len(one.input.jpeg) for one in frames[-2:])
    back = example(index=7, camera="back")
    few = history(back, *frames, size=size)
    assert len(few) == 2
    # The camera whose last frame is gone is gone too.
    assert few.find("back", None) is None


def test_a_picture_larger_than_the_memory_is_not_kept():
    kept = history(example(), size=10)
    assert len(kept) == 0
    assert kept.find("front", None) is None
