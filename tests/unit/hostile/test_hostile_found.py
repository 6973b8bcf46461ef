"""What fuzzing and trying found, one test each, so that it stays closed."""

from __future__ import annotations

import json
import re
import struct
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from pydantic import ValidationError

from edgebus.artifacts import (
    Bundle,
    BundleError,
    BundleFormatError,
    BundleLimitError,
    BundleTensorError,
)
from edgebus.artifacts.graph import inspect_graph
from edgebus.contracts import (
    BlockRange,
    Identity,
    NameRefusedError,
    PayloadError,
    ServiceState,
    check_segment,
    rfc3339,
    utc_now,
)
from edgebus.inspect import as_json, as_line
from edgebus.mining.near_duplicates import NearDuplicates
from edgebus.service import NodeSettings, ServiceSettings, SettingsError, load_settings
from edgebus.service.identity import folder_lock
from edgebus.service.yamltext import YamlTextError, read_yaml
from edgebus.topology import Topology, TopologyError
from edgebus.transfer import BlockSender
from edgebus_collector.joining import Joiner
from edgebus_detection.messages import Frame, FrameRecord
from edgebus_detection.models.testing import tiny_bundle, tiny_onnx
from edgebus_detection.vision import encode_jpeg

PLAIN = encode_jpeg(np.full((48, 64, 3), 90, np.uint8))


def state(**changes: object) -> bytes:
    fields: dict[str, Any] = {
        "source": "lab/pi-01/x",
        "state": "ready",
        "session": 1,
        "instance": "a",
        "since": "2026-11-22T10:00:00Z",
        "version": "1",
    }
    return json.dumps(fields | changes).encode()


def record() -> FrameRecord:
    return FrameRecord(
        source="lab/pi-01/camera", camera="front", index=1, captured=utc_now(), width=64, height=48
    )


# Numbers and times


@pytest.mark.parametrize(
    "instant",
    [
        "0001-01-01T00:00:00+23:59",  # before the year 1 in UTC: an OverflowError once
        "9999-12-31T23:59:59-23:59",
        "0999-06-01T00:00:00Z",  # came out with three digits once, which nobody reads
        "1969-12-31T23:59:59Z",
        "2200-01-01T00:00:00Z",
    ],
)
def test_instants_that_no_clock_shows_are_refused_with_the_way_out(instant: str) -> None:
    with pytest.raises(PayloadError, match="between 1970 and 2200; set the sender's clock"):
        ServiceState.decode(state(since=instant))


def test_a_clock_that_was_never_set_is_still_heard() -> None:
    assert ServiceState.decode(state(since="1970-01-01T00:00:09Z")).since.year == 1970
    assert rfc3339(datetime(1970, 1, 1, tzinfo=UTC)) == "1970-01-01T00:00:00.000000Z"


@pytest.mark.parametrize("number", [2**53, 10**30, 10**400, -1])
def test_integers_that_do_not_fit_every_reader_are_refused(number: int) -> None:
    with pytest.raises(PayloadError, match="session"):
        ServiceState.decode(state(session=number))
    assert ServiceState.decode(state(session=2**53 - 1)).session == 2**53 - 1


def test_an_error_does_not_repeat_a_long_setting(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text(f"site: lab\nnode: pi-01\nbroker: {{url: {'x' * 70_000}}}\n")
    with pytest.raises(SettingsError, match="write mqtt://host:port") as refused:
        load_settings("camera", config=file, environment={})
    assert len(str(refused.value)) < 1000


def test_an_error_does_not_repeat_a_long_name() -> None:
    with pytest.raises(NameRefusedError) as refused:
        check_segment("x" * 100_000)
    assert len(str(refused.value)) < 300
    assert len(refused.value.value) == 100_000
    odd = {"counters": {"k" * 100_000: "no number"}, "uptime_s": 1, "schema": "metrics/1"}
    with pytest.raises(PayloadError) as invalid:
        ServiceState.decode(json.dumps(odd | {"state": "y" * 100_000}).encode())
    assert len(str(invalid.value)) < 2000


@pytest.mark.parametrize("name", [".", ".."])
def test_a_name_that_is_a_way_up_on_the_disk_is_refused(name: str) -> None:
    with pytest.raises(NameRefusedError, match="means a folder"):
        check_segment(name)
    assert check_segment("...") == "..."


# Pictures


def claiming(width: int, height: int) -> bytes:
    """A small JPEG whose frame header says another size."""
    at = PLAIN.index(b"\xff\xc0") + 5
    return PLAIN[:at] + struct.pack(">HH", height, width) + PLAIN[at + 4 :]


def test_a_picture_of_another_size_than_its_record_never_reaches_a_decoder() -> None:
    with pytest.raises(PayloadError, match="8000 x 8000, its record says 64 x 48"):
        Frame.build(claiming(8000, 8000), record())
    with pytest.raises(PayloadError, match="65500 x 65500 pixels; at most 67108864"):
        Frame.build(claiming(65500, 65500), record())
    whole = Frame.build(PLAIN, record()).jpeg
    at = whole.index(b"\xff\xc0") + 5
    with pytest.raises(PayloadError, match="128 x 96, its record says 64 x 48"):
        Frame.decode(whole[:at] + struct.pack(">HH", 96, 128) + whole[at + 4 :])


def test_a_picture_that_would_fill_the_memory_is_refused_although_its_record_agrees() -> None:
    large = record().model_copy(update={"width": 16384, "height": 16384})
    with pytest.raises(PayloadError, match="at most 67108864 are accepted"):
        Frame.build(claiming(16384, 16384), large)


@pytest.mark.parametrize("filler", [b"\xff", b"\xff\xd0", b"\xff\xe0\x00\x02"])
def test_a_million_markers_are_refused_after_some(filler: bytes) -> None:
    whole = Frame.build(PLAIN, record()).jpeg
    began = time.process_time()
    with pytest.raises(PayloadError, match="more than 4096 markers"):
        Frame.decode(whole[:2] + filler * 1_000_000 + whole[2:])
    assert time.process_time() - began < 1.0


def test_a_frame_header_that_is_cut_off_is_refused() -> None:
    broken = b"\xff\xd8\xff\xc0\x00\x04\x08\x00\xff\xda\x00\x02\xff\xd9"
    with pytest.raises(PayloadError, match="frame header is cut off"):
        Frame.build(broken, record())
    with pytest.raises(PayloadError, match="no frame header"):
        Frame.build(b"\xff\xd8\xff\xda\x00\x02\xff\xd9", record())


# Graphs and blocks


def test_a_graph_with_bytes_for_text_is_refused() -> None:
    data = tiny_onnx().SerializeToString().replace(b"planes", b"pl\xff\xfees")
    with pytest.raises(BundleFormatError, match="no UTF-8"):
        inspect_graph(data)


@pytest.mark.parametrize("offset", ["9" * 5000, "-1", "1_0", " 1", "٣", ""])
def test_an_offset_that_is_no_plain_number_is_refused(offset: str) -> None:
    model = tiny_onnx()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "weights.safetensors"), ("offset", offset), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    with pytest.raises(BundleTensorError) as refused:
        inspect_graph(model.SerializeToString())
    assert isinstance(refused.value, BundleError)
    assert refused.value.tensor == tensor.name


def test_asking_a_thousand_times_for_the_same_blocks_costs_no_more_than_once() -> None:
    sender = BlockSender()
    wanted = [BlockRange(first=0, count=65536)] * 1024 + [BlockRange(first=3, count=2)]
    began = time.process_time()
    assert sender.want("0" * 64, wanted, size=65536 * 65536, now=0.0) == 65536
    assert time.process_time() - began < 5.0  # it took a minute once
    assert sender.waiting == 65536
    assert sender.stats.coalesced == 1023 * 65536 + 2
    assert sender.stats.wanted == sender.stats.coalesced + 65536


# What tools show


@pytest.mark.parametrize("depth", [900, 100_000])
def test_json_as_deep_as_a_well_can_be_shown(depth: int) -> None:
    payload = b"[" * depth + b"]" * depth
    assert as_line("third/party", payload)
    assert json.loads(as_json("third/party", payload, {}))["size"] == 2 * depth


def test_half_a_surrogate_pair_can_be_shown() -> None:
    shown = as_json("third/party", b'{"name": "\\ud800"}', {})
    shown.encode()  # a terminal takes it
    assert json.loads(shown)["payload"] == {"name": "\ud800"}
    as_line("third/party", b'{"name": "\\ud800"}').encode()


# YAML


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &a [x]\nb: &b [*a]\n" + "c: &c [*b, *c]\n", "holds itself by an alias"),
        ("[" * 60 + "]" * 60, "nests deeper than 50"),
        ("[" * 5000, "nests deeper than 50"),
        ("site: 2026-13-45", "does not fit its type"),
        ("site: !!int x", "does not fit its type"),
        ("site: !!timestamp x", "does not fit its type"),
        ("site: !!bool maybe", "does not fit its type"),
        ("site: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("? {a: b}\n: c", "a key is a list or a mapping"),
        ("site: lab\nsite: lab", "'site' is there twice (line 2, column 1)"),
        ("site: lab\0", "#x0000"),
        ("password: hunter2\n\tsite: x", "line 2, column 1"),
    ],
)
def test_yaml_that_nobody_should_have_to_read(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(YamlTextError) as refused:
        read_yaml(text)
    assert words in str(refused.value)
    assert "hunter2" not in str(refused.value)
    path = tmp_path / "node.yaml"
    path.write_text(text)
    with pytest.raises(TopologyError, match="is no YAML"):
        Topology.load(path)
    with pytest.raises(SettingsError, match="is no YAML"):
        load_settings("some", config=path, environment={}, settings_type=ServiceSettings)


def test_aliases_of_aliases_do_not_explode() -> None:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(YamlTextError, match="more than 100000 values by aliases"):
        read_yaml("\n".join(lines))


def test_aliases_that_save_typing_are_welcome() -> None:
    text = "base: &c {fps: 5}\nnodes: {a: {camera: *c}, b: {camera: {<<: *c, loop: no}}}"
    tree = read_yaml(text)
    assert tree["nodes"] == {
        "a": {"camera": {"fps": 5}},
        "b": {"camera": {"fps": 5, "loop": False}},
    }
    assert read_yaml("") is None


def test_a_topology_says_a_key_once(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text("nodes:\n  a: {camera: {}}\n  a: {detector: {}}\n")
    with pytest.raises(TopologyError, match=r"'a' is there twice \(line 3, column 3\)"):
        Topology.load(path)


# Settings


def test_a_pair_without_a_key_does_not_show_its_password() -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(
            "some",
            environment={},
            overrides=["=mqtt://user:hunter2@broker"],
            settings_type=ServiceSettings,
        )
    assert "hunter2" not in str(refused.value)
    assert "mqtt://***@broker" in str(refused.value)


def test_a_data_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with (
        pytest.raises(SettingsError, match=r"data_dir .*Not a directory; choose a folder"),
        folder_lock(
            NodeSettings(data_dir=file), Identity(site="lab", node="pi-01", service="camera")
        ),
    ):
        pytest.fail("it was held")


def test_a_value_nested_beyond_reason_is_named() -> None:
    with pytest.raises(SettingsError, match=r"broker \(command line\): is nested too deeply"):
        load_settings(
            "some",
            environment={},
            overrides=["broker=" + "[" * 100_000],
            settings_type=ServiceSettings,
        )


def test_bounds_hold_for_who_builds_a_message_too() -> None:
    with pytest.raises(ValidationError, match="less than or equal"):
        BlockRange(first=2**53, count=1)


# Bundles and names in words


def test_a_bundle_that_is_no_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nowhere is no folder; check the path"):
        Bundle.open(tmp_path / "nowhere")


def test_a_file_that_grew_is_compared_with_its_index(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "tiny")
    weights = tmp_path / "tiny" / "weights.safetensors"
    weights.chmod(0o644)
    with weights.open("r+b") as file:
        file.truncate(5 * 2**30)  # takes no room on the disk
    size = bundle.index.file("weights.safetensors").size
    with pytest.raises(BundleLimitError, match=f"has 5368709120 bytes, more than the {size} of"):
        Bundle.open(tmp_path / "tiny")


def test_a_wrong_name_in_the_settings_is_said_once() -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(
            "some", environment={}, overrides=["node=pi+1"], settings_type=ServiceSettings
        )
    assert str(refused.value) == (
        "node (command line): name 'pi+1' holds '+', which MQTT or NATS keeps for itself; use '-'"
    )


# The page


def test_every_test_that_the_page_names_is_there() -> None:
    root = Path(__file__).resolve().parents[3]
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (root / "docs/bad-input.md").read_text())
    assert len(named) > 20
    for file, name in named:
        (path,) = (root / "tests").rglob(file)
        assert f"def {name}(" in path.read_text(), f"{file} has no {name}"


def test_cameras_that_are_only_names_do_not_fill_the_memory() -> None:
    joiner = Joiner(inputs=4, size=10**6)
    frames = [record().model_copy(update={"camera": f"c{number}"}) for number in range(1000)]
    for item in frames:
        joiner.add_input(Frame.build(PLAIN, item))
    assert len(joiner.streams) == joiner.pending == 256
    assert joiner.expired == 1000 - 256
    same = NearDuplicates(distance=0, memory=2)
    value = np.zeros(4, np.uint64)
    for number in range(2000):
        same.remember(f"c{number}", value)
    assert not same.seen("c0", value)
    assert same.seen("c1999", value)
