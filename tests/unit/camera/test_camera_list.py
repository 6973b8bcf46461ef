"""A camera whose view changes: videos, folders and pictures one after the other."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from edgebus_camera.__main__ import app
from edgebus_camera.settings import ViewSettings
from edgebus_camera.sources import (
    PASS_PERIOD,
    ListSource,
    PictureSkippedError,
    SourceError,
    open_source,
)

DAY, NIGHT = 40, 200


def picture(tone: int) -> np.ndarray:
    return np.full((64, 96, 3), tone, np.uint8)


def tone(image: np.ndarray) -> int:
    return round(float(image.mean()) / 10) * 10


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A video of five frames by day, a folder of three by night, two single pictures."""
    writer = cv2.VideoWriter(
        str(tmp_path / "day.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (96, 64)
    )
    assert writer.isOpened()
    for _ in range(5):
        writer.write(picture(DAY))
    writer.release()
    (tmp_path / "night" / "deep").mkdir(parents=True)
    for name in ("night/1.png", "night/2.png", "night/deep/3.png", "a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), picture(NIGHT))
    # Labels that a list does not read, and that have no class names.
    (tmp_path / "night" / "1.txt").write_text("0 0.5 0.5 0.2 0.4\n")
    return tmp_path


def listed(folder: Path, text: str) -> ListSource:
    path = folder / "view.txt"
    path.write_text(text)
    source = open_source(ViewSettings(source=str(path)))
    assert isinstance(source, ListSource)
    return source


def played(source: ListSource, slots: range) -> list[tuple[int, int]]:
    frames = [source.read(slot) for slot in slots]
    assert all(frame is not None and frame.boxes is None for frame in frames)
    return [(tone(frame.image), frame.index) for frame in frames if frame]


def test_parts_follow_each_other_and_each_begins_a_period(place: Path) -> None:
    source = listed(place, "# first the day\nday.avi\n\nnight\n")
    assert source.fps == pytest.approx(12.5)
    one = [(DAY, number) for number in range(5)]
    two = [(NIGHT, PASS_PERIOD + number) for number in range(3)]
    again = [(DAY, 2 * PASS_PERIOD)]
    assert played(source, range(9)) == one + two + again
    source.close()


def test_pictures_line_by_line_are_one_part_and_lines_may_repeat(place: Path) -> None:
    source = listed(place, "a.png\nb.png\nnight\nnight\n")
    assert source.fps is None
    indices = [index for _, index in played(source, range(9))]
    parts = [(0, 2), (1, 3), (2, 3), (3, 1)]
    assert indices == [
        PASS_PERIOD * part + number for part, count in parts for number in range(count)
    ]


def test_slots_that_were_too_late_go_on_with_the_next_part(place: Path) -> None:
    source = listed(place, "day.avi\nnight\n")
    frame = source.read(3)
    assert frame is not None
    assert (tone(frame.image), frame.index) == (DAY, 3)
    frame = source.read(90)
    assert frame is not None
    assert (tone(frame.image), frame.index) == (NIGHT, PASS_PERIOD)
    source.close()


def test_without_a_loop_the_last_line_is_the_end(place: Path) -> None:
    (place / "view.txt").write_text("day.avi\nb.png\n")
    source = ListSource(place / "view.txt", loop=False, stride=2)
    assert [frame is not None for frame in map(source.read, range(5))] == [True] * 4 + [False]
    source.close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names nothing"),
        ("# a remark\n\n", "names nothing"),
        ("day.avi\nnihgt\n", "line 2 names nihgt"),
        ("empty\n", "has no pictures"),
        ("view.txt\n", "OpenCV cannot decode"),
    ],
)
def test_lists_that_cannot_be_played_are_refused_at_the_start(
    place: Path, text: str, words: str
) -> None:
    (place / "empty").mkdir()
    with pytest.raises(SourceError, match=words):
        listed(place, text)


def test_a_list_that_is_no_text_or_has_truth_is_refused(place: Path) -> None:
    (place / "view.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SourceError, match=r"view\.txt: is no text in UTF-16"):
        open_source(ViewSettings(source=str(place / "view.txt")))
    with pytest.raises(SourceError, match="has no truth"):
        open_source(ViewSettings(source=str(place / "view.txt"), truth=place / "truth.txt"))


def test_damaged_pictures_are_left_out_until_none_is_left(place: Path) -> None:
    (place / "a.png").write_bytes(b"cut off")
    source = listed(place, "a.png\nb.png\n")
    with pytest.raises(PictureSkippedError, match=r"a\.png"):
        source.read(0)
    assert played(source, range(1, 2)) == [(NIGHT, 1)]
    (place / "b.png").write_bytes(b"")
    with pytest.raises(PictureSkippedError):
        source.read(2)
    with pytest.raises(SourceError, match="none of its pictures can be read"):
        source.read(3)


def test_a_video_that_is_replaced_ends_the_camera(place: Path) -> None:
    source = listed(place, "b.png\nday.avi\n")
    assert source.read(0) is not None
    (place / "day.avi").write_bytes(b"gone")
    with pytest.raises(SourceError, match=r"day\.avi"):
        source.read(1)


def test_the_first_pictures_of_a_source_become_files(place: Path) -> None:
    (place / "view.txt").write_text("day.avi\nnight\n")
    out = place / "out"
    call = ["frames", str(place / "view.txt"), "--out", str(out), "--count", "7"]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0, result.output
    # The night that follows is another view.
    assert sorted(path.name for path in out.iterdir()) == [f"{n:06d}.jpg" for n in range(5)]
    again = CliRunner().invoke(app, call)
    assert again.exit_code != 0
    live = CliRunner().invoke(app, ["frames", "0", "--out", str(place / "other")])
    assert live.exit_code != 0
    gone = CliRunner().invoke(app, ["frames", "none.mp4", "--out", str(place / "other")])
    assert gone.exit_code == 2
    assert "no such file" in gone.output
