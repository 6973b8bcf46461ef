"""The two stories of docs/guides/tutorial.md: run, measured and drawn.

    python benchmarks/tutorial.py --data DATA --out FOLDER [--story door street]

Each story is one `edgebus up` on a list of recordings: a camera whose view changes. While it runs,
what is said on the bus is recorded, and where feedback belongs to the story, one message of an
operator is sent with `mosquitto_pub`. Afterwards the first and the last bundle answer the frames
that the run held out, against labels that the loop never saw (yolov8m's), and pictures are made.
`--keep` measures and draws a run that is there already. Figures go to `tutorial.json`.

Pictures of LLVIP are not drawn: its licence allows no commercial use, so only boxes are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import benchmarks._tutorial_pictures as drawing  # noqa: E402
from benchmarks._tutorial_run import ACCEPT, STORIES, Story, play  # noqa: E402
from benchmarks.real_video import Answers, answer_folder, bundles_of, read_labels  # noqa: E402
from edgebus.artifacts import Bundle  # noqa: E402
from edgebus.contracts import split_of  # noqa: E402
from edgebus.recording import Recording  # noqa: E402
from edgebus.serving import EngineSettings  # noqa: E402
from edgebus_detection.messages import Box  # noqa: E402
from edgebus_detection.models import DetectionModel  # noqa: E402
from edgebus_detection.vision import Detected, Image, Truth, to_boxes  # noqa: E402

_LOWEST = 0.01
_SHEET_S = 13.0
"""The sheet ends so long after the drift: half of its tiles show the room."""
_UNSEEN = "datasets/coco128/images/val2017"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture that can be judged: held out in the run, and labelled by the third model."""

    image: Image
    labels: list[tuple[str, float, Box]]
    held_out: bool


@dataclass(slots=True)
class Told:
    """What was said on the bus, in the order of its frames."""

    frames: list[dict[str, Any]] = field(default_factory=list)
    drifts: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, measure and draw the stories."""
    options = _options(arguments)
    report: dict[str, Any] = {"cores": os.cpu_count()}
    for name in options.story:
        story = STORIES[name]
        folder: Path = options.out / name
        if not options.keep:
            play(story, folder, data=options.data, timeout_s=options.timeout, port=options.port)
        run = (folder / "runs" / "latest").resolve()
        told = read_recording(folder / "bus.mcap")
        report[name] = measure(story, run, told, data=options.data)
        print(json.dumps(report[name], indent=1), flush=True)
        draw(story, run, told, data=options.data, out=options.pictures)
    (options.out / "tutorial.json").write_text(json.dumps(report, indent=1) + "\n")
    return 0


def read_recording(path: Path) -> Told:
    """Detections, drifts and results of a run."""
    told = Told()
    for message in Recording(path):
        kinds = {"detections/1": told.frames, "drift/1": told.drifts}
        if message.schema in kinds:
            kinds[message.schema].append(json.loads(message.payload))
        elif message.schema == "training/1":
            told.results.append(json.loads(message.payload))
    told.frames.sort(key=lambda frame: frame["captured"])
    return told


def pictures_of(story: Story, part: str, *, data: Path) -> Iterator[Picture]:
    """The labelled pictures of a line of the list, and whether the run held them out."""
    if story.name == "street":
        folder = data / "datasets" / "llvip-night"
        for number, path in enumerate(sorted((folder / "images" / part).glob("*.jpg"))):
            image = cv2.resize(np.asarray(cv2.imread(str(path)), np.uint8), (640, 512))
            labels = _yolo(
                folder / "labels" / "visible" / f"{path.stem}.txt", width=640, height=512
            )
            held = split_of(story.name, number) == "holdout"
            yield Picture(image=np.asarray(image, np.uint8), labels=labels, held_out=held)
        return
    video = data / story.links[part]
    labels_of = read_labels(video.with_suffix(".teacher-yolov8m.txt"))
    every = 20 if part == "room.mp4" else 3
    capture = cv2.VideoCapture(str(video))
    number = 0
    while True:
        good, image = capture.read()
        if not good:
            return
        if number % every == 0:
            # Every second frame is played, and each part begins a period of the split.
            held = split_of(story.name, number // 2) == "holdout"
            found = labels_of.get(number, [])
            yield Picture(image=np.asarray(image, np.uint8), labels=found, held_out=held)
        number += 1


def _yolo(path: Path, *, width: int, height: int) -> list[tuple[str, float, Box]]:
    rows = []
    for line in path.read_text().splitlines():
        _, x, y, wide, high = (float(part) for part in line.split()[:5])
        box = Box(
            label="person",
            x1=max(0.0, (x - wide / 2) * width),
            y1=max(0.0, (y - high / 2) * height),
            x2=min(float(width), (x + wide / 2) * width),
            y2=min(float(height), (y + high / 2) * height),
        )
        rows.append(("person", 1.0, box))
    return rows


def measure(story: Story, run: Path, told: Told, *, data: Path) -> dict[str, Any]:
    """Figures of a run: drift, samples, the job, and both models against the third one's labels."""
    summary = json.loads((run / "summary.json").read_text())
    bundles = bundles_of(run)
    found: dict[str, Any] = {
        "outcome": summary["outcome"],
        "seconds": summary["seconds"],
        "bytes": summary["bytes"],
        "drifts": [_told_drift(drift, told, story) for drift in told.drifts],
        "jobs": [
            {key: job.get(key) for key in ("outcome", "reason", "samples", "update_bytes")}
            for job in summary["trainings"]
        ],
        "held_out": {},
    }
    for part in story.links:
        found["held_out"][part] = _compare(story, bundles, part, data=data)
    unseen = [round(answer_folder(bundle, data / _UNSEEN), 3) for bundle in bundles]
    found["coco_unseen_map50"] = unseen
    return found


def _told_drift(drift: dict[str, Any], told: Told, story: Story) -> dict[str, Any]:
    """A drift, and how many frames after the first of the second recording it was noticed."""
    noticed = next(n for n, frame in enumerate(told.frames) if frame["frame"] == drift["input"])
    keys = ("statistic", "before", "after", "returned")
    return {key: drift[key] for key in keys} | {
        "version": drift["model"]["version"],
        "noticed_after_frames": noticed - first_of_second_part(story, told),
    }


def first_of_second_part(story: Story, told: Told) -> int:
    """Where in the frames of a run the view changes."""
    return next(n for n, frame in enumerate(told.frames) if frame["index"] >= story.second)


def _compare(
    story: Story, bundles: tuple[Bundle, Bundle], part: str, *, data: Path
) -> dict[str, Any]:
    results = []
    pictures = [picture for picture in pictures_of(story, part, data=data) if picture.held_out]
    for bundle in bundles:
        model = DetectionModel.load(bundle, EngineSettings(threads=1))
        answers = Answers([], [])
        for picture in pictures:
            answers.said.append(
                _only(model.detect(picture.image, threshold=_LOWEST)[0], model, story)
            )
            answers.right.append(_truth(picture.labels, story.classes))
        results.append(answers.measure(story.classes))
    before, after = results
    return {
        "pictures": len(pictures),
        "boxes": before.boxes,
        "ap50": [round(before.map50, 3), round(after.map50, 3)],
        "classes": {
            label: [round(before.per_class[label], 3), round(after.per_class[label], 3)]
            for label in story.classes
            if label in before.per_class
        },
    }


def _only(found: Detected, model: DetectionModel, story: Story) -> Detected:
    numbers = {model.classes.index(name): at for at, name in enumerate(story.classes)}
    kept = np.array([int(label) in numbers for label in found.labels], bool)
    labels = np.array([numbers[int(label)] for label in found.labels[kept]], np.int64)
    return Detected(found.boxes[kept], found.scores[kept], labels)


def _truth(rows: list[tuple[str, float, Box]], classes: Sequence[str]) -> Truth:
    sure = [(label, box) for label, score, box in rows if score >= ACCEPT and label in classes]
    unsure = [box for label, score, box in rows if score < ACCEPT or label not in classes]
    numbers = np.array([classes.index(label) for label, _ in sure], np.int64)
    return Truth(_corners([box for _, box in sure]), numbers, _corners(unsure))


def _corners(boxes: list[Box]) -> Any:
    rows = [[box.x1, box.y1, box.x2, box.y2] for box in boxes]
    return np.array(rows, np.float32).reshape(-1, 4)


def draw(story: Story, run: Path, told: Told, *, data: Path, out: Path) -> None:
    """The pictures of a story."""
    out.mkdir(parents=True, exist_ok=True)
    before, after = (
        DetectionModel.load(bundle, EngineSettings(threads=1)) for bundle in bundles_of(run)
    )

    def boxes(model: DetectionModel, image: Image) -> tuple[Box, ...]:
        return to_boxes(model.detect(image, threshold=0.35)[0], model.classes)

    drawing.plot_drift(
        told.frames,
        told.drifts,
        told.results,
        change=first_of_second_part(story, told),
        path=out / f"tutorial-{story.name}-drift.png",
    )
    parts = {
        part: [p for p in pictures_of(story, part, data=data) if p.held_out and p.labels]
        for part in story.links
    }
    if story.name == "street":
        # The two held-out pictures with the most persons.
        chosen = sorted(parts["infrared"], key=lambda picture: -len(picture.labels))[:2]
        drawing.draw_bare(
            [
                (
                    picture.image.shape,
                    [box for _, _, box in picture.labels],
                    [boxes(model, picture.image) for model in (before, after)],
                )
                for picture in chosen
            ],
            path=out / "tutorial-street-boxes.png",
        )
        return
    store = run / "data" / "cloud" / "retrainer"
    first = told.drifts[0]["since"]
    _sheet(store, out / "tutorial-door-sheet.jpg", "--columns", "4", "--limit", "12", before=first)
    _sheet(store, out / "tutorial-door-operator.jpg", "--by", "operator", "--tile", "600")
    home, park = parts["room.mp4"], parts["car-park.mp4"]
    fullest = max(park, key=lambda picture: len(picture.labels))
    with_bicycle = [
        picture for picture in park if any(label == "bicycle" for label, _, _ in picture.labels)
    ]
    # By what the third model sees in them, not by who is right: the middle one of those with a
    # bicycle, and the fullest one.
    shown = (with_bicycle[len(with_bicycle) // 2], fullest)
    views = [(home[len(home) // 2], "the room"), (shown[0], "the car park")]
    drawing.draw_pairs(
        [[(p.image, boxes(before, p.image), f"{title}: old model") for p, title in views]],
        path=out / "tutorial-door-fails.jpg",
    )
    drawing.draw_pairs(
        [
            [
                (picture.image, boxes(model, picture.image), title)
                for model, title in ((before, "old model"), (after, "new model"))
            ]
            for picture in shown
        ],
        path=out / "tutorial-door-pairs.jpg",
    )


def _sheet(store: Path, path: Path, *options: str, before: str | None = None) -> None:
    """`edgebus samples sheet`, as a smaller file; around a moment, if one is given."""
    chosen = list(options)
    if before is not None:
        end = datetime.fromisoformat(before) + timedelta(seconds=_SHEET_S)
        chosen += ["--before", end.isoformat(), "--tile", "270"]
    command = [sys.executable, "-m", "edgebus.cli", "samples", "sheet", "--data", str(store)]
    subprocess.run([*command, "--out", str(path), *chosen], check=True, capture_output=True)
    picture = cv2.imread(str(path))
    assert picture is not None
    cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, 78])


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the test data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--story", choices=list(STORIES), nargs="+", default=list(STORIES))
    parser.add_argument("--pictures", type=Path, help="folder of the pictures; OUT/pictures")
    parser.add_argument("--keep", action="store_true", help="draw runs that are there again")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for one run")
    parser.add_argument("--port", type=int, default=18931, help="of the run's broker")
    options = parser.parse_args(arguments)
    options.data, options.out = options.data.resolve(), options.out.resolve()
    options.pictures = (options.pictures or options.out / "pictures").resolve()
    return options


if __name__ == "__main__":
    sys.exit(main())
