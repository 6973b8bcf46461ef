"""How a message looks on a terminal."""

import json

import pytest

from edgebus.contracts import ModelRef, topics, utc_now
from edgebus.contracts.registry import topic_of
from edgebus.inspect import as_json, as_line, human_bytes
from edgebus_detection.messages import DETECTIONS, Box, Detections, Frame, FrameRecord

NOW = utc_now()
FRAME = FrameRecord(
    source="lab/pi/camera", camera="front", index=7, captured=NOW, width=64, height=48
)
# Start of image, a frame header, a scan header, end of image: all that the record's place needs.
PLAIN_JPEG = bytes.fromhex("ffd8 ffc0000b080030004001011100 ffda0008010100003f00 00 ffd9")
SEEN = Detections(
    source="lab/pi/detector",
    frame=FRAME.id,
    camera="front",
    index=7,
    width=64,
    height=48,
    boxes=(Box(label="car", x1=1, y1=2, x2=30, y2=40, score=0.512),),
    model=ModelRef(name="yolox", version=3, digest="ab" * 32),
    captured=NOW,
    sent=NOW,
    received=NOW,
    detected=NOW,
)


@pytest.mark.parametrize(
    ("name", "topic"),
    [
        ("edgebus/lab/pi/detector/front/detections", DETECTIONS),
        ("edgebus/lab/pi/detector/state", topics.SERVICE_STATE),
        ("edgebus/lab/gpu/retrainer/store", topics.STORE_STATUS),
        ("edgebus/lab/pi/detector/cmd/retrain", topics.CMD_RETRAIN),
        ("edgebus/lab/pi/detector/cmd/unheard-of", None),
        ("zigbee2mqtt/lamp", None),
    ],
)
def test_the_most_exact_topic_is_found(name: str, topic: object) -> None:
    assert topic_of(name) is topic


def test_a_message_shows_its_schema_and_fields() -> None:
    line = as_line("edgebus/lab/pi/detector/front/detections", SEEN.encode())
    assert line.startswith("detections/1 ")
    assert "index=7" in line
    assert "boxes=[car 0.51]" in line
    assert SEEN.id not in line


def test_a_jpeg_shows_its_record_and_size() -> None:
    frame = Frame.build(PLAIN_JPEG, FRAME)
    line = as_line("edgebus/lab/pi/camera/front/frame", frame.encode())
    assert line.startswith(f"frame/1 JPEG {len(frame.jpeg)} B ")
    assert "camera=front index=7" in line


@pytest.mark.parametrize(
    ("name", "payload", "line"),
    [
        ("edgebus/lab/pi/detector/state", b"", "(cleared)"),
        ("edgebus/lab/pi/camera/front/frame", b"x", "not a frame/1 payload: starts with 78"),
        ("edgebus/lab/pi/detector/state", b"{", "not a state/1 payload"),
        ("edgebus/lab/pi/detector/blocks/" + "a" * 64 + "/0", bytes(70_000), "70.0 kB"),
        ("zigbee2mqtt/lamp", b'{"state": "ON"}', '{"state": "ON"}'),
        ("zigbee2mqtt/lamp", b"on", "on"),
        ("zigbee2mqtt/lamp", b"\xff\xfe", "2 B"),
        ("zigbee2mqtt/lamp", b"a\x1b[31mred", "9 B"),
    ],
)
def test_anything_can_be_shown(name: str, payload: bytes, line: str) -> None:
    assert as_line(name, payload).startswith(line)


def test_a_long_line_is_cut() -> None:
    assert len(as_line("else", b"x" * 5000)) == 160


def test_json_has_the_payload_and_the_circumstances() -> None:
    name = "edgebus/lab/pi/detector/front/detections"
    body = json.loads(as_json(name, SEEN.encode(), {"retained": False}))
    assert body["topic"] == name
    assert body["retained"] is False
    assert body["schema"] == "detections/1"
    assert body["payload"]["boxes"][0]["label"] == "car"
    broken = json.loads(as_json(name, b"{}", {}))
    assert "payload" not in broken
    assert "frame: Field required" in broken["error"]
    frame = Frame.build(PLAIN_JPEG, FRAME)
    body = json.loads(as_json("edgebus/lab/pi/camera/front/frame", frame.encode(), {}))
    assert body["payload"]["camera"] == "front"
    assert body["size"] == len(frame.jpeg)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2.5e9, "2.5 GB")]
)
def test_sizes(count: float, text: str) -> None:
    assert human_bytes(count) == text
