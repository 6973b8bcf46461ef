from __future__ import annotations

from datetime import timedelta

from edgebus_detection.lab.frame_accounting import count_frames, lives_of, serving_of
from edgebus_detection.lab.frames import FrameEntry
from edgebus_detection.lab.state import DetectionState
from edgebus_detection.lab.summary import Frames
from edgebus_detection.messages import Detections
from lab_story import NEW, OLD, answer, at, born, record, status, truth


def frames(answers: dict[int, Detections], count: int) -> list[FrameEntry]:
    entries = []
    for index in range(count):
        seen = record("north", index)
        entry = FrameEntry(seen.id, index, seen.captured, truth("north", index))
        entry.answer = answers.get(index)
        entries.append(entry)
    return entries


def counts_of(
    answers: dict[int, Detections],
    count: int,
    *,
    births: list[tuple[float, str, int]] | None = None,
    statuses: list[object] | None = None,
    end: float = 0.0,
    dead_letters: int = 0,
) -> Frames:
    births = births if births is not None else [(-1.0, "a", 1)]
    return count_frames(
        frames(answers, count),
        lives=lives_of([born(t, instance=i, session=s) for t, i, s in births]),
        servings=serving_of(statuses or [status(-1)]),  # type: ignore[arg-type]
        end=at(end),
        dead_letters=dead_letters,
    )


def all_of(count: int, **changes: object) -> dict[int, Detections]:
    return {index: answer("north", index, **changes) for index in range(count)}  # type: ignore[arg-type]


def test_all_answered() -> None:
    found = counts_of(all_of(40), 40, end=4)
    assert found == Frames(
        total=40, answered=40, dropped=0, dropped_in_swap=0, unserved=0, failed=0, torn=0
    )


def test_a_silent_frame_in_a_life_failed() -> None:
    answers = all_of(40)
    del answers[7]
    assert counts_of(answers, 40, end=4).failed == 1


def test_truth_of_a_frame_that_a_dying_camera_never_sent_is_no_frame() -> None:
    state = DetectionState()
    for index in range(40):
        state.on_truth("edge-1", truth("north", index))
        if index != 7:
            state.on_frame("edge-1", record("north", index), size=1)
            state.on_detections("edge-1", answer("north", index))
    entries = list(state.cameras["edge-1/north"].frames.values())
    lives, servings = lives_of([born(-1)]), serving_of([status(-1)])
    found = count_frames(entries, lives=lives, servings=servings, end=at(4))
    assert (found.total, found.answered, found.failed) == (39, 39, 0)


def test_a_counted_drop_is_no_failure() -> None:
    answers = {index: answer("north", index, dropped=int(index > 7)) for index in range(40)}
    del answers[7]
    found = counts_of(answers, 40, end=4)
    assert (found.failed, found.dropped) == (0, 1)


def test_drops_before_the_first_answer_hide_no_later_failure() -> None:
    answers = {index: answer("north", index, dropped=3) for index in range(5, 40)}
    del answers[20]
    found = counts_of(answers, 40, end=4)
    assert (found.failed, found.dropped, found.unserved) == (1, 3, 2)


def test_what_lies_between_two_lives_was_not_served() -> None:
    answers = {index: answer("north", index) for index in (*range(10), *range(20, 40))}
    killed = counts_of(answers, 40, births=[(-1, "a", 1), (2.4, "b", 1)], end=4)
    assert (killed.failed, killed.unserved) == (0, 10)
    # The same process on a new connection: the broker was away.
    reconnected = counts_of(answers, 40, births=[(-1, "a", 1), (2.4, "a", 2)], end=4)
    assert (reconnected.failed, reconnected.unserved) == (0, 10)
    # One life, so nobody had an excuse.
    assert counts_of(answers, 40, end=4).failed == 10


def test_the_will_of_an_old_session_begins_no_life() -> None:
    will = born(9).model_copy(update={"state": "offline"})
    assert len(lives_of([born(0), will])) == 1


def test_a_detector_that_hangs_at_the_end_failed_but_frames_under_way_did_not() -> None:
    assert counts_of(all_of(10), 20, end=20 / 8).failed == 0
    assert counts_of(all_of(10), 100, end=100 / 8).failed > 60


def test_a_dead_letter_is_a_failure() -> None:
    assert counts_of(all_of(10), 10, dead_letters=2).failed == 2


def test_counters_of_a_new_process_start_over() -> None:
    answers = {index: answer("north", index, dropped=5) for index in range(10)}
    answers |= {index: answer("north", index, dropped=2) for index in range(20, 30)}
    assert counts_of(answers, 30, births=[(-1, "a", 1), (2.4, "b", 1)], end=4).dropped == 7
    # A reconnect keeps the process and its counter.
    answers |= {index: answer("north", index, dropped=6) for index in range(20, 30)}
    assert counts_of(answers, 30, births=[(-1, "a", 1), (2.4, "a", 2)], end=4).dropped == 6


def test_an_answer_by_a_model_nobody_announced_is_torn() -> None:
    answers = all_of(10) | {5: answer("north", 5, model=NEW)}
    assert counts_of(answers, 10).torn == 1


def test_a_swap_is_whole() -> None:
    answers = all_of(10) | {index: answer("north", index, model=NEW) for index in range(10, 20)}
    swap = [status(-1), status(1.2, serving=NEW, state="updated")]
    assert counts_of(answers, 20, statuses=swap).torn == 0


def test_back_to_the_old_model_is_torn_unless_it_was_announced() -> None:
    answers = all_of(30) | {index: answer("north", index, model=NEW) for index in range(10, 20)}
    swap = [status(-1), status(1.2, serving=NEW, state="updated")]
    assert counts_of(answers, 30, statuses=swap).torn == 10
    rollback = [*swap, status(2.45, serving=OLD, state="updated")]
    assert counts_of(answers, 30, statuses=rollback).torn == 0


def test_drops_while_a_model_is_prepared_belong_to_the_swap() -> None:
    answers = {index: answer("north", index, dropped=1 if index < 8 else 3) for index in range(10)}
    answers |= {
        index: answer("north", index, model=NEW, dropped=4, late_s=0.02) for index in range(10, 20)
    }
    del answers[8]
    prepared = status(0.9, since=-1, state="updating", target=NEW)
    swap = [status(-1), prepared, status(1.24, serving=NEW, state="updated")]
    assert counts_of(answers, 20, statuses=swap).dropped_in_swap == 3


def test_prepared_is_when_the_model_was_first_complete() -> None:
    steps = [
        status(0),
        status(1, since=0, state="downloading", target=NEW),
        status(2, since=0, state="downloaded", target=NEW),
        status(3, since=0, state="updating", target=NEW),
        status(4, serving=NEW, state="updated"),
    ]
    servings = serving_of(steps)
    assert [serving.digest for serving in servings] == [OLD.digest, NEW.digest]
    assert servings[1].since - servings[1].prepared == timedelta(seconds=2)
