from __future__ import annotations

from pathlib import Path

import pytest

from edgebus.lab.run import make_run_folder
from edgebus.topology import Topology, TopologyError, node_configs, override
from edgebus_detection.lab.compose import (
    Sources,
    camera_name,
    check_files,
    compose,
    why_not_learning,
)


def sources(tmp_path: Path, *names: str, **changes: object) -> Sources:
    for name in names:
        if not name.startswith("rtsp") and not name.isdecimal():
            (tmp_path / name).touch()
    given = [name if "://" in name or name.isdecimal() else str(tmp_path / name) for name in names]
    return Sources(
        sources=given,
        model=tmp_path / "model",
        model_name="m",
        **changes,  # type: ignore[arg-type]
    )


def test_one_edge_per_source_and_a_cloud(tmp_path: Path) -> None:
    (tmp_path / "t.onnx").touch()
    topology = compose(
        sources(tmp_path, "street 1.mp4", "rtsp://host/a", "0", teacher=tmp_path / "t.onnx"),
        name="own",
    )
    cameras = [
        (node, name, view["source"])
        for node, parts in topology.nodes.items()
        for name, view in parts.get("camera", {}).get("cameras", {}).items()
    ]
    assert cameras == [
        ("edge-1", "street-1", str(tmp_path / "street 1.mp4")),
        ("edge-2", "cam-2", "rtsp://host/a"),
        ("edge-3", "cam-3", "0"),
    ]
    retrainer = topology.nodes["cloud"]["retrainer"]
    assert retrainer["options"]["labels"] == {"teacher": str(tmp_path / "t.onnx")}
    assert retrainer["gate"] == {"require_old": False}
    assert retrainer["new_domain"] == "everything"
    assert topology.until is None  # live cameras run until Ctrl-C


def test_recordings_run_until_the_loop_is_closed(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    topology = compose(sources(tmp_path, "a.mp4", teacher=teacher), name="own")
    assert topology.until is not None
    assert topology.until.loop == "closed"
    forever = sources(tmp_path, "a.mp4", teacher=teacher, forever=True)
    assert compose(forever, name="own").until is None


def test_without_truth_doubt_and_an_audit_choose_samples(tmp_path: Path) -> None:
    given = sources(
        tmp_path,
        "known.mp4",
        "unknown.mp4",
        "0",
        teacher=tmp_path / "teacher",
        truths=[tmp_path / "known.mp4"],
    )
    nodes = compose(given, name="own").nodes
    known, unknown, live = (nodes[f"edge-{number}"]["collector"] for number in (1, 2, 3))
    assert "policies" not in known
    assert set(unknown["policies"]) == {"novelty", "confidence", "margin"}
    assert unknown["audit_share"] == 0.1
    assert all(collector["drift"] == {} for collector in (known, unknown, live))
    # A recording comes again, a camera does not.
    assert unknown["duplicate_memory"] > 1000
    assert "duplicate_memory" not in live


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"untrainable": "there is no loss for nanodet heads"}, "m cannot be trained"),
        ({}, "nobody can label what"),
    ],
)
def test_what_cannot_learn_serves_until_ctrl_c(
    tmp_path: Path, changes: dict[str, str], words: str
) -> None:
    given = sources(tmp_path, "a.mp4", **changes)
    assert words in why_not_learning(given)
    topology = compose(given, name="own")
    assert sorted(topology.nodes["edge-1"]) == ["camera", "detector"]
    assert "retrainer" not in topology.nodes["cloud"]
    assert topology.until is None


def test_a_folder_may_carry_its_own_labels(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "pictures"
    folder.mkdir(parents=True)
    given = Sources(
        sources=[str(folder)], model=tmp_path, model_name="m", model_classes=("person", "car")
    )
    assert why_not_learning(given) == ""
    view = compose(given, name="own").nodes["edge-1"]["camera"]["cameras"]["pictures"]
    assert view["classes"] == ["person", "car"]
    (tmp_path / "set" / "data.yaml").write_text("names: [dog]")
    view = compose(given, name="own").nodes["edge-1"]["camera"]["cameras"]["pictures"]
    assert "classes" not in view


def test_what_is_missing_is_named_all_at_once() -> None:
    with pytest.raises(TopologyError) as caught:
        check_files(["none.mp4", "0"], truths=[Path("a"), Path("b"), Path("c")], replay=Path("d"))
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "--source none.mp4",
        "--truth a",
        "--truth b",
        "--truth c",
        "--replay d",
        "3 --truth for 2 --source",
    ]


def test_cameras_of_the_same_name_are_told_apart() -> None:
    both = ["a/cam.mp4", "b/cam.mp4", "c/ö.avi"]
    assert [camera_name(source, k, both) for k, source in enumerate(both)] == [
        "cam-1",
        "cam-2",
        "cam-3",
    ]


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


def test_run_folders_never_meet_and_latest_follows(tmp_path: Path) -> None:
    first = make_run_folder(tmp_path, name="demo")
    second = make_run_folder(tmp_path, name="demo")
    assert first != second
    assert (tmp_path / "latest").resolve() == second.resolve()
