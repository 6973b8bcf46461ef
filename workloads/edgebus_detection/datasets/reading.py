"""The reader of labelled pictures, for cameras, training and import alike.

It finds labels as tools lay them out, and says what it has found. What cannot be right makes its
picture one without labels, never one with nothing in it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgebus_detection.datasets.coco import read_coco
from edgebus_detection.datasets.files import picture_size, read_text
from edgebus_detection.datasets.index import PictureIndex
from edgebus_detection.datasets.labelstudio import read_tasks
from edgebus_detection.datasets.picture import DatasetPicture, PlacedBoxes, SourceError
from edgebus_detection.datasets.voc import read_cvat, read_voc, read_xml
from edgebus_detection.datasets.yolo import read_yolo
from edgebus_detection.vision import ImageError

_NAMED: Final = {
    "annotations.json": "COCO",
    "_annotations.coco.json": "COCO",
    "instances.json": "COCO",
    "tasks.json": "Label Studio",
}
"""Files whose content is no question: what is wrong with them is told as such."""

_NO_LABELS: Final = frozenset({"provenance.json", "notes.json"})
_MOST_WRONG: Final = 0.05
_KNOWN: Final = (
    "expected a COCO file (annotations/instances_*.json, annotations.json, result.json), YOLO text "
    "files with a data.yaml or classes.txt, Pascal VOC or CVAT XML, or Label Studio's JSON"
)


class NoLabelsError(SourceError):
    """A folder without labels of any known form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledPicture:
    """A picture of a data set with its labels in its own pixels.

    Attributes:
        file: The picture.
        size: Its width and height.
        labels: Its labels; None where nobody has labelled it, or they cannot be right.
    """

    file: Path
    size: tuple[int, int]
    labels: PlacedBoxes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Pictures and their labels, as they are written.

    Attributes:
        path: What was read.
        form: The labels' form, and the files that hold them, in words.
        pictures: In the order of the label file, or of their paths.
        wrong: What is wrong with the whole.
    """

    path: Path
    form: str
    pictures: tuple[DatasetPicture, ...]
    wrong: tuple[str, ...] = ()

    @property
    def counts(self) -> Counter[str]:
        """Number of boxes of each class, on the pictures that are there."""
        there = (picture for picture in self.pictures if picture.file is not None)
        return Counter(box.label for picture in there for box in picture.boxes or ())

    @property
    def summary(self) -> str:
        """Label file, pictures, boxes and classes, in one line."""
        there = [picture for picture in self.pictures if picture.file is not None]
        labelled = [picture for picture in there if picture.boxes is not None]
        counts = self.counts
        lost = len(self.pictures) - len(there)
        return (
            f"{self.form}: {len(labelled)} of {_number(len(there), 'picture')} labelled, "
            f"{_number(counts.total(), 'box', 'boxes')}{_classes(counts)}"
            + (f"; {lost} labelled pictures are not there" if lost else "")
        )

    def check(self) -> None:
        """Refuse what is wrong with the whole.

        Raises:
            SourceError: Something is.
        """
        if self.wrong:
            raise self._refused(self.wrong)

    def place(
        self, pictures: Sequence[DatasetPicture], left_out: list[str]
    ) -> Iterator[LabelledPicture]:
        """Pictures with their labels in pixels, those that cannot be right without any.

        Args:
            pictures: Those of them that are wanted; their files are there.
            left_out: Gets a line for each label that cannot be right, and for each picture that
                cannot be read, which is left out.

        Raises:
            SourceError: So many labels are wrong that the others are not to be trusted.
        """
        self.check()
        wrong: list[str] = []
        count = 0
        for picture in pictures:
            if picture.file is None:
                continue
            try:
                size = picture_size(picture.file)
            except ImageError as error:
                left_out.append(f"picture {picture.file.name}: {error}")
                continue
            labels = None
            if picture.boxes is not None:
                labels = picture.place(size)
                if labels.wrong:
                    wrong += labels.wrong
                    count += 1
                    labels = None
            yield LabelledPicture(file=picture.file, size=size, labels=labels)
        labelled = sum(picture.boxes is not None for picture in pictures)
        if count > _MOST_WRONG * labelled:
            raise self._refused(wrong, of=f"{count} of {labelled} labelled pictures")
        left_out += wrong

    def _refused(self, reasons: Sequence[str], *, of: str = "") -> SourceError:
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        about = f"the labels of {of} cannot be right: " if of else ""
        return SourceError(source=str(self.path), reason=f"{about}{reasons[0]}{more}")


def read_dataset(
    path: Path, *, pictures: Path | None = None, names: Mapping[int, str] | None = None
) -> Dataset:
    """Read labelled pictures in whatever form they are.

    - COCO: ``annotations/instances_*.json`` with ``images/`` or ``train2017/`` beside it (COCO,
      CVAT, datumaro), ``annotations.json``, ``result.json`` (Label Studio),
      ``train/_annotations.coco.json`` (Roboflow), or any such file by its name.
    - YOLO: a text file per picture in ``labels/`` for ``images/``, or beside it, with
      `data.yaml`, `classes.txt` or `obj.names` in the folder or above it.
    - Pascal VOC: an XML file per picture, wherever it is. CVAT: ``annotations.xml``.
    - Label Studio: its JSON or JSON-MIN.

    Args:
        path: A folder, or a label file.
        pictures: Folder of the pictures, where it is another.
        names: YOLO's class names by number, in place of the data set's own.

    Raises:
        NoLabelsError: It is a folder without labels.
        SourceError: It is not there, or cannot be read.
    """
    if not path.exists():
        raise SourceError(source=str(path), reason="is not there; check the path")
    if path.suffix.lower() == ".zip":
        raise SourceError(source=str(path), reason="is packed; unpack it, and give the folder")
    if path.is_file() and path.suffix.lower() in (".yaml", ".yml"):
        path = path.parent
    root = path if path.is_dir() else _root_of(path)
    index = PictureIndex(pictures or root)
    if path.is_file():
        found = _of_files(path, [path], index, strict=True)
        if found is None:
            raise SourceError(source=str(path), reason=f"is no label file; {_KNOWN}")
        return found
    others = index.others if pictures in (None, path) else PictureIndex(path).others
    found = _of_files(path, _candidates(path, others), index)
    found = found or _of_voc(path, others, index) or _of_yolo(path, index, names)
    if found is None and pictures is None:
        found = _above(path, index)
    if found is None:
        seen = [
            file.name for file in others if file.suffix.lower() in (".json", ".xml", ".txt", ".csv")
        ]
        but = f" ({', '.join(seen[:3])} {'are' if len(seen) > 1 else 'is'} no such)" if seen else ""
        raise NoLabelsError(source=str(path), reason=f"holds no labels{but}; {_KNOWN}")
    return found


def _root_of(file: Path) -> Path:
    """The folder of a label file's pictures, at least."""
    within = file.parent.name.lower() in ("annotations", "labels")
    return file.parent.parent if within else file.parent


def _candidates(folder: Path, others: Sequence[Path]) -> list[Path]:
    """JSON and XML files of whole data sets: at the top, in `annotations`, or in a folder each."""
    found = [
        file
        for file in others
        if file.suffix.lower() in (".json", ".xml")
        and file.name not in _NO_LABELS
        and len(file.relative_to(folder).parts) <= 2
    ]
    # Beside COCO's instances lie captions and keypoints of the same pictures.
    whole = {file.parent for file in found if file.name.startswith("instances_")}
    return [file for file in found if file.parent not in whole or "instances_" in file.name]


def _of_files(
    path: Path, files: Sequence[Path], index: PictureIndex, *, strict: bool = False
) -> Dataset | None:
    """The data set of label files that hold many pictures each; None where none is such a file."""
    found: list[DatasetPicture] = []
    wrong: list[str] = []
    used: list[str] = []
    lost: list[str] = []
    for file in files:
        read = _reader(file, strict=strict or file.name in _NAMED)
        if read is None:
            continue
        form, reader = read
        pictures = reader(index, wrong)
        if pictures and not any(each.file for each in pictures) and index.files and len(files) > 1:
            lost.append(f"none of the {len(pictures)} pictures of {file.name} is there")
            continue
        used.append(f"{file.name} ({form})")
        found += pictures
    if not used and not lost:
        return None
    if not used:
        raise SourceError(source=str(path), reason=f"{'; '.join(lost)}; check the path")
    twice = Counter(each.file for each in found if each.file is not None)
    wrong += [
        f"{file.name} is labelled {count} times, in {', '.join(used)}; give one label file"
        for file, count in twice.items()
        if count > 1
    ]
    form = "; ".join([", ".join(used), *lost])
    return Dataset(path=path, form=form, pictures=tuple(found), wrong=tuple(wrong))


_Reader = Callable[[PictureIndex, list[str]], list[DatasetPicture]]


def _reader(file: Path, *, strict: bool) -> tuple[str, _Reader] | None:
    """The form of a label file and its reader; None where it is something else."""
    if file.suffix.lower() == ".xml":
        root = read_xml(file)
        if root.tag == "annotation":
            return ("VOC", lambda index, _: [read_voc(file, root, index)]) if strict else None
        if root.tag != "annotations":
            return None
        return "CVAT", lambda index, _: read_cvat(file, root, index)
    try:
        document = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        if not strict and isinstance(error, SourceError):
            return None
        if isinstance(error, SourceError):
            raise
        reason = f"cannot be read as JSON: {error}"
        raise SourceError(source=str(file), reason=reason) from error
    form = _form_of(document, strict=_NAMED.get(file.name, "COCO" if strict else ""))
    if form == "COCO":
        return form, lambda index, wrong: read_coco(file, document, index, wrong)
    if form == "Label Studio":
        return form, lambda index, wrong: read_tasks(file, document, index, wrong)
    if form:
        raise SourceError(source=str(file), reason=f"{form}; {_KNOWN}")
    return None


def _form_of(document: Any, *, strict: str) -> str:
    """COCO, Label Studio, or what else it is, for the error; empty where that is unknown."""
    if isinstance(document, dict):
        if document.keys() >= {"images", "annotations"}:
            return "COCO"
        if "dm_format_version" in document or document.keys() >= {"items", "categories"}:
            return "is datumaro's own form: export COCO"
        if "shapes" in document:
            return "is a file of LabelMe, one for each picture: convert them to COCO"
    first = document[0] if isinstance(document, list) and document else None
    if isinstance(first, dict):
        if first.keys() >= {"image_id", "category_id", "bbox"}:
            return "is a list of a model's detections, not of true boxes"
        if "data" in first or "annotation_id" in first:
            return "Label Studio"
    return strict


def _of_voc(path: Path, others: Sequence[Path], index: PictureIndex) -> Dataset | None:
    found: list[DatasetPicture] = []
    for file in others:
        if file.suffix.lower() == ".xml":
            root = read_xml(file)
            if root.tag == "annotation":
                found.append(read_voc(file, root, index))
    if not found:
        return None
    taken = {picture.file for picture in found}
    found += [
        DatasetPicture(name=file.name, file=file, boxes=None, where=file.name)
        for file in index.files
        if file not in taken
    ]
    form = f"{_number(len(taken), 'XML file')} (Pascal VOC)"
    return Dataset(path=path, form=form, pictures=tuple(found))


def _of_yolo(path: Path, index: PictureIndex, names: Mapping[int, str] | None) -> Dataset | None:
    found, known = read_yolo(path, index, names=names)
    files = sum(picture.boxes is not None for picture in found)
    if not files:
        return None
    form = f"{_number(files, 'text file')} (YOLO), classes of {known.place if known else 'nowhere'}"
    return Dataset(path=path, form=form, pictures=tuple(found))


def _above(path: Path, index: PictureIndex) -> Dataset | None:
    """The data set whose labels lie above a folder of its pictures."""
    for place in list(path.resolve().parents)[:3]:
        folders = [place, place / "annotations", place / "Annotations"]
        files = [
            file
            for folder in folders
            if folder.is_dir()
            for file in sorted(folder.iterdir())
            if file.suffix.lower() in (".json", ".xml") and file.is_file()
        ]
        if not files:
            continue
        try:
            found = _of_files(path, _candidates(place, files), index)
            found = found or _of_voc(path, files, index)
        except SourceError:
            continue  # labels of something else
        if found is not None and any(picture.file for picture in found.pictures):
            return found
    return None


def _classes(counts: Counter[str]) -> str:
    if not counts:
        return ""
    shown = ", ".join(f"{count} {label}" for label, count in counts.most_common(6))
    return f" ({shown}{', ...' if len(counts) > 6 else ''})"


def _number(count: int, one: str, many: str = "") -> str:
    return f"{count} {one}" if count == 1 else f"{count} {many or one + 's'}"
