from __future__ import annotations

import json
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgebus.contracts import split_of
from edgebus_camera.settings import ViewSettings
from edgebus_camera.sources import (
    PASS_PERIOD,
    FolderSource,
    LiveSource,
    PictureSkippedError,
    SourceError,
    SourceLostError,
    VideoSource,
    open_source,
)
from edgebus_detection.datasets import read_mot

FRAMES = 7


def _picture(number: int, *, width: int = 96, height: int = 64) -> np.ndarray:
    """A grey tone that tells the frame's number."""
    return np.full((height, width, 3), 20 + number * 30, np.uint8)


def _number(image: np.ndarray) -> int:
    return round((float(image.mean()) - 20) / 30)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "street.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (96, 64))
    assert writer.isOpened()
    for number in range(FRAMES):
        writer.write(_picture(number))
    writer.release()
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images, labels = tmp_path / "set" / "images", tmp_path / "set" / "labels"
    images.mkdir(parents=True)
    labels.mkdir()
    for number in range(3):
        cv2.imwrite(str(images / f"{number}.png"), _picture(number, width=100, height=50))
    (labels / "0.txt").write_text("0 0.5 0.5 0.2 0.4\n1 0.95 0.5 0.2 0.4\n")
    (labels / "1.txt").write_text("")
    (tmp_path / "set" / "data.yaml").write_text("names: [person, car]\n")
    return images


def test_passes_repeat_the_split() -> None:
    for index in range(3 * PASS_PERIOD):
        assert split_of("front", index) == split_of("front", index + PASS_PERIOD)


def test_a_video_gives_its_frames_and_ends(video: Path) -> None:
    source = VideoSource(video, loop=False)
    assert source.fps == pytest.approx(12.5)
    assert source.length == FRAMES
    frames = [source.read(slot) for slot in range(FRAMES)]
    assert [_number(frame.image) for frame in frames if frame] == list(range(FRAMES))
    assert [frame.index for frame in frames if frame] == list(range(FRAMES))
    assert all(frame is not None and frame.boxes is None for frame in frames)
    assert source.read(FRAMES) is None
    source.close()


def test_a_looping_video_begins_again_with_the_same_split(video: Path) -> None:
    source = VideoSource(video, loop=True)
    frames = [source.read(slot) for slot in range(2 * FRAMES + 1)]
    indices = [frame.index for frame in frames if frame]
    assert indices[:FRAMES] == list(range(FRAMES))
    assert indices[FRAMES : 2 * FRAMES] == list(range(PASS_PERIOD, PASS_PERIOD + FRAMES))
    assert indices[-1] == 2 * PASS_PERIOD
    assert [_number(frame.image) for frame in frames if frame][FRAMES] == 0
    source.close()


def test_slots_that_were_too_late_leave_out_their_frames(video: Path) -> None:
    source = VideoSource(video, loop=False)
    frame = source.read(4)
    assert frame is not None
    assert (_number(frame.image), frame.index) == (4, 4)
    source.close()


def test_a_stride_takes_one_frame_in_many(video: Path) -> None:
    truth = {3: ()}
    source = VideoSource(video, loop=False, stride=3, truth=truth)
    frames = [source.read(slot) for slot in range(3)]
    assert [(_number(frame.image), frame.index, frame.boxes) for frame in frames if frame] == [
        (0, 0, None),
        (3, 1, ()),
        (6, 2, None),
    ]
    assert source.fps == pytest.approx(12.5 / 3)
    source.close()


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no such file"), (b"", "no bytes"), (b"this is no video" * 100, "cannot decode")],
)
def test_unreadable_videos_are_refused_by_path(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "broken.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=words) as caught:
        open_source(ViewSettings(source=str(path)))
    assert str(path) in str(caught.value)


def test_a_video_that_is_damaged_while_it_plays_fails_with_its_path(video: Path) -> None:
    source = VideoSource(video, loop=True)
    assert source.read(0) is not None
    video.write_bytes(b"gone")
    with pytest.raises(SourceError, match=str(video)):
        source.read(FRAMES + 1)


def test_a_folder_gives_pictures_with_yolo_labels(folder: Path) -> None:
    source = FolderSource(folder, loop=True)
    first, second, third, again = (source.read(slot) for slot in range(4))
    assert first is not None
    assert [(box.label, box.x1, box.y1, box.x2, box.y2) for box in first.boxes or ()] == [
        ("person", pytest.approx(40), pytest.approx(15), pytest.approx(60), pytest.approx(35)),
        ("car", pytest.approx(85), pytest.approx(15), 100.0, pytest.approx(35)),
    ]
    assert second is not None
    assert third is not None
    assert second.boxes == ()
    assert third.boxes is None  # nobody has labelled it
    assert source.labels == (
        "2 text files (YOLO), classes of data.yaml: 2 of 3 pictures labelled, 2 boxes "
        "(1 person, 1 car)"
    )
    assert again is not None
    assert again.index == PASS_PERIOD
    assert np.array_equal(again.image, first.image)


def test_a_folder_ends_where_it_does_not_loop(folder: Path) -> None:
    source = FolderSource(folder, loop=False)
    assert source.length == 3
    assert source.read(2) is not None
    assert source.read(3) is None


def test_a_folder_without_labels_knows_nothing(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), _picture(1))
    frame = FolderSource(tmp_path, loop=True).read(0)
    assert frame is not None
    assert frame.boxes is None


def test_a_damaged_picture_is_skipped_but_not_a_whole_folder_of_them(folder: Path) -> None:
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:20])
    source = FolderSource(folder, loop=True)
    assert source.read(0) is not None
    with pytest.raises(PictureSkippedError, match=r"1\.png"):
        source.read(1)
    assert source.read(2) is not None
    for path in folder.iterdir():
        path.write_bytes(b"")
    for slot in (3, 4):
        with pytest.raises(PictureSkippedError):
            source.read(slot)
    with pytest.raises(SourceError, match="none of its 3 pictures"):
        source.read(5)


def test_classes_without_names_are_found_at_the_start(folder: Path) -> None:
    (folder.parent / "data.yaml").unlink()
    with pytest.raises(SourceError, match=r"0\.txt, line 1: .* class 0 has no name.*'classes'"):
        FolderSource(folder, loop=True)
    settings = ViewSettings(source=str(folder), classes="coco")
    frame = open_source(settings).read(0)
    assert frame is not None
    assert [box.label for box in frame.boxes or ()] == ["person", "bicycle"]


@pytest.mark.parametrize(
    ("path", "words"), [("nowhere", "no such f"), ("", "has no pictures")], ids=["absent", "empty"]
)
def test_folders_without_pictures_are_refused(tmp_path: Path, path: str, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        open_source(ViewSettings(source=str(tmp_path / path)))


def test_an_export_comes_back_as_it_was_drawn(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from edgebus_camera.__main__ import app
    from edgebus_detection.emulation.street import Scene

    arguments = ["export", "--seed", "4", "--frames", "3", "--every", "50", "--start", "20"]
    for name in ("one", "two"):
        done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
    ones = sorted(path for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(ones) == 4
    for path in ones:
        twin = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == twin.read_bytes()
    source, scene = FolderSource(tmp_path / "one", loop=False), Scene(seed=4)
    for slot in range(3):
        frame, drawn = source.read(slot), scene.render(20 + 50 * slot)
        assert frame is not None
        assert frame.boxes == tuple(drawn.boxes)
        assert np.abs(frame.image.astype(int) - drawn.image).mean() < 6
    again = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "one")])
    assert again.exit_code == 2
    assert "exists" in again.output


def test_coco_boxes_are_cut_and_what_cannot_be_is_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((50, 100, 3), np.uint8))
    path = tmp_path / "annotations.json"
    boxes = [{"image_id": 1, "category_id": 3, "bbox": [-10, 5, 30, 10]}]
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 50}],
        "categories": [{"id": 3, "name": "car"}],
        "annotations": boxes,
    }
    path.write_text(json.dumps(document))
    frame = FolderSource(tmp_path, loop=True).read(0)
    assert frame is not None
    (box,) = frame.boxes or ()
    assert (box.x1, box.y1, box.x2, box.y2) == (0, 5, 20, 15)
    boxes.append({"id": 7, "image_id": 1, "category_id": 3, "bbox": [200, 5, 30, 10]})
    path.write_text(json.dumps(document))
    with pytest.raises(SourceError, match=r"annotations\.json, annotation 7: .*200.* lies outside"):
        FolderSource(tmp_path, loop=True)
    boxes[1] = {"image_id": 1, "category_id": 9, "bbox": [0, 5, 30, 10]}
    path.write_text(json.dumps(document))
    with pytest.raises(SourceError, match=r"no such category.*9"):
        FolderSource(tmp_path, loop=True)
    path.write_text("[1, 2]")
    with pytest.raises(SourceError, match="no COCO annotation file"):
        FolderSource(tmp_path, loop=True)


def test_mot_text_knows_only_the_frames_that_it_names(tmp_path: Path) -> None:
    path = tmp_path / "gt.txt"
    path.write_text("1,7,-5,10,20,30,1,1,1\n3,7,5,10,20,30,0,1,1\n\n3,8,5,10,20,30,1,9,1\n")
    truth = read_mot(path, names=None, min_score=0.4)
    assert set(truth) == {0, 2}
    assert truth[0][0].label == "person"
    assert (truth[0][0].x1, truth[0][0].x2) == (0, 15)
    # Of no class of COCO, or not to be counted: neither object nor background.
    assert [box.ignore for box in truth[2]] == [True, True]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0,1,1,1,5,5,1", "frames from 1"),
        ("1,1,1,1", "4 fields"),
        ("1,1,nan,1,5,5,1,1", "not finite"),
        ("x,1,1,1,5,5,1", "invalid literal"),
        ("1,1,1,1,-5,5,1,1", "width -5"),
    ],
)
def test_wrong_mot_lines_are_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "gt.txt"
    path.write_text(f"1,1,1,1,5,5,1\n{line}\n")
    with pytest.raises(SourceError, match=words) as caught:
        read_mot(path, names=None, min_score=0)
    assert f"{path}, line 2" in str(caught.value)


@pytest.mark.parametrize("line", ["0 0.5 0.5 0.1", "0 nan 0.5 0.1 0.1", "car 0.5 0.5 0.1 0.1"])
def test_wrong_yolo_lines_are_named(tmp_path: Path, line: str) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), _picture(1))
    (tmp_path / "a.txt").write_text(line)
    with pytest.raises(SourceError, match="line 1"):
        FolderSource(tmp_path, loop=True, classes={0: "person"})


class FakeCamera:
    """Sends pictures when it is told to, and can be pulled out."""

    def __init__(self, *, works: bool = True) -> None:
        self.works = works
        self.released = threading.Event()
        self._pictures: list[np.ndarray | None] = []
        self._ready = threading.Condition()

    def send(self, picture: np.ndarray | None) -> None:
        with self._ready:
            self._pictures.append(picture)
            self._ready.notify()

    def isOpened(self) -> bool:
        return self.works

    def read(self) -> tuple[bool, np.ndarray | None]:
        with self._ready:
            self._ready.wait_for(lambda: bool(self._pictures), timeout=30)
            picture = self._pictures.pop(0) if self._pictures else None
        return picture is not None, picture

    def release(self) -> None:
        self.released.set()


def test_a_live_camera_that_vanishes_is_connected_to_again() -> None:
    cameras = [FakeCamera(), FakeCamera(works=False), FakeCamera()]
    waiting = iter(cameras)
    source = LiveSource(0, connect=lambda _: next(waiting))
    cameras[0].send(_picture(1))
    assert _number(source.read(0).image) == 1
    cameras[0].send(None)
    with pytest.raises(SourceLostError, match="USB camera 0: the camera has stopped"):
        source.read(1)
    assert cameras[0].released.wait(5)
    with pytest.raises(SourceLostError, match="cannot be opened"):
        source.read(2)
    cameras[2].send(_picture(3))
    frame = source.read(3)
    assert (_number(frame.image), frame.index) == (3, 3)
    cameras[2].send(None)
    source.close()
    assert cameras[2].released.wait(5)


def test_a_live_camera_that_hangs_counts_as_gone() -> None:
    camera = FakeCamera()
    source = LiveSource(0, connect=lambda _: camera, patience_s=0.05)
    with pytest.raises(SourceLostError, match=r"sent nothing for 0\.05 s"):
        source.read(0)
    camera.send(None)


def test_closing_wakes_who_waits() -> None:
    camera = FakeCamera()
    opened = threading.Event()

    def connect(_: object) -> FakeCamera:
        opened.set()
        return camera

    source = LiveSource(0, connect=connect, patience_s=60)
    raised: list[str] = []

    def wait() -> None:
        try:
            source.read(0)
        except SourceLostError as error:
            raised.append(error.reason)

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert opened.wait(5)
    camera.send(None)
    source.close()
    waiter.join(5)
    assert not waiter.is_alive()
    assert raised


def test_passwords_stay_out_of_errors() -> None:
    camera = FakeCamera(works=False)
    source = LiveSource("rtsp://user:secret@cam:554/stream", connect=lambda _: camera)
    with pytest.raises(SourceLostError) as caught:
        source.read(0)
    assert "secret" not in str(caught.value)
    assert "rtsp://***@cam:554/…" in str(caught.value)
