"""YOLO data sets: a text file per picture, a line ``class x y width height`` per box."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from edgebus_detection.datasets.files import read_text
from edgebus_detection.datasets.index import PictureIndex
from edgebus_detection.datasets.picture import (
    PROVENANCE_FILE,
    Corners,
    DatasetBox,
    DatasetPicture,
    SourceError,
    bounds,
    sample_id_in,
)

_YAML = ("data.yaml", "data.yml")
_LISTS = ("classes.txt", "obj.names")
_NOTES = "notes.json"  # of Label Studio's export
_FORM = "'class x y width height', in parts of the picture's size"
_GRACE = 0.01
_NUMBERED = re.compile(r"(\d+)[:,;\s]+(\S.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassNames:
    """Class names by number, the files that they are from, and the shape of keypoints."""

    names: Mapping[int, str]
    files: tuple[Path, ...] = ()
    keypoints: tuple[int, int] | None = None

    @property
    def place(self) -> str:
        """Where they are from, in words."""
        return ", ".join(file.name for file in self.files) or "the settings"


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    text: str
    values: tuple[float, ...]


def read_yolo(
    root: Path, index: PictureIndex, *, names: Mapping[int, str] | None = None
) -> tuple[list[DatasetPicture], ClassNames | None]:
    """Pictures, with boxes where they have a label file, and label files whose pictures are gone.

    A picture without a label file is one that nobody has labelled; an empty file says that there
    is nothing in it. Of polygons and oriented boxes it is their bounds.

    Args:
        root: The labels' folder, that of the pictures or another.
        index: The pictures.
        names: Class names by number, in place of the data set's own.

    Raises:
        SourceError: Class names, keypoints or provenance cannot be read.
    """
    own = class_names(root)
    known = (
        own
        if names is None
        else ClassNames(names=names, keypoints=None if own is None else own.keypoints)
    )
    provenance = _provenance(root)
    files = _label_files(root, index)
    lines: dict[Path, list[_Line]] = {}
    bad: dict[Path, list[str]] = {}
    for labels in files:
        bad[labels] = []
        try:
            lines[labels] = _lines(labels, bad[labels])
        except SourceError as error:
            bad[labels].append(f"{labels.name}: {error.reason}")
    every = [line for some in lines.values() for line in some]
    doubt = (known is None or known.keypoints is None) and _may_be_keypoints(every)
    corners_instead = _look_like_corners(every)
    found: list[DatasetPicture] = []
    for labels, picture in files.items():
        by = provenance.get(labels.stem, ())
        rows = lines.get(labels, [])
        boxes: list[DatasetBox] = []
        for place, line in enumerate(rows):
            where = f"{labels.name}, line {line.number}"
            try:
                if corners_instead and len(line.values) == 5:
                    raise ValueError(
                        "looks like corners x1, y1, x2, y2, as all lines do, and as a box some "
                        f"reach out of the picture; it should be {_FORM}"
                    )
                label, corners = _box(line.values, known, doubt=doubt)
            except ValueError as error:
                bad[labels].append(f"{where}: {line.text!r} {error}")
                continue
            whose = by[place] if len(by) == len(rows) else None
            boxes.append(
                DatasetBox(label=label, corners=corners, relative=True, by=whose, where=where)
            )
        found.append(
            DatasetPicture(
                name=labels.name if picture is None else picture.name,
                file=picture,
                boxes=tuple(boxes),
                sample=sample_id_in(labels.stem),
                where=labels.name,
                wrong=tuple(bad[labels]),
            )
        )
    taken = set(files.values())
    found += [
        DatasetPicture(
            name=file.name,
            file=file,
            boxes=None,
            sample=sample_id_in(file.stem),
            where=file.name,
        )
        for file in index.files
        if file not in taken
    ]
    return found, known


def _label_files(root: Path, index: PictureIndex) -> dict[Path, Path | None]:
    """Label files, each with its picture."""
    texts = index.others if root == index.root else PictureIndex(root).others
    texts = [path for path in texts if path.suffix.lower() == ".txt" and path.name not in _LISTS]
    there = {str(text).lower(): text for text in texts}  # some tools write a.TXT
    by_stem: dict[str, list[Path]] = {}
    for text in texts:
        by_stem.setdefault(text.stem, []).append(text)
    found: dict[Path, Path | None] = {}
    for picture in index.files:
        labels = label_file(picture)
        if root != index.root:
            inner = picture.relative_to(index.root).with_suffix(".txt")
            places = [root / inner, root / "labels" / inner]
            alone = by_stem.get(picture.stem, [])
            labels = next((place for place in places if str(place).lower() in there), labels)
            if str(labels).lower() not in there and len(alone) == 1:
                labels = alone[0]
            if str(labels).lower() not in there:
                continue
        labels = there.get(str(labels).lower(), labels)
        if labels.is_file():
            found[labels] = picture
    lost = [text for text in texts if text not in found and "labels" in text.parent.parts]
    return found | dict.fromkeys(lost)


def _lines(labels: Path, wrong: list[str]) -> list[_Line]:
    """The lines of numbers, from 1; empty ones are left out."""
    found: list[_Line] = []
    for number, line in enumerate(read_text(labels).splitlines(), start=1):
        text = line.strip()
        if not text:
            continue
        try:
            values = tuple(map(float, text.split()))
        except ValueError as error:
            wrong.append(f"{labels.name}, line {number}: {text[:120]!r} is not {_FORM} ({error})")
            continue
        found.append(_Line(number, text[:120], values))
    return found


def _box(
    values: tuple[float, ...], known: ClassNames | None, *, doubt: bool
) -> tuple[str, Corners]:
    """Class and corners of a line.

    Raises:
        ValueError: It is no box, and why.
    """
    key, numbers = values[0], values[1:]
    if not all(map(math.isfinite, values)):
        raise ValueError(f"is not {_FORM}: a number is not finite")
    if key != int(key) or key < 0:
        raise ValueError(f"is not {_FORM}: {key:g} is no number of a class")
    label = int(key)
    if known is None:
        way = "put a data.yaml with 'names' or a classes.txt beside the labels, or set 'classes'"
        raise ValueError(f"is of class {label}, and class {label} has no name; {way}")
    if label not in known.names:
        way = (
            f"{known.place} has {len(known.names)} names, the last is {max(known.names, default=0)}"
        )
        raise ValueError(f"is of class {label}, and class {label} has no name; {way}")
    points = list(zip(numbers[::2], numbers[1::2], strict=False))
    with_keypoints = known.keypoints is not None and len(numbers) == 4 + math.prod(known.keypoints)
    if len(numbers) == 4 or with_keypoints:
        x, y, width, height = numbers[:4]
        if width <= 0 or height <= 0:
            raise ValueError(f"has no area: width {width:g}, height {height:g}")
        corners = x - width / 2, y - height / 2, x + width / 2, y + height / 2
    elif len(numbers) == 5:
        raise ValueError(
            "has a sixth number, a prediction's score or a track: these are not true labels; "
            "remove it if they are"
        )
    elif len(numbers) < 6 or len(numbers) % 2:
        way = "; with keypoints, put kpt_shape into data.yaml" if len(numbers) > 6 else ""
        raise ValueError(f"is not {_FORM}: it has {len(values)} numbers{way}")
    elif doubt:
        raise ValueError(
            "may be a polygon, or a box with keypoints: put kpt_shape into data.yaml, or write "
            f"{_FORM}"
        )
    else:
        corners = bounds(points)
    return known.names[label], corners


def _look_like_corners(lines: Sequence[_Line]) -> bool:
    """Whether all boxes are as good as corners, and better: some reach out of the picture."""
    numbers = [line.values[1:] for line in lines if len(line.values) == 5]
    reaching = False
    for x, y, width, height in numbers:
        if not (0 <= x < width <= 1 + _GRACE and 0 <= y < height <= 1 + _GRACE):
            return False
        low, high = min(x - width / 2, y - height / 2), max(x + width / 2, y + height / 2)
        reaching = reaching or low < -2 * _GRACE or high > 1 + 2 * _GRACE
    return reaching


def _may_be_keypoints(lines: Sequence[_Line]) -> bool:
    """Whether all that look like polygons may as well be boxes with keypoints in them."""
    numbers = [line.values[1:] for line in lines if len(line.values) > 6]
    if not numbers or len({len(values) for values in numbers}) > 1:
        return False
    return any(all(_keypoints_inside(values, size) for values in numbers) for size in (2, 3))


def _keypoints_inside(values: Sequence[float], size: int) -> bool:
    x, y, width, height, *rest = values
    if len(rest) % size or width <= 0 or height <= 0:
        return False
    across, down = width / 2 + _GRACE, height / 2 + _GRACE
    if x - across < -2 * _GRACE or x + across > 1 + 2 * _GRACE:
        return False
    if y - down < -2 * _GRACE or y + down > 1 + 2 * _GRACE:
        return False
    for at in range(0, len(rest), size):
        point = rest[at : at + size]
        if size == 3 and point[2] not in (0, 1, 2):
            return False
        absent = point[0] == point[1] == 0
        if not absent and (abs(point[0] - x) > across or abs(point[1] - y) > down):
            return False
    return True


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


def class_names(folder: Path) -> ClassNames | None:
    """Names by number: of the files that list them in a folder, or else above it.

    These are `data.yaml`, `classes.txt` (Label Studio, LabelImg), `obj.names` (CVAT, darknet) and
    `notes.json` (Label Studio); in the folder itself, any YAML file with `names`.

    Raises:
        SourceError: Such a file cannot be read, or two in one folder contradict each other.
    """
    for place in (folder, folder / "labels", *list(folder.resolve().parents)[:3]):
        found = [each for each in _named_in(place, others=place == folder) if each.names]
        for other in found[1:]:
            if other.names != found[0].names:
                reason = (
                    f"names the classes {_listed(found[0].names)}, but {other.files[0].name} names "
                    f"{_listed(other.names)}; correct one of them, or remove it"
                )
                raise SourceError(source=str(found[0].files[0]), reason=reason)
        if found:
            return ClassNames(
                names=found[0].names,
                files=tuple(file for each in found for file in each.files),
                keypoints=found[0].keypoints,
            )
    return None


def _named_in(place: Path, *, others: bool) -> list[ClassNames]:
    found: list[ClassNames] = []
    listed = [place / name for name in _YAML if (place / name).is_file()]
    more = sorted(place.glob("*.y*ml")) if others and not listed else []
    for file in listed:
        found.append(_of_yaml(file, _yaml(file)))
    for file in more:
        try:
            document = yaml.safe_load(read_text(file))
        except (SourceError, yaml.YAMLError):
            continue
        if isinstance(document, dict) and isinstance(document.get("names"), list | dict):
            found.append(_of_yaml(file, document))
    for file in (place / name for name in _LISTS):
        if file.is_file():
            names = _listed_names(read_text(file).splitlines())
            found.append(ClassNames(names=names, files=(file,)))
    notes = place / _NOTES
    if notes.is_file():
        try:
            rows = json.loads(read_text(notes))["categories"]
            names = {int(row["id"]): str(row["name"]).strip() for row in rows}
            found.append(ClassNames(names=names, files=(notes,)))
        except (KeyError, TypeError, ValueError):
            pass  # somebody else's notes
    return found


def _listed_names(lines: Sequence[str]) -> dict[int, str]:
    """Names by line, from 0, or by the numbers before them where all lines have one."""
    names = {number: line.strip() for number, line in enumerate(lines) if line.strip()}
    numbered = [_NUMBERED.fullmatch(name) for name in names.values()]
    if names and all(numbered):
        return {int(found[1]): found[2] for found in numbered if found}
    return names


def _yaml(file: Path) -> Any:
    try:
        return yaml.safe_load(read_text(file))
    except yaml.YAMLError as error:
        reason = f"has no class names under 'names' (no YAML: {error})"
        raise SourceError(source=str(file), reason=reason) from error


def _of_yaml(file: Path, document: Any) -> ClassNames:
    try:
        listed = document["names"]
        pairs = enumerate(listed) if isinstance(listed, list) else listed.items()
        names = {int(number): str(name).strip() for number, name in pairs}
        count = document.get("nc")
        if count is not None and int(count) != len(names):
            msg = f"nc is {count}, and there are {len(names)} names"
            raise ValueError(msg)
        shape = document.get("kpt_shape")
        keypoints = None if shape is None else (int(shape[0]), int(shape[1]))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        reason = f"has no class names under 'names' ({type(error).__name__}: {error})"
        raise SourceError(source=str(file), reason=reason) from error
    return ClassNames(names=names, files=(file,), keypoints=keypoints)


def _listed(names: Mapping[int, str]) -> str:
    shown = ", ".join(f"{number} {name}" for number, name in list(names.items())[:4])
    return f"{shown}{', ...' if len(names) > 4 else ''}"


def _provenance(folder: Path) -> dict[str, list[str]]:
    file = folder / PROVENANCE_FILE
    if not file.is_file():
        return {}
    try:
        document = json.loads(read_text(file))
    except ValueError as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(source=str(file), reason=f"is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise SourceError(source=str(file), reason="is no object of lists")
    return {key: value for key, value in document.items() if isinstance(value, list)}
