from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebus_camera.pacing import Pacer


def test_frames_that_take_long_do_not_make_it_drift() -> None:
    pacer = Pacer(fps=30, start=100.0)
    now = 100.0
    for number in range(10_000):
        slot = pacer.next(now)
        assert (slot.number, slot.skipped) == (number, 0)
        assert slot.due == 100.0 + number / 30
        now = slot.due + 0.02  # each frame keeps us busy for 20 of 33 ms


def test_late_frames_are_skipped_and_counted_and_the_next_is_on_the_grid() -> None:
    pacer = Pacer(fps=10, start=0.0)
    assert pacer.next(0.0).number == 0
    late = pacer.next(0.53)  # frames 1 to 4 are too late, frame 5 is 30 ms late: within grace
    assert (late.number, late.skipped, late.due) == (5, 4, 0.5)
    after = pacer.next(0.54)
    assert (after.number, after.skipped, after.due) == (6, 0, pytest.approx(0.6))


def test_a_little_late_is_no_reason_to_skip() -> None:
    pacer = Pacer(fps=10, start=0.0)
    assert pacer.next(0.0).number == 0
    assert pacer.next(0.1499).number == 1
    assert pacer.next(0.2501).number == 3


def test_the_time_to_get_a_frame_ready_counts() -> None:
    pacer = Pacer(fps=10, start=0.0)
    assert pacer.next(0.0).number == 0
    slot = pacer.next(0.0, lead=0.32)
    assert (slot.number, slot.skipped) == (3, 2)


def test_before_the_start_it_waits_for_frame_0() -> None:
    slot = Pacer(fps=10, start=50.0).next(1.0)
    assert (slot.number, slot.due, slot.skipped) == (0, 50.0, 0)


def test_one_that_starts_late_joins_the_grid_in_phase() -> None:
    slot = Pacer(fps=4, start=0.0).next(1000.2)
    assert (slot.number, slot.due, slot.skipped) == (4001, 1000.25, 0)


@given(
    fps=st.floats(0.1, 240),
    start=st.floats(-1e6, 1e6),
    waits=st.lists(st.floats(0, 3), min_size=1, max_size=60),
)
def test_frames_never_bunch_and_none_is_lost_uncounted(
    fps: float, start: float, waits: list[float]
) -> None:
    pacer = Pacer(fps=fps, start=start)
    now, sent = start, []
    total = 0
    for wait in waits:
        slot = pacer.next(now)
        left = max(now, slot.due)
        assert left - slot.due <= 0.51 / fps + 1e-6
        if sent:
            assert left - sent[-1] >= 0.49 / fps - 1e-6
        sent.append(left)
        total += slot.skipped + 1
        assert slot.number == total - 1
        now = left + wait


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_rates_are_refused(fps: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        Pacer(fps=fps, start=0)
