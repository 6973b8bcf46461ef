"""A recording holds what was said, byte for byte, for any MCAP reader."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.ImageAnnotations_pb2 import ImageAnnotations
from foxglove_schemas_protobuf.PointsAnnotation_pb2 import PointsAnnotation
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from mcap.reader import make_reader

from edgebus.bus import RawMessage
from edgebus.contracts import topics
from edgebus.contracts.registry import all_messages
from edgebus.recording import (
    Recording,
    RecordingExistsError,
    RecordingUnreadableError,
    RecordingWriteError,
    RecordingWriter,
)
from edgebus.recording import writer as writer_module
from edgebus.recording._encoding import DRAWN, json_schema
from edgebus_detection.messages import CAMERA_FRAME, DETECTIONS
from recording_examples import (
    CAMERA,
    DETECTOR,
    detections,
    frame,
    frame_message,
    later,
    message,
    state_message,
)


def write(path: Path, *messages: RawMessage, **options: object) -> RecordingWriter:
    writer = RecordingWriter(path, **options)  # type: ignore[arg-type]
    for item in messages:
        writer.add(item)
        writer.spill()
    writer.finish({"dropped": "0"})
    return writer


def detection_message(at: float = 0.1) -> RawMessage:
    said = detections(frame(0).record, at=at)
    name = DETECTIONS.at(DETECTOR, camera="front").name
    return message(name, said.encode(), at=at + 0.001)


MANY = [
    state_message(retained=True),
    frame_message(0, at=0.01),
    detection_message(0.1),
    state_message(at=0.2, word="degraded"),
    message("zigbee2mqtt/lamp", b'{"on": true}', at=0.3),
    message("weather/temperature", b"21.5", at=0.4, content_type="text/plain"),
    message("edgebus/lab/gpu/distributor/blocks/ab/0", bytes(range(256)) * 8, at=0.5, qos=1),
    message(topics.SERVICE_STATE.at(DETECTOR).name, b"", at=0.6, qos=1),
    message(DETECTIONS.at(DETECTOR, camera="front").name, b"{broken", at=0.7),
    message("door/picture", b"\xff\xd8\xff\xe0 a third party's", at=0.8),
    message("list", b"[1, 2]", at=0.9),
]


def test_everything_comes_back_byte_for_byte(tmp_path: Path) -> None:
    write(tmp_path / "all.mcap", *MANY)
    recording = Recording(tmp_path / "all.mcap")
    found = list(recording)
    assert recording.trouble is None
    assert [(m.topic, m.payload, m.qos) for m in found] == [
        (m.topic, m.payload, m.qos) for m in MANY
    ]
    assert [m.retained for m in found] == [m.retained for m in MANY]
    assert [m.logged // 1000 for m in found] == [round(m.received.timestamp() * 1e6) for m in MANY]
    assert found[5].content_type == "text/plain"


def test_what_the_broker_keeps_is_known_from_the_contracts_or_from_the_flag(
    tmp_path: Path,
) -> None:
    write(tmp_path / "all.mcap", *MANY, message("third/party", b"x", retained=True))
    kept = {m.topic for m in Recording(tmp_path / "all.mcap") if m.retain}
    assert kept == {topics.SERVICE_STATE.at(DETECTOR).name, "third/party"}


def test_the_mcap_library_reads_it_and_the_schemas_describe_it(tmp_path: Path) -> None:
    write(tmp_path / "all.mcap", *MANY, notes={"filters": "edgebus/#"})
    with (tmp_path / "all.mcap").open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        summary = reader.get_summary()
        assert summary is not None
        assert summary.statistics is not None
        drawn = [channel for channel in summary.channels.values() if DRAWN in channel.metadata]
        assert len(drawn) == 1  # the one set of detections that can be read
        assert summary.statistics.message_count == len(MANY) + len(drawn)
        assert [m.metadata for m in reader.iter_metadata()] == [
            {"filters": "edgebus/#"},
            {"dropped": "0"},
        ]
        checked = 0
        for schema, channel, body in reader.iter_messages():
            if schema is not None and schema.encoding == "jsonschema":
                assert channel.message_encoding == "json"
                Draft202012Validator(json.loads(schema.data)).validate(json.loads(body.data))
                checked += 1
        assert checked == 3


def test_a_picture_is_a_foxglove_compressed_image(tmp_path: Path) -> None:
    write(tmp_path / "one.mcap", frame_message(3, at=1.0))
    with (tmp_path / "one.mcap").open("rb") as file:
        [(schema, channel, body)] = list(make_reader(file).iter_messages())
    assert schema is not None
    assert (schema.name, schema.encoding) == ("foxglove.CompressedImage", "protobuf")
    assert channel.message_encoding == "protobuf"
    # The schema stands alone: a reader that knows no Foxglove schema can be built from it.
    pool = DescriptorPool()
    for part in FileDescriptorSet.FromString(schema.data).file:
        pool.Add(part)
    described = pool.FindMessageTypeByName(schema.name)
    assert [field.name for field in described.fields] == ["timestamp", "frame_id", "data", "format"]
    image = CompressedImage.FromString(body.data)
    assert image.format == "jpeg"
    assert image.frame_id == "front"
    assert image.timestamp.ToNanoseconds() == round(later(0.99).timestamp() * 1e6) * 1000
    assert image.data.startswith(b"\xff\xd8\xff\xfe")
    # Sent and received.
    assert body.publish_time == round(later(1.0).timestamp() * 1e6) * 1000
    assert body.log_time == round(later(1.002).timestamp() * 1e6) * 1000


def test_detections_lie_over_the_picture_of_the_same_time(tmp_path: Path) -> None:
    picture = frame(3, at=1.0)
    seen = detections(picture.record, at=1.1)
    topic = DETECTIONS.at(DETECTOR, camera="front").name
    write(
        tmp_path / "one.mcap",
        frame_message(3, at=1.0),
        message(topic, seen.encode(), at=1.2),
    )
    with (tmp_path / "one.mcap").open("rb") as file:
        found = {
            schema.name: (schema, channel, body)
            for schema, channel, body in make_reader(file).iter_messages()
            if schema
        }
    schema, channel, body = found["foxglove.ImageAnnotations"]
    assert channel.topic == f"{topic}/annotations"
    pool = DescriptorPool()
    for part in FileDescriptorSet.FromString(schema.data).file:
        pool.Add(part)
    assert pool.FindMessageTypeByName(schema.name).fields_by_name["points"].is_repeated
    drawn = ImageAnnotations.FromString(body.data)
    image = CompressedImage.FromString(found["foxglove.CompressedImage"][2].data)
    # Viewers bring both together by it.
    assert drawn.timestamp == image.timestamp
    (box,), (outline,), (text,) = seen.boxes, drawn.points, drawn.texts
    assert [(point.x, point.y) for point in outline.points] == [
        (box.x1, box.y1),
        (box.x2, box.y1),
        (box.x2, box.y2),
        (box.x1, box.y2),
    ]
    assert outline.type == PointsAnnotation.LINE_LOOP
    assert text.text == f"{box.label} {box.score:.2f}"
    # Nobody has sent it, so nobody reads it back.
    assert [each.topic for each in Recording(tmp_path / "one.mcap")] == [
        CAMERA_FRAME.at(CAMERA, camera="front").name,
        topic,
    ]


@pytest.mark.parametrize("identifier", sorted(all_messages()))
def test_embedded_schemas_name_one_type_per_field(identifier: str) -> None:
    schema = json.loads(json_schema(all_messages()[identifier]))
    Draft202012Validator.check_schema(schema)
    assert schema["type"] == "object"
    assert '"null"' not in json.dumps(schema)


@given(topic=st.text(min_size=1, max_size=50), payload=st.binary(max_size=300), qos=st.booleans())
def test_any_message_survives(tmp_path_factory, topic: str, payload: bytes, qos: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "any.mcap"
    path.unlink(missing_ok=True)
    topic = topic.encode(errors="replace").decode()
    write(path, message(topic, payload, qos=int(qos)))
    [found] = list(Recording(path))
    assert (found.topic, found.payload, found.qos) == (topic, payload, int(qos))


def test_an_existing_file_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    path = tmp_path / "one.mcap"
    write(path, *MANY)
    with pytest.raises(RecordingExistsError, match="--force"):
        RecordingWriter(path)
    write(path, MANY[0], overwrite=True)
    assert len(list(Recording(path))) == 1


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecordingWriteError, match="No such file"):
        RecordingWriter(tmp_path / "nowhere" / "one.mcap")


@pytest.mark.parametrize(("data", "said"), [(b"", "empty"), (b"PK\x03\x04 a zip", "starts with")])
def test_what_is_no_recording_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "no.mcap"
    path.write_bytes(data)
    with pytest.raises(RecordingUnreadableError, match=said):
        Recording(path)
    with pytest.raises(RecordingUnreadableError, match="No such file"):
        Recording(tmp_path / "missing.mcap")


def sealed(path: Path, chunks: int) -> bytes:
    """A file of several chunks of one frame each, and one state."""
    writer = RecordingWriter(path)
    for index in range(chunks):
        writer.add(frame_message(index, at=index, padding=5000))
        writer.seal()
        writer.spill()
    writer.finish()
    return path.read_bytes()


def test_a_file_without_its_end_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "cut.mcap"
    whole = sealed(path, 10)
    counts = set()
    for length in range(8, len(whole), 101):
        path.write_bytes(whole[:length])
        recording = Recording(path)
        counts.add(len(list(recording)))
        assert recording.trouble is not None
        assert "cut off" in recording.trouble
    assert counts == set(range(11))


def test_a_damaged_chunk_is_left_out_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "damaged.mcap"
    whole = bytearray(sealed(path, 10))
    place = whole.index(b"zstd", len(whole) // 3) + 60
    whole[place] ^= 0xFF
    path.write_bytes(whole)
    recording = Recording(path)
    assert len(list(recording)) == 9
    assert recording.trouble is not None
    assert "damaged" in recording.trouble
    assert "9 messages were read" in recording.trouble


@given(damage=st.lists(st.tuples(st.integers(8, 60_000), st.integers(0, 255)), max_size=5))
def test_no_damage_raises_anything(tmp_path_factory, damage: list[tuple[int, int]]) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.mcap"
    path.unlink(missing_ok=True)
    whole = bytearray(sealed(path, 3))
    for place, value in damage:
        # Not in the magic bytes: then it is no recording at all.
        whole[8 + place % (len(whole) - 8)] = value
    path.write_bytes(whole)
    assert len(list(Recording(path))) <= 3


def test_a_full_disk_leaves_whole_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "full.mcap"
    writer = RecordingWriter(path)
    room = 20_000
    really = os.write

    def write_some(file: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = min(room, len(data), 4096)
        room -= taken
        return really(file, data[:taken])

    monkeypatch.setattr(os, "write", write_some)
    with pytest.raises(RecordingWriteError, match="No space left") as caught:  # noqa: PT012
        for index in range(100):
            writer.add(frame_message(index, padding=5000))
            writer.seal()
            writer.spill()
    monkeypatch.undo()
    writer.abandon()
    recording = Recording(path)
    assert len(list(recording)) == caught.value.messages > 0
    assert recording.trouble is not None


def test_a_device_that_is_full_from_the_start() -> None:
    writer = RecordingWriter(Path("/dev/full"), overwrite=True)
    writer.add(MANY[0])
    with pytest.raises(RecordingWriteError, match="No space left on device; Make room"):
        writer.finish()


def test_memory_holds_one_chunk(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path / "long.mcap")
    most = 0
    for index in range(300):
        writer.add(frame_message(index, padding=20_000))
        most = max(most, writer.pending)
        if writer.pending:
            writer.spill()
    assert most < 2 * writer_module.CHUNK_BYTES
    writer.finish()


def test_more_topics_than_mcap_can_number_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "MAX_CHANNELS", 3)
    writer = write(tmp_path / "many.mcap", *(message(f"t/{n}", b"x") for n in range(5)))
    assert (writer.messages, writer.channels, writer.left_out) == (3, 3, 2)
    assert len(list(Recording(tmp_path / "many.mcap"))) == 3


def test_a_recording_without_a_message_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.mcap"
    writer = RecordingWriter(path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    writer.seal()
    with pytest.raises(RecordingWriteError, match="No space left on device; Make room") as caught:
        writer.spill()
    monkeypatch.undo()
    writer.abandon()
    assert str(path) in str(caught.value)
    assert not path.exists()
