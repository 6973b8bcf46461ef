"""Labelled folders: COCO `annotations.json`, or YOLO text files beside the pictures."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import yaml

from edgebus.contracts import Split, split_of
from edgebus_detection.datasets.labelled import (
    ImpossibleBoxError,
    LabelBuilder,
    Labelled,
    checked_box,
)
from edgebus_detection.messages import Box

__all__ = ["Folder", "FolderError", "read_folder"]

_PICTURES = {".jpg", ".jpeg", ".png"}
_BLOCK = 10


class FolderError(ValueError):
    """A folder is no labelled data set.

    Attributes:
        path: The folder or file.
        reason: What is wrong, and what is expected.
    """

    def __init__(self, *, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A labelled folder, read.

    Attributes:
        pictures: In the order of their names.
        refused: Boxes that cannot be, each with its reason; their pictures stay, without them.
    """

    pictures: tuple[Labelled, ...]
    refused: tuple[str, ...]

    def split(self, which: Split) -> tuple[Labelled, ...]:
        """Pictures to train on, or to measure on: one block of ten neighbours in four is held out.

        Neighbours by name are often neighbours in a video, so single pictures would leak.
        """
        return tuple(
            picture
            for number, picture in enumerate(self.pictures)
            if split_of("replay", number, block=_BLOCK) == which
        )


def read_folder(path: Path, builder: LabelBuilder, *, limit: int | None = None) -> Folder:
    """Read a labelled folder.

    COCO: the folder holds `annotations.json` (or `path` is such a file). YOLO: the folder holds
    pictures, each with a text file of lines ``class x y width height`` (0 to 1, centre) beside it
    or in the folder's twin, whose path says `labels` for `images`; class names come from a
    `data.yaml` or `classes.txt` in it or above it, otherwise from the model.

    Args:
        path: The folder.
        builder: Turns class names into the model's labels.
        limit: At most this many pictures, evenly spread.

    Raises:
        FolderError: It is not there, holds no pictures, or its annotations cannot be read.
    """
    if not path.exists():
        raise FolderError(path=path, reason="is not there; give a folder of labelled pictures")
    coco = path if path.is_file() else path / "annotations.json"
    refused: list[str] = []
    found = _coco(coco, refused) if coco.is_file() else _yolo(path, builder.classes, refused)
    entries = sorted(found, key=lambda entry: str(entry.path))
    if not entries:
        reason = "holds no labelled picture; expected COCO annotations.json or YOLO text files"
        raise FolderError(path=path, reason=reason)
    if limit is not None and len(entries) > limit:
        entries = [entries[number * len(entries) // limit] for number in range(limit)]
    pictures = tuple(
        Labelled(
            path=entry.path,
            truth=builder.build(
                entry.boxes, width=entry.width, height=entry.height, ignore=entry.ignore
            ),
            provenance=path.name,
            key=str(entry.path.relative_to(coco.parent if coco.is_file() else path)),
            group=f"{path.name}/{number // _BLOCK}",
        )
        for number, entry in enumerate(entries)
    )
    return Folder(pictures=pictures, refused=tuple(refused))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    path: Path
    width: float
    height: float
    boxes: tuple[Box, ...]
    ignore: tuple[Box, ...] = ()


def _coco(path: Path, refused: list[str]) -> Iterator[_Entry]:
    try:
        document = json.loads(path.read_bytes())
        names = {entry["id"]: str(entry["name"]) for entry in document["categories"]}
        rows: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for row in document["annotations"]:
            rows[row["image_id"]].append(row)
        images = [
            (image["id"], image["file_name"], image["width"], image["height"])
            for image in document["images"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        reason = f"is no COCO annotation file ({type(error).__name__}: {error})"
        raise FolderError(path=path, reason=reason) from error
    for key, file, width, height in images:
        boxes: list[Box] = []
        ignore: list[Box] = []
        for row in rows[key]:
            try:
                box = _coco_box(row, names, path, (float(width), float(height)))
            except ImpossibleBoxError as error:
                refused.append(str(error))
                continue
            (ignore if row.get("iscrowd") else boxes).append(box)
        picture = _existing(path.parent, file)
        yield _Entry(
            path=picture,
            width=float(width),
            height=float(height),
            boxes=tuple(boxes),
            ignore=tuple(ignore),
        )


def _coco_box(
    row: dict[str, Any], names: dict[Any, str], path: Path, size: tuple[float, float]
) -> Box:
    def where() -> str:
        return f"{path.name}, annotation {row.get('id')}"

    try:
        x, y, width, height = (float(value) for value in row["bbox"])
        name = names[row["category_id"]]
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ImpossibleBoxError(where=where(), reason=reason) from error
    return checked_box(name, (x, y, x + width, y + height), size=size, where=where)


def _existing(folder: Path, file: str) -> Path:
    picture = (folder / file).resolve()
    if not picture.is_relative_to(folder.resolve()):
        raise FolderError(path=folder, reason=f"names {file!r}, which lies outside the folder")
    if not picture.is_file():
        raise FolderError(path=picture, reason="is named in annotations.json and is not there")
    return picture


def _yolo(path: Path, classes: Sequence[str], refused: list[str]) -> Iterator[_Entry]:
    names = _yolo_names(path) or dict(enumerate(classes))
    for picture in sorted(path.rglob("*")):
        if picture.suffix.lower() not in _PICTURES or not picture.is_file():
            continue
        labels = _label_file(picture)
        if labels is None:
            continue
        image: Any = cv2.imread(str(picture), cv2.IMREAD_COLOR)
        if image is None:
            refused.append(f"picture {picture.name} cannot be decoded")
            continue
        height, width = image.shape[:2]
        boxes: list[Box] = []
        for number, line in enumerate(labels.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            try:
                boxes.append(_yolo_box(line, names, (width, height), f"{labels.name}:{number}"))
            except ImpossibleBoxError as error:
                refused.append(str(error))
        yield _Entry(path=picture, width=width, height=height, boxes=tuple(boxes))


def _yolo_box(line: str, names: dict[int, str], size: tuple[int, int], where: str) -> Box:
    try:
        number, x, y, w, h = line.split()[:5]
        name = names[int(number)]
        centre_x, centre_y = float(x) * size[0], float(y) * size[1]
        width, height = float(w) * size[0], float(h) * size[1]
    except (ValueError, KeyError) as error:
        reason = f"{line.strip()!r} is not 'class x y width height' ({type(error).__name__})"
        raise ImpossibleBoxError(where=where, reason=reason) from error
    corners = (
        centre_x - width / 2,
        centre_y - height / 2,
        centre_x + width / 2,
        centre_y + height / 2,
    )
    return checked_box(name, corners, size=size, where=lambda: where)


def _label_file(picture: Path) -> Path | None:
    """The text file beside a picture, or in the twin folder; the innermost `images` counts."""
    beside = picture.with_suffix(".txt")
    parts = list(picture.parts)
    for at in range(len(parts) - 2, -1, -1):
        if parts[at] == "images":
            twin = Path(*parts[:at], "labels", *parts[at + 1 :]).with_suffix(".txt")
            if twin.is_file():
                return twin
            break
    return beside if beside.is_file() else None


def _yolo_names(path: Path) -> dict[int, str] | None:
    for folder in (path, *list(path.resolve().parents)[:3]):
        listed = folder / "data.yaml"
        if listed.is_file():
            return _yaml_names(listed)
        plain = folder / "classes.txt"
        if plain.is_file():
            lines = plain.read_text(encoding="utf-8").split("\n")
            return {number: line.strip() for number, line in enumerate(lines) if line.strip()}
    return None


def _yaml_names(path: Path) -> dict[int, str]:
    try:
        names = yaml.safe_load(path.read_text(encoding="utf-8"))["names"]
        if isinstance(names, list):
            return {number: str(name) for number, name in enumerate(names)}
        return {int(number): str(name) for number, name in names.items()}
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"has no class names under 'names' ({type(error).__name__}: {error})"
        raise FolderError(path=path, reason=reason) from error
