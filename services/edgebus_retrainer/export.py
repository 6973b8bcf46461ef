"""Samples as data sets for other tools: COCO and YOLO folders."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgebus.contracts import Box, Sample
from edgebus_retrainer.files import write_atomically
from edgebus_retrainer.store import StoredSample

__all__ = ["ExportStyle", "export_samples"]

ExportStyle = Literal["coco", "yolo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    sample: Sample
    name: str
    boxes: tuple[Box, ...]


def export_samples(
    samples: Iterable[StoredSample],
    folder: Path,
    *,
    style: ExportStyle,
    labels: Mapping[str, tuple[Box, ...]] | None = None,
) -> int:
    """Write samples with their labels as a new folder; returns how many.

    The pictures go to ``images/{id}.jpg``, with their records still inside. COCO: boxes in
    `annotations.json`, with camera, split and policy of each picture. YOLO: a text file each in
    ``labels/``, class names in `data.yaml`. Classes are those that occur, sorted.

    Args:
        samples: What to write.
        folder: Must not exist.
        style: COCO or YOLO.
        labels: Boxes by sample id, for samples without ground truth; those that have neither
            are left out.

    Raises:
        FileExistsError: The folder is there already.
        OSError: A picture cannot be read, or the disk is full.
    """
    folder.mkdir(parents=True)
    (folder / "images").mkdir()
    entries = list(_entries(samples, labels or {}))
    for entry in entries:
        (folder / "images" / entry.name).write_bytes(entry.sample.jpeg)
    classes = sorted({box.label for entry in entries for box in entry.boxes})
    if style == "coco":
        write_atomically(folder / "annotations.json", json.dumps(_coco(entries, classes)).encode())
    else:
        _write_yolo(entries, classes, folder)
    return len(entries)


def _entries(
    samples: Iterable[StoredSample], labels: Mapping[str, tuple[Box, ...]]
) -> Iterator[_Entry]:
    for stored in samples:
        sample = Sample.decode(stored.path.read_bytes())
        boxes = sample.record.truth
        if boxes is None:
            boxes = labels.get(stored.id)
        if boxes is not None:
            yield _Entry(sample=sample, name=f"{stored.id}.jpg", boxes=boxes)


def _coco(entries: list[_Entry], classes: list[str]) -> dict[str, object]:
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, entry in enumerate(entries, start=1):
        record = entry.sample.record
        images.append(
            {
                "id": number,
                "file_name": f"images/{entry.name}",
                "width": record.width,
                "height": record.height,
                "date_captured": record.captured.isoformat(),
                "camera": record.camera,
                "frame_index": record.index,
                "split": record.split,
                "policy": record.policy,
            }
        )
        for box in entry.boxes:
            width, height = box.x2 - box.x1, box.y2 - box.y1
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": classes.index(box.label) + 1,
                    "bbox": [box.x1, box.y1, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    return {
        "info": {"description": "EdgeBus samples"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": n, "name": name} for n, name in enumerate(classes, start=1)],
    }


def _write_yolo(entries: list[_Entry], classes: list[str], folder: Path) -> None:
    (folder / "labels").mkdir()
    for entry in entries:
        width, height = entry.sample.record.width, entry.sample.record.height
        lines = [
            f"{classes.index(box.label)} {(box.x1 + box.x2) / 2 / width:.6f} "
            f"{(box.y1 + box.y2) / 2 / height:.6f} {(box.x2 - box.x1) / width:.6f} "
            f"{(box.y2 - box.y1) / height:.6f}"
            for box in entry.boxes
        ]
        text = "".join(f"{line}\n" for line in lines)
        (folder / "labels" / Path(entry.name).with_suffix(".txt")).write_text(text, "utf-8")
    names = json.dumps(dict(enumerate(classes)))  # JSON is YAML
    (folder / "data.yaml").write_text(f'{{"path": ".", "names": {names}}}\n', "utf-8")
