from __future__ import annotations

from pathlib import Path

import pytest

from dataset_examples import coco, picture, write
from edgebus.topology import TopologyError
from edgebus.training.settings import TriggerSettings
from edgebus_detection.datasets import SourceError
from edgebus_detection.lab.compose import (
    Sources,
    camera_name,
    check_files,
    compose,
    little_data,
    why_not_learning,
)
from edgebus_detection.lab.user_models import UserModels


def sources(tmp_path: Path, *names: str, **changes: object) -> Sources:
    for name in names:
        if not name.startswith("rtsp") and not name.isdecimal():
            (tmp_path / name).touch()
    given = [name if "://" in name or name.isdecimal() else str(tmp_path / name) for name in names]
    own = {name: changes.pop(name) for name in ("teacher", "untrainable") if name in changes}
    models = UserModels(served=tmp_path / "model", name="m", **own)  # type: ignore[arg-type]
    return Sources(sources=given, models=models, **changes)  # type: ignore[arg-type]


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
def test_what_cannot_learn_serves_and_collects_until_ctrl_c(
    tmp_path: Path, changes: dict[str, str], words: str
) -> None:
    given = sources(tmp_path, "a.mp4", **changes)
    assert words in why_not_learning(given)
    topology = compose(given, name="own")
    assert sorted(topology.nodes["edge-1"]) == ["camera", "collector", "detector"]
    trigger = TriggerSettings.model_validate(topology.nodes["cloud"]["retrainer"]["trigger"])
    assert not trigger.starts_by_itself
    assert topology.until is None


def test_a_folder_may_carry_its_own_labels(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "pictures"
    folder.mkdir(parents=True)
    models = UserModels(served=tmp_path, name="m", classes=("person", "car"))
    given = Sources(sources=[str(folder)], models=models)
    assert why_not_learning(given) == ""
    view = compose(given, name="own").nodes["edge-1"]["camera"]["cameras"]["pictures"]
    # Its own class names count: numbers do not mean those of the model.
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


def test_too_little_data_is_told_before_anything_runs(tmp_path: Path) -> None:
    for number in range(4):
        picture(tmp_path / "few" / f"{number}.png")
    write(tmp_path / "few" / "annotations.json", coco("0.png"))
    models = UserModels(served=tmp_path, name="m", classes=("person", "car"))
    given = Sources(sources=[str(tmp_path / "few")], models=models, replay=tmp_path / "few")
    sources, replay = little_data(given)
    assert "show 4 different pictures" in sources
    assert "bring 150 or more" in sources
    assert "has 1 labelled pictures" in replay
    assert "bring 40 or more" in replay
    assert little_data(Sources(sources=["a.mp4"], models=models)) == []
    models = UserModels(served=tmp_path, name="m", classes=("kite",))
    with pytest.raises(SourceError, match="none of the model's classes"):
        little_data(Sources(sources=["a.mp4"], models=models, replay=tmp_path / "few"))
