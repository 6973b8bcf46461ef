from __future__ import annotations

from pathlib import Path

import pytest

from edgebus.topology import (
    BrokerChoice,
    Topology,
    TopologyError,
    Until,
    fill_placeholders,
)

NODES = {"edge-1": {"camera": {"fps": 8}, "detector": None}}


def parse(**changes: object) -> Topology:
    return Topology.parse({"nodes": NODES} | changes, source="test.yaml")


def problem(**changes: object) -> str:
    with pytest.raises(TopologyError) as caught:
        parse(**changes)
    return str(caught.value)


def test_a_service_without_settings_has_the_defaults() -> None:
    topology = parse()
    assert topology.nodes["edge-1"]["detector"] == {}
    assert topology.services == [("edge-1", "camera"), ("edge-1", "detector")]


def test_numbers_in_set_up_commands_become_words() -> None:
    assert parse(setup=[["edgebus_camera", "--frames", 240]]).setup == (
        ("edgebus_camera", "--frames", "240"),
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"node": {}}, "node: unknown key; did you mean nodes?"),
        ({"broker": {"prot": 1}}, "broker.prot: unknown key; did you mean port?"),
        (
            {"until": {"second": 3, "seconds": 3}},
            "until.second: unknown key; did you mean seconds?",
        ),
        ({"until": {}}, "names no end"),
        ({"until": {"loop": "closed", "seconds": 3}}, "both loop and seconds"),
        ({"broker": {"embedded": True, "url": "mqtt://x"}}, "keep one of the two"),
        ({"broker": {"embedded": False}}, "needs a url"),
        ({"broker": {"version": "5"}}, "3.1.1 only"),
        ({"nodes": {}}, "nodes"),
        ({"nodes": {"edge-1": {}}}, "node edge-1 has no service"),
        ({"nodes": {"edge/1": {"camera": {}}}}, "'/'"),
        ({"nodes": {"edge-1": "camera"}}, "nodes.edge-1"),
        ({"site": "a+b"}, "'+'"),
        ({"until": {"seconds": float("nan")}}, "until.seconds"),
    ],
)
def test_mistakes_tell_the_way_out(changes: dict[str, object], words: str) -> None:
    assert words in problem(**changes)


@pytest.mark.parametrize("tree", [None, [], "nodes"])
def test_no_mapping_is_refused(tree: object) -> None:
    with pytest.raises(TopologyError, match="a topology is a mapping"):
        Topology.parse(tree, source="x")


def test_a_broker_by_url_is_not_embedded_and_speaks_mqtt_5() -> None:
    broker = BrokerChoice(url="mqtt://host")
    assert not broker.embedded
    assert broker.mqtt_version is None
    assert BrokerChoice().mqtt_version == "3.1.1"


def test_until_seconds_alone_is_an_end() -> None:
    assert Until(seconds=3).loop is None


def test_files_are_read_and_know_their_folder(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text("nodes: {n: {camera: {video: '{here}/a.mp4', other: '{x}'}}}")
    assert Topology.load(path).nodes["n"]["camera"] == {
        "video": f"{tmp_path}/a.mp4",
        "other": "{x}",
    }


@pytest.mark.parametrize("text", ["nodes: [", "\t- a: b"])
def test_broken_yaml_names_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(TopologyError, match="is no YAML") as caught:
        Topology.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="cannot be read"):
        Topology.load(tmp_path / "none.yaml")


def test_placeholders_reach_every_string_and_nothing_else() -> None:
    tree = {"a": ["{run}/x", 3, None], "b": ("{runner}",), "{run}": True}
    assert fill_placeholders(tree, {"run": "/r"}) == {
        "a": ["/r/x", 3, None],
        "b": ("{runner}",),
        "{run}": True,
    }
