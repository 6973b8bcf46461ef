"""How good labels of teachers are: one alone, several that vote, a threshold that is measured.

Needs the folder of real models and data sets that the tests use, too::

    python benchmarks/teachers.py --data DATA --out benchmarks/results

The pictures are COCO128's and 128 others of COCO's validation set. The teachers were trained on
COCO, perhaps on some of these very pictures, so that all figures flatter them; what is compared is
one way of using them with another on the same pictures. Thresholds are chosen on one half of the
pictures and measured on the other, both ways round.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2

from edgebus.serving import EngineSettings
from edgebus_detection.datasets import LabelBuilder, read_folder
from edgebus_detection.labels import Answer, Compared, Teacher, calibrate, fuse, open_model
from edgebus_detection.messages import Box
from edgebus_detection.vision import encode_jpeg, pair_boxes

MODELS = ("yolox_nano_416", "nanodet_m_416", "yolov8n_640_f16w", "yolov8s_640_f16w")
TRIO = MODELS[:3]
SETS = ("train2017", "val2017")
REJECT, ACCEPT, MIN_BOXES = 0.1, 0.4, 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way of labelling: precision and recall over all boxes of its classes."""

    labels: str
    classes: str
    threshold: str
    precision: float
    recall: float
    boxes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture with its truth, and what each teacher says of it."""

    there: tuple[Box, ...]
    said: Mapping[str, Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A picture, the thresholds for it, and the classes that count; None: all."""

    picture: Picture
    accept: Mapping[str, float | None]
    only: frozenset[str] | None

    def counts(self, box: Box) -> bool:
        return self.only is None or box.label in self.only

    def takes(self, box: Box) -> bool:
        threshold = self.accept.get(box.label, ACCEPT)
        return self.counts(box) and threshold is not None and _score(box) >= threshold


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--limit", type=int, default=1000, help="pictures of each set")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        pictures = collect(options.data, Path(folder), limit=options.limit)
    rows = [row for name in pictures[0].said for row in measure(name, pictures)]
    print(f"{len(pictures)} pictures, {sum(len(p.there) for p in pictures)} true boxes")
    print(f"{'labels of':32} {'classes':12} {'accepted from':18} precision  recall  boxes")
    for row in rows:
        figures = f"{row.precision:9.3f} {row.recall:7.3f} {row.boxes:6}"
        print(f"{row.labels:32} {row.classes:12} {row.threshold:18} {figures}")
    print(f"{time.monotonic() - began:.0f} s")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        document = {"pictures": len(pictures), "rows": [asdict(row) for row in rows]}
        (options.out / "teachers.json").write_text(json.dumps(document, indent=1) + "\n")


def collect(data: Path, folder: Path, *, limit: int) -> list[Picture]:
    """Ask every teacher for every picture."""
    engine = EngineSettings(threads=1)
    models = {
        name: open_model(data / "models" / f"{name}.onnx", imports=folder, settings=engine)
        for name in MODELS
    }
    classes = models["yolox_nano_416"].classes
    teachers = {
        name: Teacher(model, threshold=REJECT, cache=folder / "answers")
        for name, model in models.items()
    }
    found: list[Picture] = []
    for name in SETS:
        read = read_folder(
            data / "datasets/coco128/images" / name, LabelBuilder(classes), limit=limit
        )
        for number, picture in enumerate(read.pictures):
            image: Any = cv2.imread(str(picture.path), cv2.IMREAD_COLOR)
            jpeg = encode_jpeg(image, quality=95)
            said = {
                model: teacher.answer(jpeg, key=f"{name}-{number}")
                for model, teacher in teachers.items()
            }
            boxes = [said[model].boxes for model in TRIO]
            for agree in (2, 3):
                said[f"{agree} of {', '.join(m.split('_')[0] for m in TRIO)}"] = fuse(
                    boxes, min_agreeing=agree
                )
            corners = picture.truth.boxes.tolist()
            there = tuple(
                Box(label=classes[label], x1=x1, y1=y1, x2=x2, y2=y2)
                for (x1, y1, x2, y2), label in zip(
                    corners, picture.truth.labels.tolist(), strict=True
                )
            )
            found.append(Picture(there=there, said=said))
    return found


def measure(name: str, pictures: Sequence[Picture]) -> list[Row]:
    """A teacher at the setting, and at thresholds measured on the other half.

    Most classes have too few boxes in half of the pictures and keep the setting; the classes that
    do not are measured apart.
    """
    everything = [Judged(picture=picture, accept={}, only=None) for picture in pictures]
    rows = [_row(name, "all", f"{ACCEPT:g}", everything)]
    halves = pictures[::2], pictures[1::2]
    for precision in (0.8, 0.9):
        every: list[Judged] = []
        enough: list[Judged] = []
        before: list[Judged] = []
        for known, other in (halves, halves[::-1]):
            compared = [Compared(predicted=p.said[name].boxes, actual=p.there) for p in known]
            chosen = calibrate(compared, precision=precision, fallback=ACCEPT, min_boxes=MIN_BOXES)
            accept = {label: each.accept for label, each in chosen.items()}
            only = frozenset(label for label, each in chosen.items() if each.why != "too few")
            every += [Judged(picture=p, accept=accept, only=None) for p in other]
            enough += [Judged(picture=p, accept=accept, only=only) for p in other]
            before += [Judged(picture=p, accept={}, only=only) for p in other]
        words = f"measured for {precision:.0%}"
        rows.append(_row(name, "all", words, every))
        rows.append(_row(name, "with enough", f"{ACCEPT:g}", before))
        rows.append(_row(name, "with enough", words, enough))
    return rows


def _row(name: str, classes: str, threshold: str, judged: Iterable[Judged]) -> Row:
    right = said = there = 0
    for each in judged:
        true = [box for box in each.picture.there if each.counts(box)]
        boxes = [box for box in each.picture.said[name].boxes if each.takes(box)]
        pairs = pair_boxes(boxes, true)
        right += sum(boxes[a].label == true[b].label for a, b in pairs)
        said += len(boxes)
        there += len(true)
    return Row(
        labels=name,
        classes=classes,
        threshold=threshold,
        precision=round(right / max(1, said), 4),
        recall=round(right / max(1, there), 4),
        boxes=said,
    )


def _score(box: Box) -> float:
    return 1.0 if box.score is None else box.score


if __name__ == "__main__":
    main()
