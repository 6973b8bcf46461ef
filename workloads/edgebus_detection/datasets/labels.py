"""Ground truth that lies beside pictures: COCO JSON, YOLO text, MOTChallenge text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import yaml

from edgebus_detection.datasets.errors import SourceError
from edgebus_detection.messages import Box

__all__ = ["MOT_CLASSES", "boxed", "find_class_names", "read_coco", "read_mot", "read_yolo"]

MOT_CLASSES: Final[Mapping[int, str]] = {
    1: "person", 2: "person", 3: "car", 4: "bicycle", 5: "motorcycle", 7: "person",
}  # fmt: skip
"""Classes of MOT16 (Milan et al. 2016, table 3) that COCO also has; 7 is a standing person."""


def boxed(
    label: str, *, x: float, y: float, width: float, height: float, size: tuple[int, int] | None
) -> Box | None:
    """A box from its left top corner and size, in pixels, clipped to the picture.

    Args:
        label: Class name.
        x: Left side.
        y: Upper side.
        width: Width of the box.
        height: Height of the box.
        size: Width and height of the picture, where they are known.

    Returns:
        The box, or None when nothing of it is in the picture.

    Raises:
        ValueError: A number is not finite.
    """
    if not all(map(math.isfinite, (x, y, width, height))):
        msg = f"box ({x}, {y}, {width}, {height}) is not finite"
        raise ValueError(msg)
    wide, high = size or (math.inf, math.inf)
    x1, y1 = max(0.0, x), max(0.0, y)
    x2, y2 = min(float(wide), x + width), min(float(high), y + height)
    if x2 <= x1 or y2 <= y1:
        return None
    return Box(label=label, x1=x1, y1=y1, x2=x2, y2=y2)


def read_coco(path: Path) -> dict[str, tuple[Box, ...]]:
    """Read a COCO annotations file; crowds are left out.

    Returns:
        Boxes by ``file_name``, in the order of the file.

    Raises:
        SourceError: It cannot be read, or is no COCO file.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SourceError(source=str(path), reason=f"cannot be read as JSON: {error}") from error
    try:
        names = {int(entry["id"]): str(entry["name"]) for entry in document["categories"]}
        images = {int(entry["id"]): entry for entry in document["images"]}
        found: dict[int, list[Box]] = {number: [] for number in images}
        for entry in document["annotations"]:
            if entry.get("iscrowd"):
                continue
            image = images[int(entry["image_id"])]
            x, y, width, height = map(float, entry["bbox"])
            size = _coco_size(image)
            label = names[int(entry["category_id"])]
            box = boxed(label, x=x, y=y, width=width, height=height, size=size)
            if box is not None:
                found[int(entry["image_id"])].append(box)
        return {str(images[number]["file_name"]): tuple(boxes) for number, boxes in found.items()}
    except KeyError as error:
        reason = f"is no complete COCO file: {error} is missing"
        raise SourceError(source=str(path), reason=reason) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise SourceError(source=str(path), reason=f"is no COCO file: {error}") from error


def _coco_size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    if "width" not in image or "height" not in image:
        return None
    return int(image["width"]), int(image["height"])


def read_yolo(
    path: Path, *, names: Mapping[int, str] | None, size: tuple[int, int]
) -> tuple[Box, ...]:
    """Read the label file of one picture: class, centre, width and height as fractions.

    Args:
        path: The text file.
        names: Class names by number.
        size: Width and height of the picture.

    Raises:
        SourceError: It cannot be read, a line is wrong, or a class has no name.
    """
    boxes = []
    for number, fields in _rows(path, separator=None):
        if len(fields) < 5:
            _refuse(path, number, f"has {len(fields)} fields; YOLO has class, x, y, w, h")
        try:
            label = int(fields[0])
            x, y, width, height = (float(field) for field in fields[1:5])
            wide, high = size
            box = boxed(
                _name(label, names),
                x=(x - width / 2) * wide,
                y=(y - height / 2) * high,
                width=width * wide,
                height=height * high,
                size=size,
            )
        except ValueError as error:
            _refuse(path, number, str(error))
        if box is not None:
            boxes.append(box)
    return tuple(boxes)


def read_mot(
    path: Path, *, names: Mapping[int, str] | None, min_score: float
) -> dict[int, tuple[Box, ...]]:
    """Read MOTChallenge text: frame (from 1), track, left, top, width, height, score, class, ….

    Args:
        path: The text file.
        names: Class names by number; by default those of MOT16. Others are left out.
        min_score: Rows with a lower score are left out; 0 in a ground truth means "ignore".

    Returns:
        Boxes by frame number from 0. Frames without any row are not in it: many such files label
        only some frames, so nothing is known of the rest.

    Raises:
        SourceError: It cannot be read, or a line is wrong.
    """
    classes = MOT_CLASSES if names is None else names
    found: dict[int, list[Box]] = {}
    for number, fields in _rows(path, separator=","):
        if len(fields) < 7:
            _refuse(path, number, f"has {len(fields)} fields; MOT text has at least 7")
        try:
            frame = int(fields[0])
            x, y, width, height, score = (float(field) for field in fields[2:7])
            kind = int(float(fields[7])) if len(fields) > 7 else 1
            label = classes.get(kind)
            box = boxed(label or "?", x=x, y=y, width=width, height=height, size=None)
        except (ValueError, OverflowError) as error:
            _refuse(path, number, str(error))
        if frame < 1:
            _refuse(path, number, f"is of frame {frame}; MOT counts frames from 1")
        boxes = found.setdefault(frame - 1, [])
        if label is not None and box is not None and score >= min_score:
            boxes.append(box)
    return {frame: tuple(boxes) for frame, boxes in found.items()}


def find_class_names(folder: Path) -> dict[int, str] | None:
    """The names in the ``data.yaml`` of a YOLO data set, in a folder or above it.

    Raises:
        SourceError: There is such a file, but it cannot be read.
    """
    for place in (folder, *list(folder.parents)[:3]):
        path = place / "data.yaml"
        if not path.is_file():
            continue
        try:
            names = yaml.safe_load(path.read_text(encoding="utf-8"))["names"]
            pairs = names.items() if isinstance(names, dict) else enumerate(names)
            return {int(number): str(name) for number, name in pairs}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise SourceError(source=str(path), reason=f"cannot be read: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            reason = "has no 'names', a list of class names or a mapping from number to name"
            raise SourceError(source=str(path), reason=reason) from error
    return None


def _rows(path: Path, *, separator: str | None) -> Iterator[tuple[int, Sequence[str]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(source=str(path), reason=f"cannot be read: {error}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, line.strip().split(separator)


def _name(number: int, names: Mapping[int, str] | None) -> str:
    if names is None or number not in names:
        msg = (
            f"class {number} has no name; put a data.yaml with 'names' beside it, or set 'classes'"
        )
        raise ValueError(msg)
    return names[number]


def _refuse(path: Path, line: int, reason: str) -> NoReturn:
    raise SourceError(source=f"{path}, line {line}", reason=reason)
