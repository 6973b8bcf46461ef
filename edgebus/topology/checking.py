"""Check of a topology before anything starts: services are installed and take their settings."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from edgebus.service import SettingsError, UnknownServiceError, load_service, load_settings
from edgebus.topology.topology import Topology, TopologyError, fill_placeholders, node_configs

_ANY_URL = "mqtt://localhost:1883"
# What stands for values that only a run knows; every one fits where a path or a time does.
_PLACEHOLDERS = {"run": "run", "assets": "assets", "start": "0"}


def check_services(topology: Topology, *, source: str) -> None:
    """Check that every service is installed and takes its settings.

    A process that cannot start reports it too, but only after broker and set-up have run, and only
    the first of them.

    Args:
        topology: What is to run.
        source: The file that it came from, or what stands for it.

    Raises:
        TopologyError: All mistakes at once, by their place in the topology.
    """
    tree = fill_placeholders(topology.model_dump(exclude_unset=True), _PLACEHOLDERS)
    filled = Topology.parse(tree, source=source)
    configs = node_configs(filled, url=filled.broker.url or _ANY_URL, data=Path("data"))
    environment = {**os.environ, **filled.environment}
    problems: list[str] = []
    with TemporaryDirectory(prefix="edgebus-") as folder:
        for node, config in configs.items():
            services, unknown = _installed(node, list(filled.nodes[node]))
            problems += unknown
            known = {
                key: value for key, value in config.items() if not _absent(key, filled, services)
            }
            path = Path(folder) / f"{node}.yaml"
            path.write_text(yaml.safe_dump(known, sort_keys=False))
            for service in services:
                problems += _mistakes(node, service, path, environment)
    if problems:
        raise TopologyError(source=source, problems=list(dict.fromkeys(problems)))


def _absent(key: str, topology: Topology, services: list[str]) -> bool:
    """Whether a key of a node's file is the section of a service that is not installed."""
    named = {name for parts in topology.nodes.values() for name in parts}
    return key in named and key not in services and key not in topology.node_settings


def _installed(node: str, names: list[str]) -> tuple[list[str], list[str]]:
    found: list[str] = []
    problems: list[str] = []
    for name in names:
        try:
            load_service(name)
        except UnknownServiceError as error:
            problems.append(f"nodes.{node}.{name}: {error}")
        else:
            found.append(name)
    return found, problems


def _mistakes(node: str, service: str, path: Path, environment: dict[str, str]) -> list[str]:
    try:
        load_settings(service, config=path, environment=environment)
    except SettingsError as error:
        return [
            f"{_place(node, service, problem.key)}: {problem.reason}"
            + ("" if problem.origin == str(path) else f" ({problem.origin})")
            for problem in error.problems
        ]
    return []


def _place(node: str, service: str, key: str) -> str:
    """Place in the topology of a key of a node's file."""
    own = key == service or key.startswith(f"{service}.")
    return f"nodes.{node}.{key}" if own else f"node_settings.{key}"
