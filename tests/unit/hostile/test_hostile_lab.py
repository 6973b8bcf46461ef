"""A topology with mistakes: all of them are named, by their place, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgebus.cli import main
from edgebus.topology import Topology, TopologyError, check_services

ASSETS = Path(__file__).parents[3] / "workloads" / "edgebus_detection" / "lab" / "assets"

WRONG = """\
node_settings: {heartbeat: 2}
nodes:
  a:
    camera: {camera: {}}
    detecter: {}
  b:
    detector: {model: street, treshold: 0.3}
    camera: {cameras: {fr+ont: {}}}
"""


def test_every_mistake_is_named_with_its_place_and_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(WRONG)
    with pytest.raises(TopologyError) as refused:
        check_services(Topology.load(path), source=str(path))
    assert str(refused.value).startswith(f"{path}: ")
    problems = refused.value.problems
    assert len(problems) == 5
    for words in (
        "nodes.a.detecter: no service 'detecter' is installed (did you mean detector?)",
        "nodes.a.camera.camera: unknown key; did you mean cameras?",
        "nodes.b.detector.treshold: unknown key; did you mean threshold?",
        "nodes.b.camera.cameras.fr+ont: name 'fr+ont' holds '+'",
        "node_settings.heartbeat: unknown key; did you mean heartbeat_s?",
    ):
        assert any(problem.startswith(words) for problem in problems), words


def test_nothing_starts_and_no_folder_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.yaml"
    path.write_text("nodes: {a: {detecter: {}}}\n")
    with pytest.raises(SystemExit) as ended:
        main(["up", str(path), "--out", str(tmp_path / "runs")])
    assert ended.value.code == 2
    assert "did you mean detector?" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_an_environment_variable_of_the_topology_is_named(tmp_path: Path) -> None:
    tree = {
        "environment": {"EDGEBUS_DETECTOR__TRESHOLD": "0.3"},
        "nodes": {"a": {"detector": {"model": "street"}}},
    }
    with pytest.raises(TopologyError, match=r"EDGEBUS_DETECTOR__TRESHOLD"):
        check_services(Topology.parse(tree, source="test"), source="test")


def test_the_demo_has_no_mistakes() -> None:
    check_services(Topology.load(ASSETS / "demo.yaml"), source="demo.yaml")
