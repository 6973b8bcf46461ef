"""Messages and JPEG frames: round trips, and what is refused."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgebus.contracts import (
    ModelRef,
    PayloadError,
    ServiceState,
    new_id,
    rfc3339,
    split_of,
    utc_now,
)
from edgebus_detection.messages import Box, Detections, Frame, FrameRecord, GroundTruth

MODEL = ModelRef(name="street", version=1, digest="0" * 64)


def plain_jpeg(width: int = 64, height: int = 48) -> bytes:
    done, data = cv2.imencode(".jpg", np.full((height, width, 3), 90, np.uint8))
    assert done
    return data.tobytes()


def record(**changes: object) -> FrameRecord:
    fields = {
        "source": "lab/pi-01/camera",
        "camera": "front",
        "index": 7,
        "captured": utc_now(),
        "width": 64,
        "height": 48,
    }
    return FrameRecord.model_validate(fields | changes)


def detections(*boxes: Box) -> Detections:
    now = utc_now()
    return Detections(
        source="lab/pi-01/detector",
        frame=new_id(),
        camera="front",
        index=0,
        width=64,
        height=48,
        boxes=boxes,
        model=MODEL,
        captured=now,
        sent=now,
        received=now,
        detected=now,
    )


def test_a_message_is_flat_json_that_stands_alone() -> None:
    wire = json.loads(detections(Box(label="car", x1=1, y1=2, x2=3, y2=4, score=0.5)).encode())
    assert wire["schema"] == "detections/1"
    assert wire["source"] == "lab/pi-01/detector"
    assert wire["time"].endswith("Z")
    assert wire["boxes"] == [{"label": "car", "x1": 1, "y1": 2, "x2": 3, "y2": 4, "score": 0.5}]


def test_times_are_utc_with_microseconds() -> None:
    assert rfc3339(datetime(2026, 11, 22, 10, 0, 0, 125, tzinfo=UTC)) == (
        "2026-11-22T10:00:00.000125Z"
    )
    local = json.loads(record(captured="2026-11-22T12:00:00+02:00").encode())
    assert local["captured"] == "2026-11-22T10:00:00.000000Z"


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(ValidationError, match="timezone"):
        record(captured="2026-11-22T12:00:00")


def test_ids_sort_by_time() -> None:
    ids = [new_id() for _ in range(100)]
    assert sorted(ids) == ids
    assert len(set(ids)) == 100


def test_an_older_reader_ignores_new_fields() -> None:
    wire = json.loads(record().encode()) | {"lens": "wide"}
    assert FrameRecord.decode(json.dumps(wire).encode()).camera == "front"


def test_another_major_version_is_refused() -> None:
    wire = json.loads(record().encode()) | {"schema": "frame/2"}
    with pytest.raises(PayloadError, match="schema"):
        FrameRecord.decode(json.dumps(wire).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"score": float("nan")},
        {"x2": float("inf")},
        {"x1": -1},
        {"x2": 1},
        {"score": 1.5},
        {"label": ""},
    ],
)
def test_an_impossible_box_is_refused(change: dict[str, object]) -> None:
    box = {"label": "car", "x1": 1, "y1": 2, "x2": 30, "y2": 40, "score": 0.5}
    with pytest.raises(ValidationError):
        Box.model_validate(box | change)


def test_a_box_outside_its_frame_is_refused_with_both_sizes() -> None:
    with pytest.raises(ValidationError, match=r"outside its frame of 64 x 48"):
        detections(Box(label="car", x1=1, y1=2, x2=90, y2=40))
    with pytest.raises(ValidationError, match="outside its frame"):
        GroundTruth(
            source="lab/pi-01/camera",
            frame=new_id(),
            camera="front",
            index=0,
            captured=utc_now(),
            width=64,
            height=48,
            boxes=(Box(label="car", x1=1, y1=2, x2=30, y2=90),),
        )


def test_a_frame_is_a_picture_that_any_viewer_opens_and_knows_its_record() -> None:
    frame = Frame.build(plain_jpeg(), record())
    again = Frame.decode(frame.encode())
    assert again.record == frame.record
    picture = cv2.imdecode(np.frombuffer(frame.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (48, 64, 3)


def test_a_new_record_replaces_the_old_one() -> None:
    first = Frame.build(plain_jpeg(), record(index=1))
    second = Frame.build(first.jpeg, record(index=2))
    assert Frame.decode(second.jpeg).record.index == 2
    assert second.jpeg.count(b"frame/1") == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero bytes"),
        (b"\xff\xd8", "cut off"),
        (b"GIF89a", "a JPEG starts with ffd8"),
        (plain_jpeg(), "no comment segment"),
        (Frame.build(plain_jpeg(), record()).jpeg[:-200], "cut off"),
        (b"\xff\xd8\xff\xfe\xff\xff{}\xff\xd9", "the file ends before"),
    ],
)
def test_what_is_no_frame_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(PayloadError, match=reason):
        Frame.decode(data)


def test_a_record_that_is_too_large_for_a_segment_is_refused() -> None:
    class Wide(FrameRecord):
        note: str = ""

    wide = Wide.model_validate(record().model_dump() | {"note": "x" * 70_000})
    with pytest.raises(PayloadError, match="65533"):
        Frame.build(plain_jpeg(), wide)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_message_or_a_payload_error(data: bytes) -> None:
    for kind in (ServiceState, Detections, Frame):
        try:
            kind.decode(data)
        except PayloadError:
            continue


@given(st.binary(max_size=64), st.integers(0, 400))
def test_a_damaged_frame_is_a_frame_or_a_payload_error(noise: bytes, at: int) -> None:
    whole = Frame.build(plain_jpeg(16, 16), record(width=16, height=16)).jpeg
    try:
        Frame.decode(whole[:at] + noise + whole[at + len(noise) :])
    except PayloadError:
        return


def test_the_split_holds_out_whole_blocks_and_a_quarter_of_the_frames() -> None:
    splits = [split_of("front", index) for index in range(800)]
    assert splits.count("holdout") == 200
    changes = sum(a != b for a, b in itertools.pairwise(splits))
    assert changes <= 2 * 10 + 1
    assert split_of("front", 3) == split_of("front", 3)
