"""Data sets, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebus.contracts import TRUTH
from edgebus.files import new_folder, writing
from edgebus_detection.datasets.picture import PROVENANCE_FILE, ExportPicture, Part, Style
from edgebus_detection.messages import Box, Sample, SourcedBox


def write_dataset(
    pictures: Iterable[ExportPicture], folder: Path, *, style: Style, classes: Sequence[str] = ()
) -> dict[Part, int]:
    """Write samples with their labels as a new folder; returns how many in each of its parts.

    In COCO and YOLO, pictures to train on, those that are held out, and those that nobody has
    labelled lie apart: other tools take a picture without labels for one with nothing in it. Their
    records are still inside.

    - coco: ``annotations/instances_{part}.json`` with ``images/{part}/``; each box with its
      `provenance`; camera, frame, split and policy of each picture.
    - yolo: a text file each in ``labels/{part}/``, parts and class names in `data.yaml`, and the
      provenance of line after line in `provenance.json`.
    - labelstudio: `tasks.json` to import, `config.xml` for the labelling interface, ``images/``. A
      teacher's boxes are predictions, which a person accepts or corrects; those of truth and
      operators are annotations.

    Args:
        pictures: What to write; one at a time is in memory.
        folder: Must not exist.
        style: The format.
        classes: In this order, first; further ones that occur follow, sorted.

    Raises:
        FileExistsError: The folder is there already.
        OSError: The disk is full; nothing is left behind.
    """
    if folder.exists():
        msg = f"{folder} exists; name another folder"
        raise FileExistsError(msg)
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    with writing(folder), new_folder(part):
        (part / "images").mkdir()
        kept: dict[Part, list[ExportPicture]] = {}
        for picture in pictures:
            place = part / "images"
            if style != "labelstudio":
                place /= picture.part
                place.mkdir(exist_ok=True)
            (place / picture.name).write_bytes(picture.sample.jpeg)
            # Labels of a whole store fit into memory, its pictures do not.
            thin = Sample(jpeg=b"", record=picture.sample.record)
            thin_picture = ExportPicture(sample=thin, source=picture.source, boxes=picture.boxes)
            kept.setdefault(picture.part, []).append(thin_picture)
        every = [picture for some in kept.values() for picture in some]
        found = {each.box.label for picture in every for each in picture.boxes}
        names = [*classes, *sorted(found - set(classes))]
        if style == "coco":
            _write_coco(kept, names, part)
        elif style == "yolo":
            _write_yolo(kept, names, part)
        else:
            _dump(part / "tasks.json", [_task(n, each) for n, each in enumerate(every, start=1)])
            (part / "config.xml").write_text(_config(names), encoding="utf-8")
        part.rename(folder)
    return {name: len(some) for name, some in kept.items()}


def _dump(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")


def coco_document(
    pictures: Iterable[tuple[Mapping[str, object], Sequence[SourcedBox]]],
    names: Sequence[str],
    *,
    info: Mapping[str, object],
) -> dict[str, object]:
    """A COCO annotation file: numbers from 1, each box with its `provenance`.

    Args:
        pictures: Fields of each image (``file_name``, ``width``, ``height``, more), and its boxes.
        names: Class names.
        info: Fields about the data set.
    """
    numbers = {name: number for number, name in enumerate(names, start=1)}
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for fields, boxes in pictures:
        images.append({"id": len(images) + 1, **fields})
        for each in boxes:
            box = each.box
            width, height = box.x2 - box.x1, box.y2 - box.y1
            row: dict[str, object] = {
                "id": len(annotations) + 1,
                "image_id": len(images),
                "category_id": numbers[box.label],
                "bbox": [box.x1, box.y1, width, height],
                "area": width * height,
                "iscrowd": int(bool(box.ignore)),
                "provenance": each.by,
            }
            if box.score is not None:
                row["score"] = box.score
            annotations.append(row)
    return {
        "info": dict(info),
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
    }


def _image(picture: ExportPicture) -> dict[str, object]:
    record = picture.sample.record
    return {
        "file_name": picture.name,
        "width": record.width,
        "height": record.height,
        "date_captured": record.captured.isoformat(),
        "sample": record.id,
        "camera": record.stream,
        "frame_index": record.index,
        "split": record.split,
        "policy": record.policy,
        "labelled_by": picture.source,
    }


def _write_coco(
    parts: Mapping[Part, Sequence[ExportPicture]], names: Sequence[str], folder: Path
) -> None:
    (folder / "annotations").mkdir()
    info = {"description": "EdgeBus samples"}
    for part, pictures in parts.items():
        rows = ((_image(picture), picture.boxes) for picture in pictures)
        document = coco_document(rows, names, info=info)
        _dump(folder / "annotations" / f"instances_{part}.json", document)


def _write_yolo(
    parts: Mapping[Part, Sequence[ExportPicture]], names: Sequence[str], folder: Path
) -> None:
    numbers = {name: number for number, name in enumerate(names)}
    provenance: dict[str, list[str]] = {}
    for part in ("train", "val"):
        for picture in parts.get(part, ()):
            record = picture.sample.record
            lines = [
                _yolo_line(numbers[each.box.label], each.box, record.width, record.height)
                for each in picture.boxes
                if not each.box.ignore
            ]
            labels = folder / "labels" / part / f"{record.id}.txt"
            labels.parent.mkdir(parents=True, exist_ok=True)
            labels.write_text("".join(lines), encoding="utf-8")
            provenance[record.id] = [each.by for each in picture.boxes if not each.box.ignore]
    _dump(folder / PROVENANCE_FILE, provenance)
    # Without `path`, Ultralytics takes the folder of this file; with ``.``, the working directory.
    text = "".join(f"{part}: images/{part}\n" for part in ("train", "val") if part in parts)
    listed = json.dumps(names)  # JSON is YAML
    (folder / "data.yaml").write_text(f"{text}names: {listed}\n", encoding="utf-8")


def _yolo_line(number: int, box: Box, width: int, height: int) -> str:
    return (
        f"{number} {(box.x1 + box.x2) / 2 / width:.6f} {(box.y1 + box.y2) / 2 / height:.6f} "
        f"{(box.x2 - box.x1) / width:.6f} {(box.y2 - box.y1) / height:.6f}\n"
    )


def _task(number: int, picture: ExportPicture) -> dict[str, object]:
    """A task of Label Studio (labelstud.io/guide/task_format), with local files."""
    record = picture.sample.record
    task: dict[str, object] = {
        "id": number,
        "data": {
            "image": f"/data/local-files/?d=images/{picture.name}",
            "sample": record.id,
            "camera": record.stream,
            "frame_index": record.index,
            "split": record.split,
            "policy": record.policy,
        },
    }
    size = record.width, record.height
    result = [
        _region(f"{number}-{place}", each, size)
        for place, each in enumerate(picture.boxes)
        if not each.box.ignore
    ]
    if picture.source == "teacher":
        by = picture.boxes[0].by if picture.boxes else "teacher"
        task["predictions"] = [{"model_version": by, "result": result}]
    elif picture.source != "none":
        task["annotations"] = [{"result": result, "ground_truth": picture.source == TRUTH}]
    return task


def _region(key: str, each: SourcedBox, size: tuple[int, int]) -> dict[str, Any]:
    box, (width, height) = each.box, size
    region: dict[str, Any] = {
        "id": key,
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {
            "x": 100 * box.x1 / width,
            "y": 100 * box.y1 / height,
            "width": 100 * (box.x2 - box.x1) / width,
            "height": 100 * (box.y2 - box.y1) / height,
            "rotation": 0,
            "rectanglelabels": [box.label],
        },
        "meta": {"text": [each.by]},
    }
    if box.score is not None:
        region["score"] = box.score
    return region


def _config(names: Sequence[str]) -> str:
    from xml.sax.saxutils import quoteattr

    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in names)
    return (
        '<View>\n  <Image name="image" value="$image"/>\n'
        f'  <RectangleLabels name="label" toName="image">\n{labels}  </RectangleLabels>\n</View>\n'
    )
