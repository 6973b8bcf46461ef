from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgebus.bus import MemoryBroker
from edgebus.contracts import topics
from edgebus.service import ServiceFailedError
from edgebus.service.testing import ServiceHarness
from edgebus_camera import Camera, CameraSettings
from edgebus_camera.sources import PASS_PERIOD
from edgebus_detection.emulation.street import Scene
from edgebus_detection.messages import CAMERA_FRAME, CAMERA_TRUTH, Frame, GroundTruth
from edgebus_detection.vision import decode_picture


def _cameras(**views: dict[str, object]) -> CameraSettings:
    return CameraSettings.model_validate({"cameras": views})


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "street.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 50, (96, 64))
    for number in range(5):
        writer.write(np.full((64, 96, 3), 40 * number, np.uint8))
    writer.release()
    return path


async def _until_ended(harness: ServiceHarness[CameraSettings], camera: str) -> None:
    await harness.expect(
        topics.SERVICE_STATE, where=lambda event: f"{camera} ended" in event.payload.reason
    )


# On a busy machine a camera skips frames; nothing here asks for all of them.


async def test_frames_come_with_their_truth_and_their_record() -> None:
    settings = _cameras(front={"seed": 3, "fps": 25, "frames": 12, "quality": 95})
    scene = Scene(seed=3, fps=25)
    async with ServiceHarness(Camera, settings) as harness:
        await _until_ended(harness, "front")
        counters = harness.service.metrics.snapshot().counters
        frames = harness.received(CAMERA_FRAME)
        truths = harness.received(CAMERA_TRUTH)
    assert counters["frames.sent.front"] == len(frames) == len(truths) > 0
    # The last slots may be skipped over by the end itself.
    assert len(frames) + counters.get("frames.skipped", 0) <= 12
    indices = [event.payload.record.index for event in frames]
    assert indices == sorted(set(indices))
    for frame, truth in zip(frames, truths, strict=True):
        told: GroundTruth = truth.payload
        seen: Frame = frame.payload
        record = seen.record
        assert frame.topic == "edgebus/lab/pi-01/camera/front/frame"
        assert truth.received <= frame.received
        assert told.frame == record.id
        assert told.captured == record.captured
        assert (record.camera, record.source) == ("front", "lab/pi-01/camera")
        assert (record.width, record.height) == (320, 240)
        assert record.captured <= record.time <= frame.received
        drawn = scene.render(record.index)
        assert list(told.boxes) == drawn.boxes
        assert told.condition == "day"
        picture = decode_picture(seen.jpeg)
        assert np.abs(picture.astype(int) - drawn.image).mean() < 5


async def test_drift_is_told_with_the_truth() -> None:
    drift = [{"effect": "dusk", "start_s": 0.4, "to": 0.5}, {"effect": "moved", "to": 1.0}]
    settings = _cameras(front={"fps": 25, "drift": drift})
    async with ServiceHarness(Camera, settings) as harness:
        early = await harness.expect(CAMERA_TRUTH)
        late = await harness.expect(CAMERA_TRUTH, where=lambda event: event.payload.index >= 10)
    assert early.payload.index < 10
    assert (early.payload.condition, early.payload.effects) == ("moved", {"moved": 1.0})
    assert late.payload.condition == "moved+dusk"
    assert late.payload.effects == {"moved": 1.0, "dusk": 0.5}


async def test_frames_that_the_broker_does_not_take_are_told_and_cost_no_more() -> None:
    broker = MemoryBroker(max_packet_bytes=6_000)
    settings = _cameras(front={"fps": 25}, tiny={"fps": 25, "width": 64, "height": 64})
    async with ServiceHarness(Camera, settings, broker=broker) as harness:
        state = await harness.wait_for_state("degraded")
        assert "camera front: a frame of" in state.reason
        assert "the broker takes 6000; set 'quality'" in state.reason
        await harness.expect(CAMERA_FRAME, where=lambda event: event.payload.record.index > 9)
        assert {event.names["camera"] for event in harness.received(CAMERA_FRAME)} <= {"tiny"}
        assert harness.service.metrics.snapshot().counters["frames.refused.front"] >= 1


async def test_cameras_film_side_by_side_and_one_may_end(video: Path) -> None:
    settings = _cameras(
        street={"fps": 20}, clip={"source": str(video), "loop": False}, again={"source": str(video)}
    )
    async with ServiceHarness(Camera, settings) as harness:

        async def frame(camera: str, index: int) -> Frame:
            event = await harness.expect(
                CAMERA_FRAME,
                where=lambda event: (
                    event.names["camera"] == camera and event.payload.record.index >= index
                ),
            )
            return event.payload

        await _until_ended(harness, "clip")
        assert (await frame("again", PASS_PERIOD)).record.index >= PASS_PERIOD
        assert (await frame("street", 5)).record.index >= 5
        clip = [
            event.payload.record.index
            for event in harness.received(CAMERA_FRAME)
            if event.names["camera"] == "clip"
        ]
        assert set(clip) <= set(range(5))
        truths = harness.received(CAMERA_TRUTH)
        assert {event.names["camera"] for event in truths} == {"street"}


async def test_a_restarted_camera_goes_on_where_it_would_be() -> None:
    settings = _cameras(front={"fps": 20, "start_at": time.time() - 1000})
    async with ServiceHarness(Camera, settings) as harness:
        event = await harness.expect(CAMERA_FRAME)
        assert 20_000 <= event.payload.record.index < 20_400
        await harness.expect(CAMERA_FRAME)
    assert harness.service.metrics.snapshot().counters.get("frames.skipped", 0) < 10


async def test_a_file_that_cannot_be_read_ends_the_service_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "nothing.mp4"
    with pytest.raises(ServiceFailedError, match=rf"{path}.*no such file"):
        async with ServiceHarness(Camera, _cameras(front={"source": str(path)})):
            pytest.fail("it started")


async def test_a_damaged_picture_is_counted_and_the_camera_films_on(tmp_path: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.jpg"), np.full((64, 96, 3), 90, np.uint8))
    (tmp_path / "1.jpg").write_bytes(b"")
    settings = _cameras(front={"source": str(tmp_path), "fps": 25})
    async with ServiceHarness(Camera, settings) as harness:
        await harness.expect(
            CAMERA_FRAME, where=lambda event: event.payload.record.index >= PASS_PERIOD + 2
        )
        frames = harness.received(CAMERA_FRAME)
        assert 1 not in {event.payload.record.index % PASS_PERIOD for event in frames}
        assert harness.service.metrics.snapshot().counters["frames.unreadable.front"] >= 1


async def test_a_source_that_dies_degrades_the_service_and_the_others_film_on(video: Path) -> None:
    settings = _cameras(clip={"source": str(video)}, street={"fps": 20})
    async with ServiceHarness(Camera, settings) as harness:
        await harness.expect(CAMERA_FRAME)
        video.write_bytes(b"overwritten")
        state = await harness.wait_for_state("degraded")
        assert str(video) in state.reason
        assert "clip" in state.reason
        seen = len(harness.received(CAMERA_FRAME))
        await harness.expect(
            CAMERA_FRAME,
            where=lambda event: (
                event.names["camera"] == "street" and event.payload.record.index > seen
            ),
        )
