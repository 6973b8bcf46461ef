"""A folder of pictures as a source, with COCO or YOLO labels where it has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgebus_camera.sources.base import (
    PASS_PERIOD,
    PictureSkippedError,
    SourceError,
    SourceFrame,
)
from edgebus_detection.datasets.picture import PICTURES, DatasetBox, clip_box
from edgebus_detection.datasets.reading import read_coco
from edgebus_detection.datasets.yolo import class_names, label_file, yolo_boxes
from edgebus_detection.messages import Box
from edgebus_detection.vision import Image, ImageError, read_picture

_COCO_NAMES: Final = ("annotations.json", "_annotations.coco.json", "instances.json")


@dataclass(frozen=True, slots=True)
class _Picture:
    """A picture, and its boxes (COCO) or the file that they are in (YOLO)."""

    path: Path
    boxes: tuple[DatasetBox, ...] | None = None
    labels: Path | None = None


class FolderSource:
    """The pictures of a folder, in order of their names.

    Labels are found beside the pictures: a COCO file (``annotations.json``), or YOLO text files in
    a ``labels`` folder parallel to ``images``, or next to each picture.

    Args:
        path: The folder.
        loop: Begin again after the last picture.
        stride: Take one picture in this many.
        truth: A COCO file or a folder of YOLO labels that lies elsewhere.
        classes: Names of YOLO's class numbers; by default from ``data.yaml``.

    Raises:
        SourceError: It has no pictures, or its labels cannot be read.
    """

    live = False
    fps = None

    def __init__(
        self,
        path: Path,
        *,
        loop: bool,
        stride: int = 1,
        truth: Path | None = None,
        classes: Mapping[int, str] | None = None,
    ) -> None:
        self._path, self._loop = path, loop
        self._names = classes if classes is not None else class_names(path)
        self._pictures = _list(path, truth)[::stride]
        self._check_first_labels()
        self._failed_in_a_row = 0

    @property
    def length(self) -> int:
        """Pictures in one pass."""
        return len(self._pictures)

    def read(self, slot: int) -> SourceFrame | None:
        """The picture of a slot."""
        turn, place = divmod(slot, len(self._pictures))
        if turn and not self._loop:
            return None
        picture = self._pictures[place]
        try:
            image = load_picture(picture.path)
            boxes = self._boxes(picture, image)
        except PictureSkippedError as error:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= len(self._pictures):
                reason = f"none of its {len(self._pictures)} pictures can be read, last {error}"
                raise SourceError(source=str(self._path), reason=reason) from error
            raise
        self._failed_in_a_row = 0
        period = -(-len(self._pictures) // PASS_PERIOD) * PASS_PERIOD
        return SourceFrame(image, boxes, turn * period + place)

    def close(self) -> None:
        """Nothing to let go of."""

    def _boxes(self, picture: _Picture, image: Image) -> tuple[Box, ...] | None:
        found = picture.boxes
        if picture.labels is not None:
            found = self._labels(picture.labels, error=PictureSkippedError)
        if found is None:
            return None
        size = (image.shape[1], image.shape[0])
        boxes = []
        for each in found:
            try:
                boxes.append(clip_box(each.label, each.pixels(size), size=size))
            except ValueError as error:
                raise PictureSkippedError(source=each.where, reason=str(error)) from error
        return tuple(box for box in boxes if box is not None)

    def _labels(self, path: Path, *, error: type[SourceError]) -> tuple[DatasetBox, ...]:
        if not path.exists():
            return ()  # in YOLO, a picture with nothing in it
        wrong: list[str] = []
        boxes = yolo_boxes(path, self._names, wrong)
        if wrong:
            raise error(source=str(path.parent), reason=wrong[0])
        return boxes

    def _check_first_labels(self) -> None:
        """Missing class names are found at the start, not after hours."""
        for picture in self._pictures:
            if picture.labels is not None and picture.labels.exists():
                self._labels(picture.labels, error=SourceError)
                return


def load_picture(path: Path) -> Image:
    """Read a picture, ``[h, w, 3]`` uint8 BGR.

    Raises:
        PictureSkippedError: It cannot be read or decoded.
    """
    try:
        return read_picture(path)
    except ImageError as error:
        raise PictureSkippedError(source=str(path), reason=error.reason) from error


def pictures_below(path: Path) -> list[Path]:
    """The pictures of a folder and of those in it, by name.

    Raises:
        SourceError: It has none, or cannot be read.
    """
    try:
        paths = sorted(item for item in path.rglob("*") if item.suffix.lower() in PICTURES)
    except OSError as error:  # a folder that vanishes while it is read, or a broken disk
        reason = f"cannot be read: {error}"
        raise SourceError(source=str(path), reason=reason) from error
    if not paths:
        raise _no_pictures(path)
    return paths


def _no_pictures(path: Path) -> SourceError:
    reason = f"has no pictures ({', '.join(sorted(PICTURES))})"
    return SourceError(source=str(path), reason=reason)


def _list(path: Path, truth: Path | None) -> list[_Picture]:
    if not path.is_dir():
        raise SourceError(source=str(path), reason="there is no such folder; check the path")
    coco = _find_coco(path, truth)
    if coco is not None:
        pictures = _from_coco(path, coco)
    else:
        paths = pictures_below(path)
        pictures = [_Picture(item, labels=_labels_of(item, path, truth)) for item in paths]
        if not any(item.labels is not None and item.labels.exists() for item in pictures):
            if truth is not None:
                reason = f"has no label file for any picture of {path}"
                raise SourceError(source=str(truth), reason=reason)
            pictures = [_Picture(item) for item in paths]
    if not pictures:
        raise _no_pictures(path)
    return pictures


def _find_coco(path: Path, truth: Path | None) -> Path | None:
    if truth is not None:
        if not truth.exists():
            raise SourceError(source=str(truth), reason="there are no such labels; check 'truth'")
        return None if truth.is_dir() else truth
    return next((path / name for name in _COCO_NAMES if (path / name).is_file()), None)


def _from_coco(folder: Path, file: Path) -> list[_Picture]:
    wrong: list[str] = []
    pictures = []
    for listed in read_coco(file, wrong):
        name = listed.name
        places = [folder / name, file.parent / name, folder / "images" / name]
        place = next((item for item in places if item.is_file()), None)
        if place is None:
            reason = f"lists {name}, which is not in {folder}; check 'source' and 'truth'"
            raise SourceError(source=str(file), reason=reason)
        boxes = tuple(box for box in listed.boxes if not box.crowd)
        pictures.append(_Picture(place, boxes=boxes))
    if wrong:
        raise SourceError(source=str(file.parent), reason=wrong[0])
    return sorted(pictures, key=lambda picture: picture.path)


def _labels_of(picture: Path, root: Path, truth: Path | None) -> Path:
    """Label file of a picture, which may not be there."""
    if truth is not None:
        return (truth / picture.relative_to(root)).with_suffix(".txt")
    return label_file(picture)
