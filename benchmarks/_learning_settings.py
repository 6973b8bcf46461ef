"""Models and settings for the worlds of the benchmark: those of the demo and of `edgebus up`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import edgebus_detection.lab
from edgebus.topology import Topology, fill_placeholders
from edgebus_collector import CollectorSettings
from edgebus_detection.lab.compose import Sources, compose
from edgebus_detection.lab.reference_pictures import with_reference
from edgebus_detection.lab.user_models import UserModels, open_models
from edgebus_retrainer.settings import RetrainerSettings

__all__ = ["CAR_PARK", "brought", "of_demo", "prepare"]

CAR_PARK = "person-bicycle-car-detection.mp4"


def prepare(work: Path, *, data: Path | None) -> None:
    """Make what all worlds share: bundles of the models, and the street's old pictures."""
    work.mkdir(parents=True, exist_ok=True)
    day = work / "day"
    if not (day / "annotations.json").is_file():
        for command in _demo(work).setup:
            subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True)
    if data is not None and not (work / "teacher" / "manifest.json").is_file():
        models = data / "models"
        open_models(
            models / "yolox_nano_416.onnx",
            teacher=models / "yolov8s_640_f16w.onnx",
            folder=work,
            echo=lambda _: None,
        )
    if data is not None:
        _halve_coco(data / "datasets" / "coco128", work / "coco")
        for recorded in (False, True):
            if not (_served(work, recorded=recorded) / "manifest.json").is_file():
                with_reference(
                    work / "model",
                    sources=(_source(data, recorded=recorded),),
                    replay=_replay(data),
                    folder=_served(work, recorded=recorded),
                    echo=lambda _: None,
                )


def of_demo(work: Path) -> tuple[CollectorSettings, RetrainerSettings]:
    nodes = _demo(work).nodes
    return (
        CollectorSettings.model_validate(nodes["edge-1"]["collector"]),
        RetrainerSettings.model_validate(nodes["cloud"]["retrainer"]),
    )


def brought(
    work: Path, data: Path, classes: tuple[str, ...] | None, *, recorded: bool
) -> tuple[CollectorSettings, RetrainerSettings]:
    """What `edgebus up --source … --model … --teacher … --classes … --replay …` sets.

    And a `replay_holdout`, as docs/learning.md has it: the model was trained on COCO's training
    pictures, and on these every change looks like forgetting.
    """
    given = Sources(
        sources=(_source(data, recorded=recorded),),
        models=UserModels(
            served=_served(work, recorded=recorded),
            name="yolox_nano_416",
            teacher=work / "teacher",
        ),
        classes=classes or (),
        replay=_replay(data),
    )
    nodes = compose(given, name="regain").nodes
    return (
        CollectorSettings.model_validate(nodes["edge-1"]["collector"]),
        RetrainerSettings.model_validate(
            nodes["cloud"]["retrainer"] | {"replay_holdout": work / "coco" / "gate" / "images"}
        ),
    )


def _demo(work: Path) -> Topology:
    assets = Path(edgebus_detection.lab.__file__).parent / "assets"
    tree = Topology.load(assets / "demo.yaml").model_dump(exclude_unset=True)
    values = {"run": str(work), "assets": str(assets), "start": "now"}
    return Topology.parse(fill_placeholders(tree, values), source="demo.yaml")


def _source(data: Path, *, recorded: bool) -> str:
    """As on the command line: a recording, or a camera by its number."""
    return str(data / "videos" / CAR_PARK) if recorded else "0"


def _served(work: Path, *, recorded: bool) -> Path:
    """YOLOX-nano, with a reference of what is normal."""
    return work / ("served-recorded" if recorded else "served-live")


def _replay(data: Path) -> Path:
    return data / "datasets" / "coco128" / "images" / "train2017"


def _halve_coco(coco: Path, out: Path) -> None:
    """COCO's validation pictures, one for the gate and one for the judge, in turn."""
    for number, picture in enumerate(sorted((coco / "images" / "val2017").glob("*.jpg"))):
        half = out / ("gate", "judge")[number % 2]
        labels = coco / "labels" / "val2017" / f"{picture.stem}.txt"
        for kind, file in (("images", picture), ("labels", labels)):
            link = half / kind / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if file.exists() and not link.exists():
                link.symlink_to(file)
        names = half / "data.yaml"
        if not names.exists():
            names.symlink_to(coco / "data.yaml")
