"""The loop on a real recording, run as a user types it, and judged by somebody else.

    python benchmarks/real_video.py --data DATA --out FOLDER [--folds 0 1 2 3]

Each fold runs `edgebus up` on the same video under another camera name, so that other blocks of
frames are held out (`split_of`); with four folds every frame is held out once. Afterwards the first
and the last bundle of each run answer, through ONNX Runtime,

* the frames that this run held out, against labels that the loop never saw: those of a third and
  larger model (yolov8m; its boxes below 0.4 and of other classes are ignored), and
* pictures of another data set that the loop never saw either (coco128 val).

The frames of all folds together give one AP50 before and one after. Figures go to `real.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgebus.artifacts import Bundle, Store
from edgebus.contracts import split_of
from edgebus.serving import EngineSettings
from edgebus_detection.datasets import LabelBuilder, read_folder
from edgebus_detection.messages import Box
from edgebus_detection.metrics import MapResult, mean_average_precision
from edgebus_detection.models import DetectionModel
from edgebus_detection.vision import Detected, Truth

CLASSES = ("person", "bicycle", "car")
"""What there is to see in the recording."""

_ACCEPT = 0.4
_LOWEST = 0.01


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model said of some pictures, and what was right."""

    said: list[Detected]
    right: list[Truth]

    def measure(self, names: Sequence[str]) -> MapResult:
        """Measure all of them together."""
        return mean_average_precision(self.said, self.right, names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """One run of the loop."""

    camera: str
    closed: bool
    outcome: str
    seconds: float
    training_s: float
    jobs: int
    samples: int
    update_bytes: int
    bytes_up: int
    bytes_down: int
    frames: int
    boxes: int
    map50_before: float
    map50_after: float
    other_map50_before: float
    other_map50_after: float
    gate: dict[str, list[float]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all folds and print the table."""
    options = _options(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    labels = read_labels(options.labels)
    frames = read_video(options.video, every=3)
    folds: list[Fold] = []
    pooled: dict[str, Answers] = {name: Answers([], []) for name in ("before", "after")}
    for number in options.folds:
        camera = camera_of_fold(number)
        run = Path(options.out / camera / "latest").resolve()
        if not (options.keep and (run / "summary.json").exists()):
            run = run_loop(options, camera, seed=number)
        old, new = bundles_of(run)
        answers = {
            name: answer(bundle, frames, labels, camera=camera)
            for name, bundle in (("before", old), ("after", new))
        }
        for name, part in answers.items():
            pooled[name].said.extend(part.said)
            pooled[name].right.extend(part.right)
        others = [answer_folder(bundle, options.other) for bundle in (old, new)]
        folds.append(summarise(run, camera, answers, others))
        print(json.dumps(asdict(folds[-1])), flush=True)
    results = {name: part.measure(CLASSES) for name, part in pooled.items()}
    report = {
        "folds": [asdict(fold) for fold in folds],
        "frames": results["after"].images,
        "boxes": results["after"].boxes,
        "map50": {name: round(result.map50, 4) for name, result in results.items()},
        "map": {name: round(result.map, 4) for name, result in results.items()},
        "per_class": {
            label: [round(results[name].per_class[label], 4) for name in ("before", "after")]
            for label in CLASSES
            if label in results["before"].per_class
        },
        "other_map50": {
            "before": round(folds[0].other_map50_before, 4),
            "after": round(statistics.median(fold.other_map50_after for fold in folds), 4),
            "after_each": [round(fold.other_map50_after, 4) for fold in folds],
        },
        "cores": os.cpu_count(),
    }
    (options.out / "real.json").write_text(json.dumps(report, indent=1) + "\n")
    print_table(report)
    return 0


def camera_of_fold(number: int) -> str:
    """A camera name whose held-out blocks begin at the `number`-th of four."""
    candidate = 0
    while True:
        name = f"car-park-{candidate}"
        if all(split_of(name, 20 * block) == "holdout" for block in (number, number + 4)):
            return name
        candidate += 1


def run_loop(options: argparse.Namespace, camera: str, *, seed: int) -> Path:
    """`edgebus up` as a user types it; returns the run's folder."""
    out = options.out / camera
    out.mkdir(parents=True, exist_ok=True)
    # The camera is named after its file.
    video = out / f"{camera}{options.video.suffix}"
    if not video.exists():
        video.symlink_to(options.video.resolve())
    command = [sys.executable, "-m", "edgebus.cli", "up", "--plain", "--out", str(out)]
    command += ["--source", str(video), "--model", str(options.model)]
    command += ["--teacher", str(options.teacher), "--replay", str(options.replay)]
    command += ["--classes", ",".join(CLASSES)]
    command += ["--set", f"retrainer.train.seed={seed}"]
    command += ["--set", f"until.timeout_s={options.timeout}"]
    for pair in options.set or ():
        command += ["--set", pair]
    with (out / "output.txt").open("w") as output:
        subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
    return Path(out / "latest").resolve()


def bundles_of(run: Path) -> tuple[Bundle, Bundle]:
    """The bundle that the edge began with, and the one that it ended on."""
    data = run / "data" / "edge-1" / "detector"
    current = json.loads((data / "current.json").read_bytes())["current"]["digest"]
    return Bundle.open(run / "model"), Store(data / "store").open_bundle(current)


def read_labels(path: Path) -> dict[int, list[tuple[str, float, Box]]]:
    """MOT text with scores and COCO's class numbers, by frame from 0."""
    coco = ("person", "bicycle", "car")
    found: dict[int, list[tuple[str, float, Box]]] = defaultdict(list)
    for line in path.read_text().splitlines():
        frame, _, x, y, width, height, score, kind = (float(part) for part in line.split(",")[:8])
        label = coco[int(kind)] if int(kind) < len(coco) else "other"
        x1, y1 = max(0.0, x), max(0.0, y)
        box = Box(label=label, x1=x1, y1=y1, x2=x + width, y2=y + height)
        found[int(frame) - 1].append((label, score, box))
    return dict(found)


def read_video(path: Path, *, every: int) -> dict[int, Any]:
    """One frame in `every`, by number: those that were labelled."""
    capture = cv2.VideoCapture(str(path))
    frames: dict[int, Any] = {}
    number = 0
    while True:
        good, image = capture.read()
        if not good:
            return frames
        if number % every == 0:
            frames[number] = image
        number += 1


def answer(
    bundle: Bundle,
    frames: dict[int, Any],
    labels: dict[int, list[tuple[str, float, Box]]],
    *,
    camera: str,
) -> Answers:
    """What a bundle says of the frames that its camera held out."""
    model = DetectionModel.load(bundle, EngineSettings(threads=1))
    answers = Answers([], [])
    for number, image in sorted(frames.items()):
        if split_of(camera, number) != "holdout":
            continue
        found, _ = model.detect(image, threshold=_LOWEST)
        answers.said.append(_only(found, model.classes))
        answers.right.append(_truth(labels.get(number, [])))
    return answers


def answer_folder(bundle: Bundle, folder: Path) -> float:
    """mAP50 over a labelled folder, all classes."""
    model = DetectionModel.load(bundle, EngineSettings(threads=1))
    pictures = read_folder(folder, LabelBuilder(model.classes)).pictures
    answers = Answers([], [])
    for picture in pictures:
        found, _ = model.detect(np.asarray(cv2.imread(str(picture.path))), threshold=_LOWEST)
        answers.said.append(found)
        answers.right.append(picture.truth)
    return answers.measure(model.classes).map50


def _only(found: Detected, classes: Sequence[str]) -> Detected:
    """Detections of the recording's classes, numbered as in `CLASSES`."""
    numbers = {classes.index(name): at for at, name in enumerate(CLASSES)}
    kept = np.array([int(label) in numbers for label in found.labels], bool)
    labels = np.array([numbers[int(label)] for label in found.labels[kept]], np.int64)
    return Detected(found.boxes[kept], found.scores[kept], labels)


def _truth(rows: list[tuple[str, float, Box]]) -> Truth:
    sure = [(label, box) for label, score, box in rows if score >= _ACCEPT and label in CLASSES]
    unsure = [box for label, score, box in rows if score < _ACCEPT or label not in CLASSES]
    return Truth(
        _corners([box for _, box in sure]),
        np.array([CLASSES.index(label) for label, _ in sure], np.int64),
        _corners(unsure),
    )


def _corners(boxes: list[Box]) -> Any:
    rows = [[box.x1, box.y1, box.x2, box.y2] for box in boxes]
    return np.array(rows, np.float32).reshape(-1, 4)


def summarise(run: Path, camera: str, answers: dict[str, Answers], others: list[float]) -> Fold:
    """One fold's figures."""
    summary = json.loads((run / "summary.json").read_text())
    jobs = summary["trainings"]
    accepted = [job for job in jobs if job["outcome"] == "accepted"]
    last = (accepted or jobs or [{}])[-1]
    before, after = (answers[name].measure(CLASSES) for name in ("before", "after"))
    gate = last.get("gate") or {}
    return Fold(
        camera=camera,
        closed=summary["closed"],
        outcome=summary["outcome"],
        seconds=summary["seconds"]["total"],
        training_s=round(sum(last.get("seconds", {}).values()), 1),
        jobs=len(jobs),
        samples=last.get("samples", 0),
        update_bytes=last.get("update_bytes", 0),
        bytes_up=summary["bytes"]["up"],
        bytes_down=summary["bytes"]["down"],
        frames=after.images,
        boxes=after.boxes,
        map50_before=round(before.map50, 4),
        map50_after=round(after.map50, 4),
        other_map50_before=round(others[0], 4),
        other_map50_after=round(others[1], 4),
        gate={
            domain["name"]: [domain["figures"]["mAP50"][end] for end in ("before", "after")]
            for domain in gate.get("domains", ())
        },
    )


def print_table(report: dict[str, Any]) -> None:
    """The figures, for people."""
    print(f"\nheld-out frames of all folds: {report['frames']} frames, {report['boxes']} boxes")
    print(f"{'':24}{'before':>8}{'after':>8}")
    for name, (before, after) in _rows(report):
        print(f"{name:24}{before:8.3f}{after:8.3f}")
    for fold in report["folds"]:
        print(
            f"{fold['camera']}: AP50 {fold['map50_before']:.3f} -> {fold['map50_after']:.3f} on "
            f"{fold['boxes']} boxes; coco128 val {fold['other_map50_after']:.3f}; "
            f"{fold['seconds']:.0f} s, {fold['jobs']} jobs, update {fold['update_bytes']} B, "
            f"up {fold['bytes_up'] / 1e6:.1f} MB, down {fold['bytes_down'] / 1e3:.1f} kB; "
            f"{fold['outcome']}"
        )


def _rows(report: dict[str, Any]) -> Iterator[tuple[str, tuple[float, float]]]:
    yield "AP50", (report["map50"]["before"], report["map50"]["after"])
    for label, pair in report["per_class"].items():
        yield f"  {label}", (pair[0], pair[1])
    yield "mAP .50:.95", (report["map"]["before"], report["map"]["after"])
    yield "coco128 val, mAP50", (report["other_map50"]["before"], report["other_map50"]["after"])


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the test data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, choices=range(4), nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--keep", action="store_true", help="measure runs that are there again")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for one loop")
    parser.add_argument("--set", action="append", help="passed on to edgebus up")
    options = parser.parse_args(arguments)
    data: Path = options.data.resolve()
    name = "person-bicycle-car-detection"
    options.out = options.out.resolve()
    options.video = data / "videos" / f"{name}.mp4"
    options.labels = data / "videos" / f"{name}.teacher-yolov8m.txt"
    options.model = data / "models" / "yolox_nano_416.onnx"
    options.teacher = data / "models" / "yolov8s_640_f16w.onnx"
    options.replay = data / "datasets" / "coco128" / "images" / "train2017"
    options.other = data / "datasets" / "coco128" / "images" / "val2017"
    return options


if __name__ == "__main__":
    sys.exit(main())
