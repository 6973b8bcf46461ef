"""YOLO data sets: a text file per picture, a line ``class x y width height`` per box."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from edgebus_detection.datasets.picture import (
    PICTURES,
    PROVENANCE_FILE,
    DatasetBox,
    DatasetPicture,
    SourceError,
    sample_id_in,
)


def read_yolo(
    folder: Path, wrong: list[str], *, names: Mapping[int, str] | None = None
) -> list[DatasetPicture]:
    """Pictures with label files, and label files in ``labels/`` whose pictures are gone.

    Args:
        folder: The data set's.
        wrong: Gets a line for each box that cannot be read.
        names: Class names by number, where neither `data.yaml` nor `classes.txt` has them.

    Raises:
        SourceError: Class names or provenance cannot be read.
    """
    known = class_names(folder) or names
    provenance = _provenance(folder)
    files: dict[Path, Path | None] = dict.fromkeys((folder / "labels").rglob("*.txt"))
    for picture in folder.rglob("*"):
        if picture.suffix.lower() in PICTURES and picture.is_file():
            labels = label_file(picture)
            if labels.is_file():
                files[labels] = picture
    found: list[DatasetPicture] = []
    for labels, file in sorted(files.items()):
        try:
            boxes = yolo_boxes(labels, known, wrong, by=provenance.get(labels.stem, ()))
        except SourceError as error:
            wrong.append(f"{labels.name}: {error.reason}")
            continue
        found.append(
            DatasetPicture(
                name=labels.name,
                file=file,
                boxes=boxes,
                sample=sample_id_in(labels.stem),
                where=labels.name,
            )
        )
    return found


def yolo_boxes(
    labels: Path, names: Mapping[int, str] | None, wrong: list[str], *, by: Sequence[str] = ()
) -> tuple[DatasetBox, ...]:
    """Boxes of one label file.

    Args:
        labels: The file.
        names: Class names by number.
        wrong: Gets a line for each box that cannot be read.
        by: Provenance of each line; it holds only while nobody has added or removed one.

    Raises:
        SourceError: The file cannot be read.
    """
    try:
        lines = [line for line in labels.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise SourceError(source=str(labels), reason=f"is no text ({error.reason})") from error
    except OSError as error:
        raise SourceError(source=str(labels), reason=f"cannot be read: {error}") from error
    boxes: list[DatasetBox] = []
    for number, line in enumerate(lines, start=1):
        where = f"{labels.name}, line {number}"
        try:
            key, x, y, w, h = line.split()[:5]
            label = int(key)
            cx, cy, dx, dy = float(x), float(y), float(w) / 2, float(h) / 2
            if not math.isfinite(cx + cy + dx + dy):
                msg = "not finite"
                raise ValueError(msg)
        except ValueError as error:
            wrong.append(f"{where}: {line.strip()!r} is not 'class x y width height' ({error})")
            continue
        if names is None or label not in names:
            way = "put a data.yaml with 'names' beside it, or set 'classes'"
            wrong.append(f"{where}: class {label} has no name; {way}")
            continue
        boxes.append(
            DatasetBox(
                label=names[label],
                corners=(cx - dx, cy - dy, cx + dx, cy + dy),
                relative=True,
                by=by[number - 1] if len(by) == len(lines) else None,
                where=where,
            )
        )
    return tuple(boxes)


def label_file(picture: Path) -> Path:
    """The label file of a picture, which may not be there.

    It lies in the parallel folder, ``labels`` for the innermost ``images``, or beside the picture.
    """
    beside = picture.with_suffix(".txt")
    parts = list(picture.parts)
    for at in range(len(parts) - 2, -1, -1):
        if parts[at] == "images":
            parallel = Path(*parts[:at], "labels", *parts[at + 1 :]).with_suffix(".txt")
            if parallel.is_file() or (parallel.parent.is_dir() and not beside.is_file()):
                return parallel
            break
    return beside


def class_names(folder: Path) -> dict[int, str] | None:
    """Names by number in the `data.yaml` or `classes.txt` of a folder or above it.

    Raises:
        SourceError: There is such a file, but it cannot be read.
    """
    for place in (folder, *list(folder.resolve().parents)[:3]):
        listed, plain = place / "data.yaml", place / "classes.txt"
        if listed.is_file():
            try:
                names = yaml.safe_load(listed.read_text(encoding="utf-8"))["names"]
                pairs = enumerate(names) if isinstance(names, list) else names.items()
                return {int(number): str(name) for number, name in pairs}
            except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as e:
                reason = f"has no class names under 'names' ({type(e).__name__}: {e})"
                raise SourceError(source=str(listed), reason=reason) from e
        if plain.is_file():
            lines = plain.read_text(encoding="utf-8").split("\n")
            return {number: line.strip() for number, line in enumerate(lines) if line.strip()}
    return None


def _provenance(folder: Path) -> dict[str, list[str]]:
    file = folder / PROVENANCE_FILE
    try:
        document = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise SourceError(source=str(file), reason=f"is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise SourceError(source=str(file), reason="is no object of lists")
    return {key: value for key, value in document.items() if isinstance(value, list)}
