"""Settings from the command line, put over any topology."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from edgebus.addresses import hide_argument
from edgebus.topology.topology import Topology, TopologyError, Tree


def override(topology: Topology, pairs: Iterable[str]) -> Topology:
    """Apply ``key=value`` pairs.

    A key is dotted and begins with a field of the topology (``until.timeout_s``), a node
    (``edge-1.server.batch``) or a service, which means it on every node (``server.threshold``).

    Args:
        topology: To start from.
        pairs: From the command line; values are YAML.

    Raises:
        TopologyError: A pair is no pair, or nothing has its name.
    """
    tree: Tree = copy.deepcopy(topology.model_dump(exclude_unset=True))
    nodes: dict[str, Tree] = tree["nodes"]
    problems: list[str] = []
    for pair in pairs:
        key, equals, text = pair.partition("=")
        path = key.strip().split(".")
        if not equals or not all(path):
            problems.append(f"--set {hide_argument(pair)!r} is not KEY=VALUE")
            continue
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        services = sorted({name for parts in nodes.values() for name in parts})
        if path[0] in nodes and len(path) > 1:
            targets = [nodes[path[0]]]
            path = path[1:]
        elif path[0] in services and len(path) > 1:
            targets = [parts for parts in nodes.values() if path[0] in parts]
        elif path[0] in Topology.model_fields:
            targets = [tree]
        else:
            names = [*nodes, *services, *Topology.model_fields]
            near = difflib.get_close_matches(path[0], names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
            problems.append(f"--set {key}: this topology has no {path[0]}; {hint}")
            continue
        for target in targets:
            _put(target, path, value)
    if problems:
        raise TopologyError(source="command line", problems=problems)
    return Topology.parse(tree, source="command line")


def _put(tree: Tree, path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        below = tree.get(part)
        if not isinstance(below, dict):
            below = tree[part] = {}
        tree = below
    tree[path[-1]] = value
