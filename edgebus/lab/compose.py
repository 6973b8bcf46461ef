"""A topology from the command line: sources, a model, a teacher; and settings over any topology."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from edgebus.lab.topology import Topology, TopologyError, Tree

__all__ = ["Sources", "compose", "override"]

_FIRST_JOB = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What the user brought.

    Attributes:
        sources: Videos, folders, addresses of cameras or numbers of USB cameras.
        model: Folder of the bundle that the edges serve first.
        model_name: The bundle's name.
        teacher: Larger model that labels, an ONNX file or a bundle's folder.
        replay: Labelled pictures of what the model must not forget.
        truths: Files with true boxes of the sources, in the same order.
        fps: Frames per second of every camera; the source's own by default.
        seconds: Run for this long instead of until the loop is closed.
        forever: Run until Ctrl-C.
        min_samples: Samples that start a training job.
    """

    sources: Sequence[str]
    model: Path
    model_name: str
    teacher: Path | None = None
    replay: Path | None = None
    truths: Sequence[Path] = ()
    fps: float | None = None
    seconds: float | None = None
    forever: bool = False
    min_samples: int = _FIRST_JOB


def compose(given: Sources, *, name: str) -> Topology:
    """One edge node per source, and a cloud node.

    Raises:
        TopologyError: A source's file is missing, or there are more truths than sources.
    """
    problems = [
        f"source {source}: no such file or folder"
        for source in given.sources
        if not is_live(source) and source != "scene" and not Path(source).exists()
    ]
    problems += [
        f"{what} {path}: no such file or folder"
        for what, path in (("teacher", given.teacher), ("replay", given.replay))
        if path is not None and not path.exists()
    ]
    if len(given.truths) > len(given.sources):
        problems.append(f"{len(given.truths)} truths for {len(given.sources)} sources")
    if problems:
        raise TopologyError(source="command line", problems=problems)
    nodes: Tree = {}
    for number, source in enumerate(given.sources):
        view: Tree = {"source": source if is_live(source) else _absolute(source)}
        if given.fps is not None:
            view["fps"] = given.fps
        if number < len(given.truths):
            view["truth"] = str(given.truths[number].resolve())
        nodes[f"edge-{number + 1}"] = {
            "camera": {"cameras": {camera_name(source, number, given.sources): view}},
            "detector": {"bundle": str(given.model.resolve())},
            "collector": {},
        }
    retrainer: Tree = {
        "model": given.model_name,
        "bundle": str(given.model.resolve()),
        "trigger": {"min_samples": given.min_samples},
        "labels": {"teacher": str(given.teacher.resolve())} if given.teacher else {},
    }
    if given.replay is not None:
        retrainer["replay"] = str(given.replay.resolve())
    else:
        # Nothing to measure forgetting on.
        retrainer["gate"] = {"require_old": False}
    nodes["cloud"] = {
        "distributor": {"publish": [str(given.model.resolve())]},
        "retrainer": retrainer,
        "telemetry": {"csv": {"folder": "{run}/csv"}},
    }
    tree: Tree = {"name": name, "site": "lab", "nodes": nodes, "node_settings": {"heartbeat_s": 2}}
    if given.seconds is not None:
        tree["until"] = {"seconds": given.seconds}
    elif not given.forever and not any(is_live(source) for source in given.sources):
        tree["until"] = {"loop": "closed", "after_frames": 120}
    return Topology.parse(tree, source="command line")


def is_live(source: str) -> bool:
    """Whether a source is a camera with its own clock."""
    return "://" in source or source.isdecimal()


def camera_name(source: str, number: int, sources: Sequence[str]) -> str:
    """A name that can be a topic level: the file's, or ``cam-1``."""
    if is_live(source):
        return f"cam-{number + 1}"
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(source).stem).strip("-")[:48]
    if not name or [Path(other).stem for other in sources].count(Path(source).stem) > 1:
        return f"{name or 'cam'}-{number + 1}"
    return name


def _absolute(source: str) -> str:
    return source if source == "scene" else str(Path(source).resolve())


def override(topology: Topology, pairs: Iterable[str], *, known: Sequence[str] = ()) -> Topology:
    """Apply ``key=value`` pairs.

    A key is dotted and begins with a field of the topology (``until.timeout_s``), a node
    (``edge-1.camera.fps``) or a service, which means it on every node (``detector.threshold``).

    Args:
        topology: To start from.
        pairs: From the command line; values are YAML.
        known: Names of the installed services, for the error message.

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
            problems.append(f"--set {pair!r} is not KEY=VALUE")
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
            near = difflib.get_close_matches(path[0], [*names, *known], n=1)
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
