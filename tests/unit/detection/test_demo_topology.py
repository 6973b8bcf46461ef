"""The demo's topology and the one in the docs: every setting is one that its service knows."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest
import yaml

from edgebus.service import load_settings
from edgebus.topology import Topology, fill_placeholders, node_configs

ROOT = Path(__file__).resolve().parents[3]
DEMO = Path(str(resources.files("edgebus_detection.lab"))) / "assets" / "demo.yaml"


def documented() -> Topology:
    page = (ROOT / "docs" / "demo.md").read_text()
    match = re.search(r'^```yaml title="topology.yaml"\n(.*?)^```$', page, re.M | re.S)
    assert match is not None
    return Topology.parse(yaml.safe_load(match[1]), source="docs/demo.md")


@pytest.mark.parametrize("topology", [Topology.load(DEMO), documented()], ids=["demo", "docs"])
def test_every_service_takes_its_settings(topology: Topology, tmp_path: Path) -> None:
    values = {"run": str(tmp_path), "assets": str(DEMO.parent), "start": "0", "here": "/"}
    tree = fill_placeholders(topology.model_dump(exclude_unset=True), values)
    filled = Topology.parse(tree, source=topology.name)
    configs = node_configs(filled, url="mqtt://localhost:1", data=tmp_path)
    for node, service in filled.services:
        config = tmp_path / f"{node}.yaml"
        config.write_text(yaml.safe_dump(configs[node]))
        loaded, _settings = load_settings(service, config=config, environment={})
        assert loaded.node == node


def test_the_demos_model_is_there_and_small() -> None:
    files = list((DEMO.parent / "street-day").iterdir())
    assert 0 < sum(file.stat().st_size for file in files) < 4_000_000
