"""Messages of a small site, as a recorder gets them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from edgebus.bus import RawMessage
from edgebus.contracts import Identity, ModelRef, ServiceState, topics
from edgebus_detection.messages import CAMERA_FRAME, Box, Detections, Frame, FrameRecord

START = datetime(2026, 5, 4, 12, 0, 0, 125, tzinfo=UTC)
CAMERA = Identity(site="lab", node="pi-01", service="camera")
DETECTOR = Identity(site="lab", node="pi-01", service="detector")
MODEL = ModelRef(name="street", version=1, digest="a" * 64)
# Start of image, a frame header, a scan header, end of image: all that the record's place needs.
JPEG = bytes.fromhex("ffd8 ffc0000b080030004001011100 ffda0008010100003f00 00 ffd9")


def later(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def message(
    topic: str,
    payload: bytes,
    *,
    at: float = 0.0,
    qos: int = 0,
    retained: bool = False,
    content_type: str | None = None,
) -> RawMessage:
    return RawMessage(topic, payload, qos, retained, False, later(at), content_type)


def frame(index: int, *, at: float = 0.0, padding: int = 0) -> Frame:
    record = FrameRecord(
        time=later(at),
        source=CAMERA.source,
        camera="front",
        index=index,
        captured=later(at - 0.01),
        width=64,
        height=48,
    )
    # Behind the scan header anything may stand.
    return Frame.build(JPEG[:-2] + b"\x55" * padding + JPEG[-2:], record)


def frame_message(index: int, *, at: float = 0.0, padding: int = 0) -> RawMessage:
    topic = CAMERA_FRAME.at(CAMERA, camera="front").name
    return message(topic, frame(index, at=at, padding=padding).encode(), at=at + 0.002)


def detections(of: FrameRecord, *, at: float = 0.0) -> Detections:
    return Detections(
        time=later(at),
        source=DETECTOR.source,
        frame=of.id,
        camera=of.camera,
        index=of.index,
        width=of.width,
        height=of.height,
        boxes=(Box(label="car", x1=1, y1=2, x2=30, y2=40, score=0.5),),
        model=MODEL,
        captured=of.captured,
        sent=of.time,
        received=later(at),
        detected=later(at),
    )


def state(*, at: float = 0.0, word: str = "ready") -> ServiceState:
    return ServiceState(
        time=later(at),
        source=DETECTOR.source,
        state=word,
        session=1,
        instance="one",
        since=later(at),
        version="0.1.0",
    )


def state_message(*, at: float = 0.0, retained: bool = False, word: str = "ready") -> RawMessage:
    topic = topics.SERVICE_STATE.at(DETECTOR).name
    payload = state(at=at, word=word).encode()
    return message(topic, payload, at=at, qos=1, retained=retained)
