from __future__ import annotations

import io
import re
from functools import cache, partial

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from edgebus.lab import RunEvent, check_end, waiting_for
from edgebus.lab.view import LiveView, RunView, stage_of
from edgebus.topology import Topology, Until
from edgebus_detection.lab.measure import build_summary
from edgebus_detection.lab.state import DetectionState
from edgebus_detection.lab.view import Sparkline, camera_lines, camera_table, detection_table
from lab_story import NEW, OLD, START, answer, at, born, play_story, record, status, truth

TOPOLOGY = Topology.parse(
    {
        "nodes": {"edge-1": {"detector": {}, "camera": {}}, "edge-2": {"detector": {}}},
        "until": {"loop": "closed", "after_inputs": 100, "timeout_s": 200},
    },
    source="test",
)
UNTIL = Until(loop="closed", after_inputs=100)


def test_the_story_is_told_once_in_order() -> None:
    lines: list[RunEvent] = []
    state = DetectionState()
    state.on_event = lines.append
    play_story(state)
    kinds = [line.kind for line in lines if line.kind != "state"]
    assert kinds == [
        "drift",
        "drift",
        "sample",
        "training",
        "training",
        "release",
        "swap",
        "swap",
        "updated",
        "updated",
    ]


@pytest.mark.parametrize(
    ("seconds", "stage", "words"),
    [
        (1, 0, "0 samples collected"),
        (35, 1, "0 samples collected"),
        (50, 2, "40 samples collected"),
        (70, 3, "training, training 80 of 200"),
        (82, 4, "a candidate was accepted and is not released yet"),
        (84, 5, "version 2 is released, but edge-1/detector is idle, edge-2/detector is idle"),
        (90, 6, "measuring version 2: edge-1/north 40, edge-2/south 40 of 100 inputs"),
        (120, 6, ""),
    ],
)
def test_stages_and_what_is_waited_for(seconds: int, stage: int, words: str) -> None:
    state = play_story(DetectionState(), seconds=seconds)
    assert stage_of(state) == stage
    assert waiting_for(state, TOPOLOGY, UNTIL) == words


def test_before_anything_is_said() -> None:
    state = DetectionState()
    assert "edge-1/detector, edge-2/detector" in waiting_for(state, TOPOLOGY, UNTIL)
    for node in ("edge-1", "edge-2"):
        state.on_model_status(node, "detector", status(0, node=node, serving=None))
    assert waiting_for(state, TOPOLOGY, UNTIL) == "waiting for the first input"
    state.on_frame("edge-1", record("north", 0), size=1)
    assert waiting_for(state, TOPOLOGY, UNTIL) == "waiting for the first prediction"


def test_a_run_ends_closed_or_by_its_time() -> None:
    closed = check_end(play_story(DetectionState()), TOPOLOGY, elapsed_s=100)
    assert (closed.over, closed.closed) == (True, True)
    open_ = play_story(DetectionState(), seconds=50)
    assert not check_end(open_, TOPOLOGY, elapsed_s=199).over
    late = check_end(open_, TOPOLOGY, elapsed_s=200)
    assert (late.over, late.closed) == (True, False)
    assert late.outcome == "the loop is not closed after 200 s: 40 samples collected"
    endless = TOPOLOGY.model_copy(update={"until": None})
    assert not check_end(play_story(DetectionState()), endless, elapsed_s=1e9).over
    timed = TOPOLOGY.model_copy(update={"until": Until(seconds=5)})
    assert check_end(open_, timed, elapsed_s=5).over


def test_retained_messages_that_come_again_change_nothing() -> None:
    lines: list[RunEvent] = []
    state = DetectionState()
    state.on_event = lines.append
    for message in (status(1), status(2, state="downloading", target=NEW, received=5)):
        state.on_model_status("edge-1", "detector", message)
        state.on_model_status("edge-1", "detector", message)
    birth = born(1)
    state.on_state("edge-1", "detector", birth)
    state.on_state("edge-1", "detector", birth)
    assert len(state.edges["edge-1/detector"].statuses) == 2
    assert len(lines) == 1
    assert state.restarts == 0


def test_bytes_received_add_up_over_targets() -> None:
    state = DetectionState()
    for number, received in enumerate((0, 10, 30, 0, 5)):
        state.on_model_status("edge-1", "detector", status(number, received=received))
    assert state.edges["edge-1/detector"].received_bytes == 35


def test_a_new_process_is_a_restart_and_a_reconnect_is_none() -> None:
    state = DetectionState()
    for number, (instance, session) in enumerate((("a", 1), ("a", 2), ("b", 3))):
        state.on_state("edge-1", "detector", born(number, instance=instance, session=session))
    assert state.restarts == 1


def test_answer_before_truth_is_measured_all_the_same() -> None:
    state = DetectionState()
    for index in range(40):
        state.on_detections("edge-1", answer("north", index))
        state.on_truth("edge-1", truth("north", index))
    camera = state.cameras["edge-1/north"]
    assert camera.rolling.value == pytest.approx(1.0)
    assert camera.total == camera.answered == 40


def test_a_frame_answered_twice_is_counted_once_and_torn_by_another_model() -> None:
    state = DetectionState()
    camera = state.camera("edge-1", "north")
    state.on_detections("edge-1", answer("north", 0))
    state.on_detections("edge-1", answer("north", 0))
    frame = next(iter(camera.frames.values()))
    assert (camera.answered, frame.torn) == (1, False)
    state.on_detections("edge-1", answer("north", 0, model=NEW))
    assert frame.torn
    assert frame.answer is not None
    assert frame.answer.model == OLD


LONG = {
    "parking-lot-entrance-west-side-of-building-12": "edge-with-a-rather-long-name-1",
    "south": "edge-2",
}
SHORT = {"north": "edge-1", "south": "edge-2"}


@cache
def story(seconds: int, *, long: bool) -> DetectionState:
    return play_story(DetectionState(), seconds=seconds, cameras=LONG if long else SHORT)


def drawn(part: RenderableType, width: int, *, height: int | None = None) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(part, height=height)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    return text


def unwrapped(text: str) -> str:
    return "".join(text.split())


def first_column(text: str) -> str:
    """What stands left of the first gap of each line, a folded name put together again."""
    return "".join(unwrapped(line.strip().split("  ")[0]) for line in text.splitlines())


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("names", [SHORT, LONG])
@pytest.mark.parametrize("seconds", [0, 20, 50, 70, 84, 120])
def test_the_view_of_every_stage_is_whole_at_every_width(
    seconds: int, names: dict[str, str], width: int
) -> None:
    state, now = story(seconds, long=names is LONG), at(seconds)
    view = RunView(state=state, streams=camera_table(state, now), title="demo", elapsed=now - START)
    text = drawn(view, width)
    assert "roll-out" in text
    if seconds:
        for heading in ("condition", "fps", "latency", "dropped", "samples", "model", "AP50"):
            assert heading in text
        for camera, node in names.items():
            assert f"{node}/{camera}" in first_column(text)
        assert text.count("24 ms") == 2
        assert any("8.0 fps" in line for line in camera_lines(state, now))
    if seconds == 120:
        assert "accepted:new.50to.88,old.92to.91" in unwrapped(text)


@pytest.mark.parametrize(("width", "height"), [(60, 16), (80, 16), (200, 16), (200, 30)])
def test_a_low_terminal_shows_the_newest_events_and_how_much_it_hides(
    width: int, height: int
) -> None:
    state = story(90, long=True)
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=True)
    with LiveView(state, partial(camera_table, state), title="demo", console=console) as live:
        live.refresh("the end of the run")
    assert isinstance(console.file, io.StringIO)
    screen = console.file.getvalue().rpartition("\x1b[H")[2].partition("\x1b[?1049l")[0]
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen)
    assert len(text.splitlines()) <= height
    assert ("more lines in a higher terminal" in text) == (height < 30)
    assert "is the first answered by version 2" in " ".join(text.split())
    assert "roll-out" in text


def test_sparkline_takes_the_width_that_there_is() -> None:
    assert drawn(Sparkline([0, 0.5, 1, 2, -1]), 60).strip() == "▁▅██▁"
    assert drawn(Sparkline([0] * 100), 60).strip() == "▁" * 50
    assert drawn(Sparkline([0] * 100), 200).strip() == "▁" * 100


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("names", [SHORT, LONG])
def test_the_closing_table_shows_every_figure_at_every_width(
    names: dict[str, str], width: int
) -> None:
    summary = build_summary(
        story(120, long=names is LONG),
        name="demo",
        started=at(-5),
        finished=at(120),
        closed=True,
        outcome="done",
    )
    text = drawn(detection_table(summary), width)
    # Three rows of mAP50 and three of mAP, in three phases and with the share.
    assert text.count("0.876") == 12
    assert text.count("0.668") == 6
    assert text.count("100%") == 6
    whole = unwrapped(text)
    for camera, node in names.items():
        assert f"{node}/{camera}" in first_column(text)
    for words in ("held-out frames", "0 failed, 0 torn", "760.0 kB up", "125:"):
        assert unwrapped(words) in whole
