"""A closed loop as messages, without any service: dusk falls, version 2 comes, accuracy is back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import cv2
import numpy as np

from edgebus.contracts import (
    BundleRef,
    DeadLetter,
    GateReport,
    ModelRef,
    ModelStatus,
    Release,
    ServiceState,
    StoreStatus,
    TrainingProgress,
    TrainingResult,
)
from edgebus_detection.lab.state import DetectionState
from edgebus_detection.messages import Box, Detections, FrameRecord, GroundTruth, SampleRecord

START = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
OLD = ModelRef(name="street", version=1, digest="1" * 64, engine="test")
NEW = ModelRef(name="street", version=2, digest="2" * 64, engine="test")
FPS = 8


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def frame_id(camera: str, index: int) -> str:
    return f"{ord(camera[-1]):08x}-0000-7000-8000-{index:012x}"


def record(camera: str, index: int, *, node: str = "edge-1") -> FrameRecord:
    captured = at(index / FPS)
    return FrameRecord(
        id=frame_id(camera, index),
        time=captured + timedelta(milliseconds=3),
        source=f"demo/{node}/camera",
        camera=camera,
        index=index,
        captured=captured,
        width=320,
        height=240,
    )


def truth(
    camera: str, index: int, *, node: str = "edge-1", dusk: float = 0.0, boxes: int = 2
) -> GroundTruth:
    frame = record(camera, index, node=node)
    x = 10.0 + index % 100
    return GroundTruth(
        time=frame.time,
        source=frame.source,
        frame=frame.id,
        camera=camera,
        index=index,
        captured=frame.captured,
        width=320,
        height=240,
        boxes=tuple(
            Box(
                label=("car", "person")[number % 2],
                x1=x,
                y1=20 + 80 * number,
                x2=x + 40,
                y2=90 + 80 * number,
            )
            for number in range(boxes)
        ),
        condition="dusk" if dusk else "day",
        effects={"dusk": dusk},
    )


def answer(
    camera: str,
    index: int,
    *,
    node: str = "edge-1",
    model: ModelRef = OLD,
    found: int = 2,
    dropped: int = 0,
    late_s: float = 0.02,
) -> Detections:
    frame = record(camera, index, node=node)
    boxes = truth(camera, index, node=node).boxes[:found]
    received = frame.time + timedelta(milliseconds=1)
    return Detections(
        source=f"demo/{node}/detector",
        frame=frame.id,
        camera=camera,
        index=index,
        width=320,
        height=240,
        boxes=tuple(box.model_copy(update={"score": 0.9}) for box in boxes),
        model=model,
        captured=frame.captured,
        sent=frame.time,
        received=received,
        detected=received + timedelta(seconds=late_s),
        dropped=dropped,
    )


def sample(camera: str, index: int, *, node: str = "edge-1") -> SampleRecord:
    return SampleRecord(
        **record(camera, index, node=node).model_dump(
            include={"index", "captured", "width", "height"}
        ),
        time=at(index / FPS),
        source=f"demo/{node}/collector",
        stream=camera,
        input=frame_id(camera, index),
        split="train",
        policy="truth",
        reason="missed 1 of 2",
        score=0.5,
        model=OLD,
        detections=(),
    )


def status(
    seconds: float,
    *,
    node: str = "edge-1",
    serving: ModelRef | None = OLD,
    since: float | None = None,
    state: str = "idle",
    target: ModelRef | None = None,
    received: int = 0,
) -> ModelStatus:
    return ModelStatus(
        time=at(seconds),
        source=f"demo/{node}/detector",
        serving=serving,
        since=at(since if since is not None else seconds),
        state=state,  # type: ignore[arg-type]
        target=target,
        received_bytes=received,
        swap_ms=0.2 if state == "updated" else None,
    )


def born(
    seconds: float, *, node: str = "edge-1", instance: str = "a", session: int = 1
) -> ServiceState:
    return ServiceState(
        time=at(seconds),
        source=f"demo/{node}/detector",
        state="ready",
        session=session,
        instance=instance,
        since=at(seconds),
        version="0",
    )


def letter(topic: str) -> DeadLetter:
    return DeadLetter(
        time=at(5),
        source="demo/edge-1/detector",
        topic=topic,
        expected="frame/1",
        reason="invalid",
        error="zero bytes",
        attempts=1,
        size=0,
        media_type="image/jpeg",
    )


def picture(camera: str, index: int, *, dusk: float = 0.0) -> bytes:
    """A JPEG with the boxes of `truth` as rectangles."""
    image = np.full((240, 320, 3), 170, np.uint8)
    image[120:] = 110
    for box in truth(camera, index).boxes:
        cv2.rectangle(
            image, (int(box.x1), int(box.y1)), (int(box.x2), int(box.y2)), (60, 60, 200), -1
        )
    return cv2.imencode(".jpg", (image * (1 - 0.75 * dusk)).astype(np.uint8))[1].tobytes()


def play_story(
    state: DetectionState, *, seconds: int = 120, cameras: dict[str, str] | None = None
) -> DetectionState:
    """Dusk from 30 s to 40 s, job from 60 s to 80 s, version 2 from 85 s on."""
    cameras = cameras or {"north": "edge-1", "south": "edge-2"}
    release = Release(
        time=at(82),
        source="demo/cloud/distributor",
        channel="stable",
        bundle=BundleRef(
            model=NEW,
            provider="demo/cloud/distributor",
            index_size=500,
            size=900_000,
            parent=OLD.digest,
        ),
        sequence=2,
        reason="gate passed",
    )
    for node in cameras.values():
        state.on_state(node, "detector", born(-1, node=node))
        state.on_model_status(node, "detector", status(-0.5, node=node))
    for index in range(seconds * FPS):
        now = index / FPS
        dusk = min(1.0, max(0.0, (now - 30) / 10))
        for camera, node in cameras.items():
            state.on_frame(node, record(camera, index, node=node), size=9_000)
            state.on_truth(node, truth(camera, index, node=node, dusk=dusk))
            later = now >= 85
            # By day one of eight boxes is missed, at dusk every second one.
            found = (2 if index % 4 else 1) if dusk == 0 or later else (1 if index % 3 else 2)
            state.on_detections(
                node,
                answer(camera, index, node=node, model=NEW if later else OLD, found=found),
            )
            if 40 <= now < 60 and index % 4 == 0:
                state.on_sample(
                    node,
                    sample(camera, index, node=node),
                    size=9_500,
                )
        if now == 60:
            state.on_store(
                StoreStatus(
                    source="demo/cloud/retrainer",
                    samples=80,
                    train=60,
                    holdout=20,
                    bytes=760_000,
                    untrained=60,
                    trigger="count",
                    needed=60,
                )
            )
        if now >= 60 and now < 80 and now % 2 == 0:
            state.on_progress(
                TrainingProgress(
                    time=at(now),
                    source="demo/cloud/retrainer",
                    job="job-1",
                    model=OLD,
                    phase="training",
                    step=int(now - 60) * 10,
                    steps=200,
                    loss=3.0 - (now - 60) / 10,
                    seconds=now - 60,
                    remaining_s=80 - now,
                )
            )
        if now == 80:
            state.on_result(
                TrainingResult(
                    time=at(80),
                    source="demo/cloud/retrainer",
                    job="job-1",
                    model=OLD,
                    candidate=NEW,
                    outcome="accepted",
                    reason="new .50 to .88, old .92 to .91",
                    trigger="count",
                    samples=60,
                    replay=200,
                    gate=GateReport(passed=True),
                    update_bytes=16_000,
                    started=at(60),
                )
            )
        if now == 82:
            state.on_release(release)
            for _ in range(3):
                state.on_block("cloud/distributor", size=8_000)
            state.on_block("cloud/retrainer", size=8_000)
        if now == 84:
            for node in cameras.values():
                state.on_model_status(
                    node,
                    "detector",
                    status(
                        84, node=node, state="updating", since=-0.5, target=NEW, received=24_000
                    ),
                )
        if now == 85:
            for node in cameras.values():
                state.on_model_status(
                    node,
                    "detector",
                    status(84.9, node=node, serving=NEW, state="updated", received=24_000),
                )
    return state
