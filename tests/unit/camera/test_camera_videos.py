"""Videos that are damaged, cut off or of no steady rate; the files are FFmpeg's test pattern.

`fast.mp4` has 60 frames at 10 fps with a key frame each 10, its index in front; `whole.mkv` is the
same; `vfr` has 20 frames at 10 fps and then 4 at 1 fps.
"""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

import pytest

from edgebus.contracts import topics
from edgebus.service.testing import ServiceHarness
from edgebus_camera import Camera, CameraSettings
from edgebus_camera.sources import PASS_PERIOD, VideoSource
from edgebus_detection.messages import CAMERA_FRAME

VIDEOS = Path(__file__).parents[2] / "support" / "videos"


def cut(source: str, target: Path, share: float) -> Path:
    data = (VIDEOS / source).read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def zeroed(target: Path, first: float, share: float) -> Path:
    data = bytearray((VIDEOS / "fast.mp4").read_bytes())
    start = data.index(b"mdat") + 4
    begin = start + int((len(data) - start) * first)
    size = int((len(data) - start) * share)
    data[begin : begin + size] = bytes(size)
    target.write_bytes(data)
    return target


def play(source: VideoSource) -> list[tuple[int, float | None]]:
    seen = []
    for slot in range(500):
        frame = source.read(slot)
        if frame is None:
            return seen
        seen.append((frame.index, frame.at_s))
    raise AssertionError("it has no end")


@pytest.mark.parametrize("name", ["fast.mp4", "whole.mkv", "vfr.mp4", "vfr.mkv"])
def test_a_whole_video_has_no_trouble(name: str) -> None:
    source = VideoSource(VIDEOS / name, loop=False)
    seen = play(source)
    assert [index for index, _ in seen] == list(range(24 if "vfr" in name else 60))
    assert source.trouble == ""


@pytest.mark.parametrize("name", ["fast.mp4", "whole.mkv"])
@pytest.mark.parametrize("share", [0.4, 0.5, 0.8])
def test_what_was_cut_off_is_named(tmp_path: Path, name: str, share: float) -> None:
    path = cut(name, tmp_path / name, share)
    source = VideoSource(path, loop=False)
    last = play(source)[-1][0]
    assert f"{path}: " in source.trouble
    assert f"ended at frame {last + 1} of 60" in source.trouble


@pytest.mark.parametrize(
    ("first", "share"), [(0.0, 0.05), (0.1, 0.02), (0.33, 0.17), (0.6, 0.2), (0.8, 0.1)]
)
def test_it_is_read_on_behind_what_cannot_be_decoded(
    tmp_path: Path, first: float, share: float
) -> None:
    source = VideoSource(zeroed(tmp_path / "v.mp4", first, share), loop=False)
    seen = play(source)
    indices = [index for index, _ in seen]
    assert indices == sorted(set(indices))
    assert indices[-1] == 59
    assert len(indices) >= 30
    # Numbers are those of the file, so that truth and hold-out stay right.
    assert all(at is not None and abs(at - index / 10) < 0.01 for index, at in seen)
    lost = 60 - len(indices)
    if lost:
        assert f"{lost} of 60 frames cannot be decoded, from " in source.trouble
        assert "ended" not in source.trouble


def test_a_damaged_video_loops_and_complains_once(tmp_path: Path) -> None:
    source = VideoSource(cut("fast.mp4", tmp_path / "v.mp4", 0.5), loop=True)
    troubles, indices = [], []
    for slot in range(100):
        frame = source.read(slot)
        assert frame is not None
        indices.append(frame.index)
        troubles.append(source.trouble)
    assert len(set(troubles)) == 2
    assert PASS_PERIOD in indices
    assert indices == sorted(indices)


def test_a_stride_goes_on_behind_a_gap(tmp_path: Path) -> None:
    source = VideoSource(zeroed(tmp_path / "v.mp4", 0.33, 0.17), loop=False, stride=3)
    indices = [index for index, _ in play(source)]
    assert indices[-1] == 19
    assert set(indices) < set(range(20))


async def _filmed(path: str, **settings: object) -> tuple[list[tuple[int, datetime]], str]:
    """Frames with the times at which they were captured, and the last reason of the state."""
    cameras = CameraSettings.model_validate(
        {"cameras": {"front": {"source": path, "loop": False, **settings}}}
    )
    async with ServiceHarness(Camera, cameras) as harness:
        state = await harness.expect(
            topics.SERVICE_STATE, 20, where=lambda event: "front ended" in event.payload.reason
        )
        records = [event.payload.record for event in harness.received(CAMERA_FRAME)]
    return [(record.index, record.captured) for record in records], state.payload.reason


async def test_a_video_of_no_steady_rate_leaves_by_its_own_stamps() -> None:
    seen, _ = await _filmed(str(VIDEOS / "vfr.mp4"))
    at = dict(seen)
    assert {21, 22, 23} <= set(at)
    first = seen[0]
    for index, stamp in ((21, 3.0), (22, 4.0), (23, 5.0)):
        passed = (at[index] - first[1]).total_seconds() + first[0] / 10
        assert passed == pytest.approx(stamp, abs=0.5)


async def test_a_rate_that_was_asked_for_wins_over_the_stamps() -> None:
    seen, _ = await _filmed(str(VIDEOS / "vfr.mp4"), fps=24)
    assert (seen[-1][1] - seen[0][1]).total_seconds() < 2.0


async def test_the_state_says_what_is_missing(tmp_path: Path) -> None:
    path = cut("fast.mp4", tmp_path / "v.mp4", 0.5)
    _, reason = await _filmed(str(path), fps=120)
    assert "ended at frame" in reason
    shutil.copy(VIDEOS / "fast.mp4", tmp_path / "whole.mp4")
    _, reason = await _filmed((tmp_path / "whole.mp4").as_uri(), fps=120)
    assert "of 60" not in reason


def test_frames_that_a_decoder_leaves_out_without_a_word_are_missed(tmp_path: Path) -> None:
    data = bytearray((VIDEOS / "silent.webm").read_bytes())
    assert play(VideoSource(VIDEOS / "silent.webm", loop=False))[-1][0] == 59
    third = len(data) // 3
    data[third : third + len(data) // 6] = bytes(len(data) // 6)
    (tmp_path / "v.webm").write_bytes(data)
    source = VideoSource(tmp_path / "v.webm", loop=False)
    seen = play(source)
    assert f"{60 - len(seen)} of 60 frames are missing" in source.trouble
