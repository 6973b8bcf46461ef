"""Attacks on what people write: settings, topologies, environment and command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from edgebus.service import SettingsError, load_settings, service_entry_points
from edgebus.topology import Topology, TopologyError
from tests.soak.making import text
from tests.soak.mutating import mutated_bytes, mutated_json
from tests.soak.target import Target, WrongError, scratch_folder

__all__ = ["settings_targets"]

_NODE: dict[str, Any] = {
    "site": "lab",
    "node": "pi-01",
    "broker": {"url": "mqtts://user:secret@broker:8883", "keepalive_s": 30},
    "heartbeat_s": 5,
    "log": {"level": "info", "format": "console"},
    "camera": {
        "cameras": {
            "front": {
                "source": "scene",
                "fps": 5,
                "drift": [{"effect": "dusk", "start_s": 1, "ramp_s": 2, "to": 0.8}],
            }
        }
    },
    "detector": {"model": "street", "threshold": 0.3, "engine": {"threads": 1}},
    "collector": {"policies": {"confidence": {"threshold": 0.4}}, "spool": {"max_samples": 9}},
    "retrainer": {"model": "street", "trigger": {"min_samples": 12}},
    "distributor": {"keep_versions": 3},
    "telemetry": {"influx": {"url": "http://localhost:8086", "token": "secret"}},
}
_TOPOLOGY: dict[str, Any] = {
    "name": "demo",
    "broker": {"embedded": True, "port": 0},
    "environment": {"OMP_NUM_THREADS": "1"},
    "setup": [["edgebus_camera", "--out", "{here}/day"]],
    "nodes": {"pi-01": {"camera": {"cameras": {"front": {"seed": 1}}}, "detector": None}},
    "node_settings": {"heartbeat_s": 2},
    "until": {"loop": "closed", "timeout_s": 60},
}
_TRICKS = (
    "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nnodes: {n: {camera: {x: *c}}}\n",
    "a: &a [1]\n"
    + "".join(f"a{n}: &a{n} [{'*a' + (str(n - 1) if n else '')}]\n" for n in range(9)),
    "nodes: &n\n  pi-01: {camera: {x: *n}}\n",
    "site: &s [*s]\n",
    "site: 2026-13-45\n",
    "site: 2026-13-45T99:99:99Z\n",
    "site: !!int x\n",
    "site: !!float x\n",
    "site: !!timestamp x\n",
    "site: !!binary '***'\n",
    "site: !!bool maybe\n",
    "site: !!python/object/apply:os.system ['true']\n",
    "? [a, b]\n: c\n",
    "? {a: b}\n: c\n",
    "? 2026-01-01\n: c\n",
    "1: x\n2.5: y\ntrue: z\nnull: w\n",
    "<<: [1, 2]\nsite: lab\n",
    "<<: {site: lab}\nsite: lab\n",
    "site: lab\nsite: lab\n",
    "---\nsite: a\n---\nsite: b\n",
    "\tsite: lab\n",
    "%YAML 9.9\n---\nsite: lab\n",
    "site: lab\x00\n",
    "site: '\\ud800'\n",
    'site: "\\ud800"\n',
    "site: 0b1_0\nnode: 1:30:00\n",
    "[" * 5000,
    "{a: " * 5000,
    "- " * 5000 + "x",
    "site: " + "9" * 5000 + "\n",
    "heartbeat_s: .inf\n",
    "heartbeat_s: .nan\n",
    "=\n",
    "site: =\n",
)


def _bomb(levels: int) -> str:
    """Aliases of aliases: small as text, 10**levels strings when they are followed."""
    lines = ["l0: &l0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    for level in range(1, levels):
        lines.append(f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 10)}]")
    return "\n".join(lines) + f"\nnodes: {{n: {{camera: {{x: *l{levels - 1}}}}}}}\n"


def settings_targets() -> list[Target]:
    """Whatever is written there, the answer is settings, or an error that names the mistake."""
    return [
        Target("settings file", _file(_NODE, _load), share=0.12),
        Target("topology file", _file(_TOPOLOGY, _load_topology), share=0.12),
        Target("settings on the command line", _pairs, share=0.08),
        Target("settings in the environment", _variables, share=0.08),
    ]


def _file(tree: dict[str, Any], load: Callable[[Random, Path], int]) -> Callable[[Random], int]:
    folder = scratch_folder()
    plain = json.dumps(tree, indent=1).encode()

    def attack(random: Random) -> int:
        how = random.random()
        if how < 0.4:
            hostile = mutated_json(random, tree)
        elif how < 0.8:
            hostile = mutated_bytes(random, plain)
        elif how < 0.95:
            hostile = random.choice(_TRICKS).encode(errors="surrogatepass")
        else:
            hostile = _bomb(random.choice((3, 9, 20))).encode()
        path = folder / "node.yaml"
        path.write_bytes(hostile)
        return load(random, path)

    return attack


def _load(random: Random, path: Path) -> int:
    service = random.choice(sorted(service_entry_points()))
    return _try_settings(service, config=path, environment={})


def _load_topology(_random: Random, path: Path) -> int:
    try:
        Topology.load(path)
    except TopologyError as error:
        _check(error, error.problems)
        return 0
    return 1


def _pairs(random: Random) -> int:
    keys = (
        "site",
        "broker.url",
        "broker",
        "heartbeat_s",
        "log.level",
        "detector.threshold",
        "detector.engine.threads",
        "detector.engine",
        "detector",
        "detecter.threshold",
        "a.b.c.d",
        "..",
        "",
        text(random),
    )
    values = (
        "lab",
        "nan",
        "1e999",
        "{",
        "[1,",
        '{"threads": 1}',
        '{"threads": ' + "[" * 3000,
        "9" * 5000,
        "mqtt://user:secret@",
        "\ud800",
        "null",
        text(random),
    )
    pairs = []
    for _ in range(random.randint(1, 3)):
        key, value = random.choice(keys), random.choice(values)
        pairs.append(f"{key}={value}" if random.random() < 0.95 else key)
    return _try_settings("detector", environment={}, overrides=["detector.model=street", *pairs])


def _variables(random: Random) -> int:
    names = ["SITE", "NODE", "BROKER__URL", "BROKER", "DETECTOR__THRESHOLD", "DETECTOR", "X", ""]
    names += ["DETECTOR__ENGINE__THREADS", "DETECTOR__", "__", "LOG__LEVEL__X", "site"]
    values = ("lab", "", "nan", "{", '{"a": 1}', "[" * 3000, "\ud800", "a/b", text(random))
    environment = {"EDGEBUS_DETECTOR__MODEL": "street"}
    for _ in range(random.randint(1, 3)):
        environment["EDGEBUS_" + random.choice(names)] = random.choice(values)
    return _try_settings("detector", environment=environment)


def _try_settings(service: str, **sources: Any) -> int:
    try:
        load_settings(service, **sources)
    except SettingsError as error:
        _check(error, error.problems)
        return 0
    return 1


def _check(error: Exception, problems: Any) -> None:
    words = str(error)
    if not problems:
        msg = "an error without a problem"
        raise WrongError(msg)
    if "secret" in words.replace("no secret", ""):
        msg = f"an error shows a password: {words[:300]}"
        raise WrongError(msg)
    if len(words) > 20_000:
        msg = f"an error of {len(words)} characters"
        raise WrongError(msg)
