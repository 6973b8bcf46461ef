"""A topology from the command line: sources, a model, a teacher."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgebus.addresses import public_address
from edgebus.topology import Topology, TopologyError, Tree
from edgebus.training.settings import GateSettings
from edgebus_detection.datasets import LabelBuilder, read_folder
from edgebus_detection.datasets.files import pictures_below
from edgebus_detection.lab.user_models import UserModels

_FIRST_JOB = 150
_MEASURED = 480
"""Frames of each camera that the new model answers before the end: a pass of most recordings."""
_PATIENCE_S = 1800.0
"""Seconds after which a recording ends whose candidates are all refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Sources and models of the command line.

    Attributes:
        sources: Videos, folders, lists of both, addresses of cameras or numbers of USB cameras.
        models: The bundles that the edges serve first and that labels.
        classes: Classes of the labels; others are ignored. Empty: all classes of the model.
        replay: Labelled pictures that the model must not forget.
        truths: Files with true boxes of the sources, in the same order.
        fps: Frames per second of every camera; the source's own by default.
        forever: Run until Ctrl-C.
        min_samples: Samples that start a training job.
    """

    sources: Sequence[str]
    models: UserModels
    classes: Sequence[str] = ()
    replay: Path | None = None
    truths: Sequence[Path] = ()
    fps: float | None = None
    forever: bool = False
    min_samples: int = _FIRST_JOB


def check_files(
    sources: Sequence[str], *, truths: Sequence[Path] = (), replay: Path | None = None
) -> None:
    """See that everything named on the command line is there.

    Raises:
        TopologyError: Something is missing, or there are more truths than sources.
    """
    problems = [
        f"--source {source}: no such file or folder"
        for source in sources
        if not is_live(source) and source != "scene" and not Path(source).exists()
    ]
    named = [("truth", path) for path in truths]
    named += [("replay", replay)] if replay is not None else []
    problems += [
        f"--{what} {path}: no such file or folder" for what, path in named if not path.exists()
    ]
    if len(truths) > len(sources):
        problems.append(f"{len(truths)} --truth for {len(sources)} --source")
    if problems:
        raise TopologyError(source="command line", problems=problems)


def why_not_learning(given: Sources) -> str:
    """Why this run cannot learn, with the way out; empty where the loop can close."""
    if given.models.untrainable:
        return f"{given.models.name} cannot be trained ({given.models.untrainable})"
    unlabelled = [
        source for number, source in enumerate(given.sources) if not _labelled(given, number)
    ]
    if given.models.teacher is None and len(unlabelled) == len(given.sources):
        return (
            f"nobody can label what {public_address(unlabelled[0])} shows; give --teacher, a "
            "larger model, or --truth"
        )
    return ""


def little_data(given: Sources) -> list[str]:
    """What is too little for the loop to close, with what is needed.

    Raises:
        SourceError: The replay folder cannot be read, or knows none of the model's classes.
    """
    found: list[str] = []
    needed = GateSettings().min_items
    folders = [Path(source) for source in given.sources if _is_folder(source)]
    if len(folders) == len(given.sources):
        count = sum(len(pictures_below(folder)) for folder in folders)
        # A quarter is held out; a picture that comes again is no new sample.
        if count < max(given.min_samples, 4 * needed):
            found.append(
                f"the sources show {count} different pictures; a job is started by "
                f"{given.min_samples} samples (--samples), and measured on {needed} of those that "
                f"are held out, a quarter: bring {max(given.min_samples, 4 * needed)} or more"
            )
    if given.replay is not None:
        read = read_folder(given.replay, LabelBuilder(given.models.classes))
        held = sum(picture.label_count > 0 for picture in read.split("holdout"))
        if held < needed:
            found.append(
                f"--replay {given.replay} has {len(read.pictures)} labelled pictures, {held} of "
                f"those that are held out with objects of the model; forgetting is measured on "
                f"{needed}, so no candidate passes: bring {4 * needed} or more"
            )
    return found


def compose(given: Sources, *, name: str) -> Topology:
    """One edge node per source, and a cloud node, which only stores where it cannot learn.

    Raises:
        TopologyError: Something is missing, or there are more truths than sources.
    """
    check_files(given.sources, truths=given.truths, replay=given.replay)
    learns = not why_not_learning(given)
    nodes: Tree = {}
    for number, source in enumerate(given.sources):
        nodes[f"edge-{number + 1}"] = _edge(given, number, source)
    nodes["cloud"] = {
        "distributor": {"publish": [str(given.models.served.resolve())]},
        "telemetry": {"csv": {"folder": "{run}/csv"}},
        # Without learning too: it stores the samples, to be looked at, labelled and exported.
        "retrainer": _retrainer(given, learns=learns),
    }
    tree: Tree = {
        "name": name,
        "site": "lab",
        "nodes": nodes,
        "node_settings": {"heartbeat_s": 2},
        # A detector and a trainer on the same few cores: nobody may take threads for itself.
        "environment": {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    }
    if learns and not given.forever and not any(is_live(source) for source in given.sources):
        tree["until"] = {"loop": "closed", "after_inputs": _MEASURED, "timeout_s": _PATIENCE_S}
    return Topology.parse(tree, source="command line")


def _edge(given: Sources, number: int, source: str) -> Tree:
    view: Tree = {"source": source if is_live(source) else _absolute(source)}
    if given.fps is not None:
        view["fps"] = given.fps
    if number < len(given.truths):
        view["truth"] = str(given.truths[number].resolve())
    services: Tree = {
        "camera": {"cameras": {camera_name(source, number, given.sources): view}},
        "detector": {"bundle": str(given.models.served.resolve())},
    }
    services["collector"] = _collector(source, labelled=_labelled(given, number))
    return services


def _collector(source: str, *, labelled: bool) -> Tree:
    """Settings for minutes in front of a terminal; the defaults are for a device's months."""
    settings: Tree = {
        # Every held-out frame: the gate needs pictures that show something, and few do.
        "holdout_share": 1.0,
        "budget": {"samples_per_minute": 120, "holdout_share": 0.4},
        "drift": {},
    }
    if not labelled:
        # Without truth no policy knows what was missed. Strange pictures and doubt are hints, and
        # a tenth of the frames that raise neither shows what the model is blind to. (`expected`,
        # the default, finds more per sample, and spends its few over days.)
        settings["policies"] = {"novelty": {}, "confidence": {}, "margin": {}}
        settings["combine"] = "any"
        settings["audit_share"] = 0.1
    if not is_live(source):
        # A recording repeats: what was sent in its first pass is of no use in the next.
        settings["duplicate_memory"] = 2000
    return settings


def _retrainer(given: Sources, *, learns: bool) -> Tree:
    retrainer: Tree = {
        "model": given.models.name,
        "bundle": str(given.models.served.resolve()),
        # The model was made elsewhere: there is no old domain in what these cameras show.
        "new_domain": "everything",
        "trigger": _trigger(given) if learns else {"min_samples": None, "on_drift": False},
        "options": {"labels": {}},
    }
    if given.models.teacher is not None:
        retrainer["options"]["labels"]["teacher"] = str(given.models.teacher.resolve())
    if given.classes:
        retrainer["options"]["labels"]["classes"] = list(given.classes)
    if given.replay is not None:
        retrainer["replay"] = str(given.replay.resolve())
    else:
        # Nothing to measure forgetting on.
        retrainer["gate"] = {"require_old": False}
    return retrainer


def _trigger(given: Sources) -> Tree:
    # The user has set the number: a drift does not start a job on fewer.
    trigger: Tree = {"min_samples": given.min_samples, "drift_samples": given.min_samples}
    if not any(is_live(source) for source in given.sources):
        # A short recording may never have so many samples to give.
        trigger["interval_s"] = 180
    return trigger


def _labelled(given: Sources, number: int) -> bool:
    """Whether a source may bring ground truth."""
    source = given.sources[number]
    return number < len(given.truths) or source == "scene" or _is_folder(source)


def _is_folder(source: str) -> bool:
    return not is_live(source) and source != "scene" and Path(source).is_dir()


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
