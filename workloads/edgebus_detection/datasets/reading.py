"""Data sets of other tools, read: what is wrong with them is collected, not raised one by one."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

from edgebus_detection.datasets.dataset import (
    PROVENANCE_FILE,
    DatasetError,
    IncomingBox,
    IncomingPicture,
    Style,
    sample_id_in,
)

__all__ = ["read_dataset"]

_BY = re.compile(r"truth|teacher:\S+|operator:\S.*")
_PICTURES = {".jpg", ".jpeg"}
_TASKS = "tasks.json"


def read_dataset(
    path: Path, *, style: Style | None = None
) -> tuple[list[IncomingPicture], list[str]]:
    """Pictures with boxes, and what is wrong with the data set.

    Args:
        path: A folder as `write_dataset` makes it and a tool has changed it, or its JSON file.
        style: The format; by what lies there if None.

    Raises:
        DatasetError: It is not there, or no such data set.
    """
    if not path.exists():
        raise DatasetError(path=path, reason="is not there")
    style = style or _guess(path)
    wrong: list[str] = []
    if style == "yolo":
        return _yolo(path, wrong), wrong
    file = path
    if path.is_dir():
        file = path / ("annotations.json" if style == "coco" else _TASKS)
    try:
        document = json.loads(file.read_bytes())
    except (ValueError, OSError) as error:
        raise DatasetError(path=file, reason=f"cannot be read as JSON: {error}") from error
    try:
        found = _coco(file, document, wrong) if style == "coco" else _tasks(file, document, wrong)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"is no {style} file ({type(error).__name__}: {error})"
        raise DatasetError(path=file, reason=reason) from error
    return found, wrong


def _guess(path: Path) -> Style:
    if path.is_dir():
        for name, style in (("annotations.json", "coco"), ("data.yaml", "yolo"), (_TASKS, "ls")):
            if (path / name).is_file():
                return "coco" if style == "coco" else "yolo" if style == "yolo" else "labelstudio"
        reason = f"holds no annotations.json (COCO), data.yaml (YOLO) or {_TASKS} (Label Studio)"
        raise DatasetError(path=path, reason=reason)
    try:
        return "labelstudio" if isinstance(json.loads(path.read_bytes()), list) else "coco"
    except ValueError as error:
        raise DatasetError(path=path, reason=f"is no JSON: {error}") from error


def _coco(file: Path, document: Any, wrong: list[str]) -> list[IncomingPicture]:
    names = {row["id"]: str(row["name"]) for row in document["categories"]}
    images = {row["id"]: str(row["file_name"]) for row in document["images"]}
    boxes: dict[Any, list[IncomingBox]] = defaultdict(list)
    for row in document["annotations"]:
        where = f"{file.name}, annotation {row.get('id')}"
        if row["image_id"] not in images:
            wrong.append(f"{where}: there is no image {row['image_id']!r}")
            continue
        if row.get("iscrowd"):
            wrong.append(f"{where}: a crowd is no object; draw its members or delete it")
            continue
        try:
            x, y, width, height = (float(value) for value in row["bbox"])
            name = names[row["category_id"]]
        except (KeyError, TypeError, ValueError) as error:
            wrong.append(f"{where}: no such category or bbox ({type(error).__name__}: {error})")
            continue
        boxes[row["image_id"]].append(
            IncomingBox(
                label=name,
                corners=(x, y, x + width, y + height),
                relative=False,
                by=_by(row.get("provenance")),
                where=where,
            )
        )
    return [
        IncomingPicture(
            name=name,
            sample=sample_id_in(name),
            file=_beside(file.parent, name),
            boxes=tuple(boxes[key]),
            where=f"{file.name}, image {key}",
        )
        for key, name in images.items()
    ]


def _tasks(file: Path, document: Any, wrong: list[str]) -> list[IncomingPicture]:
    """Tasks of Label Studio: what somebody has submitted, the newest of each task."""
    if not isinstance(document, list):
        raise TypeError("a list of tasks is expected")
    found: list[IncomingPicture] = []
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
            IncomingPicture(
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


def _region(region: Any, where: str, wrong: list[str]) -> IncomingBox | None:
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
    return IncomingBox(
        label=str(labels[0]),
        corners=(x, y, x + w, y + h),
        relative=True,
        by=_by(notes[0] if isinstance(notes, list) else notes),
        where=at,
    )


def _yolo(path: Path, wrong: list[str]) -> list[IncomingPicture]:
    names = _yolo_names(path)
    known = _provenance(path)
    found: list[IncomingPicture] = []
    for text in sorted((path / "labels").rglob("*.txt")):
        boxes: list[IncomingBox] = []
        notes = known.get(text.stem, [])
        try:
            lines = [line for line in text.read_text(encoding="utf-8").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            wrong.append(f"{text.name}: is no text ({error.reason})")
            continue
        for number, line in enumerate(lines):
            where = f"{text.name}:{number + 1}"
            try:
                key, x, y, w, h = line.split()[:5]
                name = names[int(key)]
                cx, cy, dx, dy = float(x), float(y), float(w) / 2, float(h) / 2
            except (ValueError, KeyError) as error:
                kind = f"{type(error).__name__}: {error}"
                wrong.append(f"{where}: {line.strip()!r} is not 'class x y width height' ({kind})")
                continue
            # Line by line it holds only while nobody has added or removed one.
            by = notes[number] if len(notes) == len(lines) else None
            corners = cx - dx, cy - dy, cx + dx, cy + dy
            box = IncomingBox(label=name, corners=corners, relative=True, by=_by(by), where=where)
            boxes.append(box)
        found.append(
            IncomingPicture(
                name=text.name,
                sample=sample_id_in(text.stem),
                file=_yolo_picture(path, text),
                boxes=tuple(boxes),
                where=text.name,
            )
        )
    return found


def _yolo_names(path: Path) -> dict[int, str]:
    file = path / "data.yaml"
    try:
        names = yaml.safe_load(file.read_text(encoding="utf-8"))["names"]
        pairs = enumerate(names) if isinstance(names, list) else names.items()
        return {int(number): str(name) for number, name in pairs}
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"has no class names under 'names' ({type(error).__name__}: {error})"
        raise DatasetError(path=file, reason=reason) from error


def _provenance(path: Path) -> dict[str, list[str]]:
    file = path / PROVENANCE_FILE
    try:
        document = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DatasetError(path=file, reason=f"is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise DatasetError(path=file, reason="is no object of lists")
    return {key: value for key, value in document.items() if isinstance(value, list)}


def _yolo_picture(path: Path, text: Path) -> Path | None:
    stem = path / "images" / text.relative_to(path / "labels").with_suffix("")
    for suffix in sorted(_PICTURES):
        if (file := stem.with_name(stem.name + suffix)).is_file():
            return file
    return None


def _beside(folder: Path, name: str) -> Path | None:
    """A picture of the data set; never one outside of its folder."""
    file = folder / name
    inside = file.resolve().is_relative_to(folder.resolve())
    return file if inside and file.is_file() else None


def _by(value: object) -> str | None:
    return value if isinstance(value, str) and _BY.fullmatch(value) else None
