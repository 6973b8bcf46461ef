from __future__ import annotations

from pathlib import Path

import pytest

from edgebus.topology import Topology, TopologyError, node_configs, override

TOPOLOGY = Topology.parse(
    {
        "nodes": {
            "edge-1": {"camera": {"fps": 8}, "detector": {}},
            "edge-2": {"detector": {"threshold": 0.2}},
        }
    },
    source="test",
)


def test_settings_reach_a_service_everywhere_a_node_or_the_topology() -> None:
    changed = override(
        TOPOLOGY,
        [
            "detector.threshold=0.3",
            "edge-1.camera.fps=4",
            "edge-2.detector.engine.threads=1",
            "until.seconds=5",
            "environment={A: b}",
        ],
    )
    assert changed.nodes["edge-1"] == {"camera": {"fps": 4}, "detector": {"threshold": 0.3}}
    assert changed.nodes["edge-2"]["detector"] == {"threshold": 0.3, "engine": {"threads": 1}}
    assert changed.until is not None
    assert changed.until.seconds == 5
    assert changed.environment == {"A": "b"}
    assert TOPOLOGY.nodes["edge-1"]["camera"] == {"fps": 8}


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("detektor.threshold=1", "did you mean detector?"),
        ("threshold", "is not KEY=VALUE"),
        ("a..b=1", "is not KEY=VALUE"),
        ("until.secnods=5", "did you mean seconds?"),
        ("xyz.a=1", "known: edge-1, edge-2"),
    ],
)
def test_settings_that_fit_nothing_tell_what_would(pair: str, words: str) -> None:
    with pytest.raises(TopologyError) as caught:
        override(TOPOLOGY, [pair])
    assert words in str(caught.value)


def test_a_nodes_file_is_what_would_lie_on_a_device(tmp_path: Path) -> None:
    configs = node_configs(TOPOLOGY, url="mqtt://127.0.0.1:1", data=tmp_path)
    assert configs["edge-1"]["node"] == "edge-1"
    assert configs["edge-1"]["camera"] == {"fps": 8}
    assert configs["edge-2"]["broker"]["version"] == "3.1.1"
    assert configs["edge-1"]["data_dir"] != configs["edge-2"]["data_dir"]
