"""The published settings: an editor accepts what EdgeBus reads, and every key is explained."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from edgebus.schema import settings_page, settings_schema, topology_schema
from edgebus.service import NodeSettings, SettingsError, find_services, load_settings
from edgebus.topology import Topology, TopologyError
from packages import pretend_package
from program import clean_environment

ROOT = Path(__file__).resolve().parents[3]
NODE = Draft202012Validator(settings_schema())
TOPOLOGY = Draft202012Validator(topology_schema())


# What has no default, or must be said in one of two ways.
NEEDED = {
    "detector": ("detector.model=street",),
    "retrainer": ("retrainer.model=street",),
    "server": ("server.workload=detection", "server.model=street"),
}


def test_both_are_valid_2020_12() -> None:
    for validator in (NODE, TOPOLOGY):
        Draft202012Validator.check_schema(validator.schema)


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("", True),
        ("site: lab\nnode: pi-01\ncamera:", True),
        ("detector: {threshold: 0.3, engine: {threads: 2}}", True),
        ("broker: {url: 'mqtts://a:8883,mqtts://b', password: x, ca_file: ca.pem}", True),
        ("camera: {cameras: {front: {source: 0, drift: [{effect: dusk}]}}}", True),
        ("telemetry: {csv: null, influx: {url: 'http://localhost:8086'}}", True),
        ("retrainer: {trigger: {min_samples: null}, options: {augment: {flip: 0.1}}}", True),
        ("detecter: {threshold: 0.3}", False),
        ("detector: {treshold: 0.3}", False),
        ("detector: {threshold: 3}", False),
        ("detector: {engine: {threads: 0}}", False),
        ("broker: {version: 5}", False),
        ("broker: {keepalive_s: 0}", False),
        ("heartbeat_s: soon", False),
        ("camera: {cameras: {}}", False),
        ("camera: {cameras: {front: {drift: [{effect: rain}]}}}", False),
        ("telemetry: {influx: {}}", False),
        ("log: {level: loud}", False),
    ],
)
def test_an_editor_and_edgebus_agree_on_a_nodes_file(
    text: str, valid: bool, tmp_path: Path
) -> None:
    file = tmp_path / "node.yaml"
    file.write_text(text)
    assert NODE.is_valid(yaml.safe_load(text) or {}) is valid
    try:
        for name in find_services()[0]:
            load_settings(name, config=file, environment={}, overrides=NEEDED.get(name, ()))
        read = True
    except SettingsError:
        read = False
    assert read is valid


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("nodes: {a: {camera: }}", True),
        ("nodes: {a: {camera: {cameras: {x: {start_at: '{start}'}}}}}", True),
        ("nodes: {a: {camera: }}\nsetup: [[module, --n, 5, 0.5]]", True),
        ("nodes: {a: {camera: }}\nbroker: {url: 'mqtt://x'}\nuntil: {seconds: 5}", True),
        ("nodes: {}", False),
        ("site: lab", False),
        ("nodes: {a: {camera: }}\nuntil: {loop: open}", False),
        ("nodes: {a: {camera: }}\nbroker: {port: 70000}", False),
        ("nodes: {a: {camera: }}\nname: [a]", False),
    ],
)
def test_an_editor_and_edgebus_agree_on_a_topology(text: str, valid: bool) -> None:
    tree = yaml.safe_load(text)
    assert TOPOLOGY.is_valid(tree) is valid
    try:
        Topology.parse(tree, source="test")
        read = True
    except TopologyError:
        read = False
    assert read is valid


def test_a_topology_knows_the_services_settings() -> None:
    assert not TOPOLOGY.is_valid({"nodes": {"a": {"camra": {}}}})
    assert not TOPOLOGY.is_valid({"nodes": {"a": {"camera": {"cameras": {"x": {"fps": -1}}}}}})
    assert not TOPOLOGY.is_valid({"nodes": {"a": {"camera": {}}}, "node_settings": {"heart": 1}})


def rows() -> list[list[str]]:
    lines = [line for line in settings_page().splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_page_has_every_setting_with_its_effect() -> None:
    found = {row[0].strip("`"): row for row in rows()}
    for name, kind in [("", NodeSettings)] + [
        (f"{name}.", service.settings_type) for name, service in find_services()[0].items()
    ]:
        for field in kind.model_fields:
            assert f"{name}{field}" in found
    assert [key for key, row in found.items() if not row[4]] == []
    assert [
        key
        for key, row in found.items()
        if key.endswith("_s") and row[2] not in ("s", "1/s", "bytes/s")
    ] == []
    assert [key for key, row in found.items() if key.endswith("bytes") and row[2] != "bytes"] == []


@pytest.mark.parametrize(
    ("key", "kind", "unit", "default"),
    [
        ("data_dir", "path", "", "~/.local/share/BASE/SITE/NODE"),
        ("node", "text", "", "host name"),
        ("broker.password", "secret, or null", "", "`null`"),
        ("broker.keepalive_s", "integer, 1 to 65535", "s", "`30`"),
        ("bus.outbox.overflow", "`refuse`, `drop_oldest`", "", '`"refuse"`'),
        ("camera.cameras.NAME.drift[].to", "number, 0 to 1", "", "`1.0`"),
        ("camera.cameras.NAME.fps", "number > 0 and ≤ 240, or null", "1/s", "`null`"),
        ("telemetry.leave_out", "list of text", "", '`["blockrequest", "progress", "truth"]`'),
        ("telemetry.influx.url", "text", "", "required"),
        ("retrainer.options.augment.flip", "number, 0 to 1", "", "`0.5`"),
        ("collector.policies.margin.min_boxes", "integer ≥ 1", "", "`1`"),
        ("nodes", "mapping", "", "required"),
        ("until.seconds", "number > 0, or null", "s", "`null`"),
    ],
)
def test_rows_say_what_the_settings_are(key: str, kind: str, unit: str, default: str) -> None:
    (row,) = (row for row in rows() if row[0] == f"`{key}`")
    assert row[1:4] == [kind, unit, default]


def test_a_service_of_another_package_is_published_too(tmp_path: Path) -> None:
    pretend_package(
        tmp_path,
        "pipe",
        entry_points={"edgebus.services": {"pipe": "pipe:Pipe"}},
        code='''
from edgebus.service import Service, ServiceSettings

class PipeSettings(ServiceSettings):
    lag_s: float = 0.5
    """Seconds to wait."""

class Pipe(Service[PipeSettings]):
    """Waits."""
    name = "pipe"
''',
    )
    export = subprocess.run(
        [sys.executable, "-m", "edgebus.cli", "schema", "export", tmp_path / "out"],
        env=with_folder(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert export.stderr == ""
    section = json.loads((tmp_path / "out/settings.json").read_text())["properties"]["pipe"]
    assert section["description"] == "Waits."


def with_folder(folder: Path) -> dict[str, str]:
    environment = clean_environment()
    return environment | {"PYTHONPATH": f"{folder}:{environment['PYTHONPATH']}"}


@pytest.mark.parametrize(
    ("group", "named"),
    [
        ("edgebus.services", "service pipe is left out: No module named 'torchless'"),
        ("edgebus.workloads", "workload pipe is left out: ModuleNotFoundError"),
        ("edgebus.topics", "topics pipe:Pipe of pipe are left out: ModuleNotFoundError"),
    ],
)
def test_nothing_is_generated_where_something_cannot_be_imported(
    group: str, named: str, tmp_path: Path
) -> None:
    pretend_package(
        tmp_path, "pipe", entry_points={group: {"pipe": "pipe:Pipe"}}, code="import torchless"
    )
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/generate_schemas.py", "--root", tmp_path / "out"],
        env=with_folder(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert named in done.stderr
    assert "pip install -e '.[all]'" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_export_names_the_service_that_it_leaves_out(tmp_path: Path) -> None:
    pretend_package(
        tmp_path,
        "pipe",
        entry_points={"edgebus.services": {"pipe": "pipe:Pipe"}},
        code="import torchless",
    )
    export = subprocess.run(
        [sys.executable, "-m", "edgebus.cli", "schema", "export", tmp_path / "out"],
        env=with_folder(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "left out: service pipe" in export.stderr
    assert "torchless" in export.stderr
    assert "pipe" not in json.loads((tmp_path / "out/settings.json").read_text())["properties"]
