"""Arrays on the bus: what they carry, and what is refused."""

import json
import struct
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebus.artifacts import ArrayPayload
from edgebus.artifacts.tensors import TensorFile
from edgebus.bus import RawMessage
from edgebus.contracts import Message, PayloadError, Topic
from edgebus.contracts import registry as registry_module
from edgebus.inspect import as_json, as_line
from edgebus.recording import Recording, RecordingWriter


class WindowRecord(Message, version=1, name="window"):
    """What a meter showed for a while."""

    meter: str


class Window(ArrayPayload[WindowRecord]):
    """Readings of a meter."""

    record_type = WindowRecord


WINDOWS = Topic("{node}/{service}/{meter}/window", Window, qos=1, doc="Readings of a meter.")
NAME = "edgebus/lab/pi/meters/roof/window"
MADE = Window(
    arrays={"load": np.arange(6, dtype=np.float32).reshape(2, 3), "at": np.array([1, 2])},
    record=WindowRecord(source="lab/pi/meters", meter="roof"),
)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The topic of this test is one that is known."""
    known = dict(registry_module.all_topics()) | {"WINDOWS": WINDOWS}
    real = registry_module.topic_of
    monkeypatch.setattr("edgebus.recording._encoding.all_topics", lambda: known)
    for place in ("contracts.peek", "inspect.describe", "recording._encoding", "recording._ids"):
        monkeypatch.setattr(
            f"edgebus.{place}.topic_of", lambda name: WINDOWS if name == NAME else real(name)
        )


def test_arrays_and_record_come_back() -> None:
    found = Window.decode(MADE.encode())
    assert found.record == MADE.record
    for name, array in MADE.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
        assert not found.arrays[name].flags.writeable
    assert found.encode() == MADE.encode()
    assert Window.schema_id() == "window/1"


def test_the_bus_stamps_the_record() -> None:
    bare = Window(arrays=MADE.arrays, record=WindowRecord(meter="roof"))
    stamped = bare.stamp({"source": "lab/pi/meters"})
    assert Window.decode(stamped.encode()).record.source == "lab/pi/meters"
    assert stamped.stamp({"source": "someone/else/x"}) is stamped


def test_another_library_reads_it() -> None:
    load = pytest.importorskip("safetensors.numpy").load
    np.testing.assert_array_equal(load(MADE.encode())["load"], MADE.arrays["load"])
    (length,) = struct.unpack_from("<Q", MADE.encode())
    header = json.loads(MADE.encode()[8 : 8 + length])
    assert json.loads(header["__metadata__"]["record"])["meter"] == "roof"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "safetensors"),
        (b"\xff" * 64, "safetensors"),
        (MADE.encode()[:-1], "safetensors"),
        (MADE.encode() + b"\0", "safetensors"),
        (MADE.encode().replace(b'"record"', b'"recard"'), "no 'record'"),
        (MADE.encode().replace(b'meter\\"', b'metre\\"'), "meter: Field required"),
    ],
)
def test_what_is_none_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(PayloadError, match=reason) as refused:
        Window.decode(data)
    assert refused.value.schema == "window/1"


@pytest.mark.parametrize(
    ("name", "shape"),
    [("load", [0, 2**62]), ("load", [0, 2**70]), ("load", [0, *[2**32] * 3]), ("\ud800", [0])],
)
def test_what_numpy_or_a_writer_cannot_have_is_refused(name: str, shape: list[int]) -> None:
    header = {
        "__metadata__": {"record": MADE.record.encode().decode()},
        name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]},
    }
    text = json.dumps(header).encode()
    with pytest.raises(PayloadError, match=r"has a name that is no text|has shape"):
        Window.decode(struct.pack("<Q", len(text)) + text)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 400))
def test_garbage_is_refused_or_read_and_nothing_else(junk: bytes, at: int, cut: int) -> None:
    whole = MADE.encode()
    for data in (junk, whole[:at] + junk + whole[at + cut :], whole[: at % len(whole)]):
        try:
            found = Window.decode(data)
        except PayloadError:
            continue
        assert found.encode()


def test_tools_know_it(registered: None) -> None:
    line = as_line(NAME, MADE.encode())
    assert line.startswith("window/1 safetensors ")
    assert line.endswith("meter=roof")
    assert json.loads(as_json(NAME, MADE.encode(), {}))["payload"]["meter"] == "roof"


def test_a_recording_keeps_it_byte_for_byte_and_knows_when_it_was_sent(
    registered: None, tmp_path
) -> None:
    writer = RecordingWriter(tmp_path / "a.mcap")
    received = datetime(2026, 11, 30, tzinfo=UTC)
    writer.add(RawMessage(NAME, MADE.encode(), 1, False, False, received))
    writer.finish()
    (found,) = Recording(tmp_path / "a.mcap")
    assert found.payload == MADE.encode()
    assert found.content_type == "application/x-safetensors"
    assert found.published // 1000 == round(MADE.record.time.timestamp() * 1e6)
    assert TensorFile.parse(found.payload, file="x").arrays()["at"].tolist() == [1, 2]
