"""Reader of data sets: COCO, YOLO, Label Studio; errors in them are collected."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgebus_detection.datasets.picture import (
    DatasetBox,
    DatasetPicture,
    SourceError,
    Style,
    sample_id_in,
)
from edgebus_detection.datasets.yolo import read_yolo

_BY = re.compile(r"truth|teacher:\S+|operator:\S.*")
_FILES: Mapping[Style, str] = {
    "coco": "annotations.json",
    "yolo": "data.yaml",
    "labelstudio": "tasks.json",
}


def read_dataset(
    path: Path, *, style: Style | None = None
) -> tuple[list[DatasetPicture], list[str]]:
    """Pictures with boxes, and what is wrong with the data set.

    Args:
        path: A folder as `write_dataset` makes it and a tool has changed it, or its JSON file.
        style: The format; by what lies there if None.

    Raises:
        SourceError: It is not there, or no such data set.
    """
    if not path.exists():
        raise SourceError(source=str(path), reason="is not there")
    style = style or _guess(path)
    wrong: list[str] = []
    if style == "yolo":
        if not (path / _FILES[style]).is_file():
            raise SourceError(source=str(path / _FILES[style]), reason="is not there")
        return read_yolo(path, wrong), wrong
    file = path / _FILES[style] if path.is_dir() else path
    if style == "coco":
        return read_coco(file, wrong), wrong
    try:
        return _tasks(file, _json(file), wrong), wrong
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"is no Label Studio file ({type(error).__name__}: {error})"
        raise SourceError(source=str(file), reason=reason) from error


def read_coco(file: Path, wrong: list[str]) -> list[DatasetPicture]:
    """Pictures of a COCO annotation file, in its order; crowds are boxes, marked as such.

    Args:
        file: The JSON file; pictures are named relative to its folder.
        wrong: Gets a line for each box that cannot be read.

    Raises:
        SourceError: It is no such file, or names a picture outside of its folder.
    """
    try:
        return _coco(file, _json(file), wrong)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"is no COCO annotation file ({type(error).__name__}: {error})"
        raise SourceError(source=str(file), reason=reason) from error


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (ValueError, OSError) as error:
        raise SourceError(source=str(file), reason=f"cannot be read as JSON: {error}") from error


def _guess(path: Path) -> Style:
    if path.is_dir():
        for style, name in _FILES.items():
            if (path / name).is_file():
                return style
        reason = "holds no annotations.json (COCO), data.yaml (YOLO) or tasks.json (Label Studio)"
        raise SourceError(source=str(path), reason=reason)
    return "labelstudio" if isinstance(_json(path), list) else "coco"


def _coco(file: Path, document: Any, wrong: list[str]) -> list[DatasetPicture]:
    names = {row["id"]: str(row["name"]) for row in document["categories"]}
    images = {row["id"]: row for row in document["images"]}
    boxes: dict[Any, list[DatasetBox]] = defaultdict(list)
    for row in document["annotations"]:
        where = f"{file.name}, annotation {row.get('id')}"
        if row["image_id"] not in images:
            wrong.append(f"{where}: there is no image {row['image_id']!r}")
            continue
        try:
            x, y, width, height = (float(value) for value in row["bbox"])
            name = names[row["category_id"]]
        except (KeyError, TypeError, ValueError) as error:
            wrong.append(f"{where}: no such category or bbox ({type(error).__name__}: {error})")
            continue
        boxes[row["image_id"]].append(
            DatasetBox(
                label=name,
                corners=(x, y, x + width, y + height),
                crowd=bool(row.get("iscrowd")),
                by=_by(row.get("provenance")),
                where=where,
            )
        )
    found: list[DatasetPicture] = []
    for key, row in images.items():
        name = str(row["file_name"])
        size = (
            (float(row["width"]), float(row["height"]))
            if row.keys() >= {"width", "height"}
            else None
        )
        found.append(
            DatasetPicture(
                name=name,
                file=_beside(file.parent, name),
                boxes=tuple(boxes[key]),
                size=size,
                sample=sample_id_in(name),
                where=f"{file.name}, image {key}",
            )
        )
    return found


def _tasks(file: Path, document: Any, wrong: list[str]) -> list[DatasetPicture]:
    """Tasks of Label Studio: the newest submission of each task."""
    if not isinstance(document, list):
        raise TypeError("a list of tasks is expected")
    found: list[DatasetPicture] = []
    for place, task in enumerate(document):
        where = f"{file.name}, task {task.get('id', place)}"
        data = task["data"]
        name = str(data.get("image", ""))
        done = [each for each in task.get("annotations", ()) if not each.get("was_cancelled")]
        if not done:
            continue
        newest = max(done, key=lambda each: str(each.get("updated_at", "")))
        boxes = [
            box for region in newest["result"] if (box := _region(region, where, wrong)) is not None
        ]
        found.append(
            DatasetPicture(
                name=name,
                sample=sample_id_in(str(data.get("sample", ""))) or sample_id_in(name),
                file=_beside(file.parent, f"images/{name.rpartition('/')[2]}"),
                boxes=tuple(boxes),
                # What was exported as an annotation has no author; what a person submits has.
                confirmed="completed_by" in newest,
                where=where,
            )
        )
    return found


def _region(region: Any, where: str, wrong: list[str]) -> DatasetBox | None:
    at = f"{where}, region {region.get('id')}"
    if region.get("type") != "rectanglelabels":
        wrong.append(f"{at}: {region.get('type')!r} is no box; only rectanglelabels are")
        return None
    value = region["value"]
    if value.get("rotation"):
        wrong.append(f"{at}: rotated by {value['rotation']:g} degrees; boxes are upright")
        return None
    labels = value.get("rectanglelabels") or []
    if len(labels) != 1:
        wrong.append(f"{at}: one class is expected, not {labels!r}")
        return None
    x, y, w, h = (float(value[key]) / 100 for key in ("x", "y", "width", "height"))
    notes = (region.get("meta") or {}).get("text") or [None]
    return DatasetBox(
        label=str(labels[0]),
        corners=(x, y, x + w, y + h),
        relative=True,
        by=_by(notes[0] if isinstance(notes, list) else notes),
        where=at,
    )


def _beside(folder: Path, name: str) -> Path | None:
    """A picture of the data set; never one outside of its folder."""
    file = folder / name
    inside = file.resolve().is_relative_to(folder.resolve())
    return file if inside and file.is_file() else None


def _by(value: object) -> str | None:
    return value if isinstance(value, str) and _BY.fullmatch(value) else None
