"""Data sets, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebus.contracts import TRUTH
from edgebus_detection.datasets.picture import PROVENANCE_FILE, ExportPicture, Style
from edgebus_detection.messages import Box, Sample, SourcedBox


def write_dataset(
    pictures: Iterable[ExportPicture], folder: Path, *, style: Style, classes: Sequence[str] = ()
) -> int:
    """Write samples with their labels as a new folder; returns how many.

    The pictures go to ``images/{id}.jpg``, with their records still inside.

    - coco: boxes in `annotations.json`, each with its `provenance`; camera, frame, split and
      policy of each picture.
    - yolo: a text file each in ``labels/``, class names in `data.yaml`, and the provenance of
      line after line in `provenance.json`.
    - labelstudio: `tasks.json` to import, `config.xml` for the labelling interface. A teacher's
      boxes are predictions, which a person accepts or corrects; those of truth and operators
      are annotations.

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
    (part / "images").mkdir(parents=True)
    try:
        kept: list[ExportPicture] = []
        for picture in pictures:
            (part / "images" / picture.name).write_bytes(picture.sample.jpeg)
            # Labels of a whole store fit into memory, its pictures do not.
            thin = Sample(jpeg=b"", record=picture.sample.record)
            kept.append(ExportPicture(sample=thin, source=picture.source, boxes=picture.boxes))
        found = {each.box.label for picture in kept for each in picture.boxes}
        names = [*classes, *sorted(found - set(classes))]
        if style == "coco":
            rows = ((_image(picture), picture.boxes) for picture in kept)
            info = {"description": "EdgeBus samples"}
            _dump(part / "annotations.json", coco_document(rows, names, info=info))
        elif style == "yolo":
            _write_yolo(kept, names, part)
        else:
            _dump(part / "tasks.json", [_task(n, each) for n, each in enumerate(kept, start=1)])
            (part / "config.xml").write_text(_config(names), encoding="utf-8")
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return len(kept)


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
                "iscrowd": 0,
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
        "file_name": f"images/{picture.name}",
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


def _write_yolo(pictures: Sequence[ExportPicture], names: Sequence[str], folder: Path) -> None:
    numbers = {name: number for number, name in enumerate(names)}
    (folder / "labels").mkdir()
    provenance: dict[str, list[str]] = {}
    for picture in pictures:
        record = picture.sample.record
        if picture.source == "none":
            # Without a text file it is a picture without labels; with an empty one it
            # would be one with nothing in it.
            continue
        lines = [
            _yolo_line(numbers[each.box.label], each.box, record.width, record.height)
            for each in picture.boxes
        ]
        stem = Path(picture.name).stem
        (folder / "labels" / f"{stem}.txt").write_text("".join(lines), encoding="utf-8")
        provenance[stem] = [each.by for each in picture.boxes]
    _dump(folder / PROVENANCE_FILE, provenance)
    listed = json.dumps({number: name for name, number in numbers.items()})  # JSON is YAML
    text = f'{{"path": ".", "train": "images", "val": "images", "names": {listed}}}\n'
    (folder / "data.yaml").write_text(text, encoding="utf-8")


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
    result = [_region(f"{number}-{place}", each, size) for place, each in enumerate(picture.boxes)]
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
