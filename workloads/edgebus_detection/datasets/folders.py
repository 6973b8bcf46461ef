"""Labelled folders: COCO `annotations.json`, or YOLO text files beside the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edgebus.contracts import Split, split_of
from edgebus_detection.datasets.labelled import LabelBuilder, Labelled
from edgebus_detection.datasets.picture import DatasetPicture, ImpossibleBoxError, SourceError
from edgebus_detection.datasets.reading import read_coco
from edgebus_detection.datasets.yolo import read_yolo
from edgebus_detection.messages import Box
from edgebus_detection.vision import ImageError, Truth, read_picture

T = TypeVar("T")

_BLOCK = 10


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
    or in the parallel folder, whose path has `labels` for `images`; class names come from a
    `data.yaml` or `classes.txt` in it or above it, otherwise from the model.

    Args:
        path: The folder.
        builder: Turns class names into the model's labels.
        limit: At most this many pictures, evenly spread.

    Raises:
        SourceError: It is not there, holds no pictures, or its annotations cannot be read.
    """
    if not path.exists():
        reason = "is not there; give a folder of labelled pictures"
        raise SourceError(source=str(path), reason=reason)
    coco = path if path.is_file() else path / "annotations.json"
    root = coco.parent if coco.is_file() else path
    refused: list[str] = []
    if coco.is_file():
        found = read_coco(coco, refused)
    else:
        found = read_yolo(path, refused, names=dict(enumerate(builder.classes)))
    files = {_file_of(picture, root): picture for picture in found}
    chosen: Sequence[Path] = sorted((file for file in files if file is not None), key=str)
    if not chosen:
        reason = "holds no labelled picture; expected COCO annotations.json or YOLO text files"
        raise SourceError(source=str(path), reason=reason)
    if limit is not None:
        chosen = spread(chosen, limit)
    pictures: list[Labelled] = []
    for number, file in enumerate(chosen):
        picture = files[file]
        try:
            truth = _truth(picture, file, builder, refused)
        except ImageError as error:
            refused.append(f"picture {file.name}: {error}")
            continue
        pictures.append(
            Labelled(
                path=file,
                truth=truth,
                provenance=path.name,
                key=str(file.relative_to(root)),
                group=f"{path.name}/{number // _BLOCK}",
            )
        )
    return Folder(pictures=tuple(pictures), refused=tuple(refused))


def spread(items: Sequence[T], limit: int) -> Sequence[T]:
    """At most `limit` of them, evenly spread."""
    if len(items) <= limit:
        return items
    return [items[number * len(items) // limit] for number in range(limit)]


def _file_of(picture: DatasetPicture, root: Path) -> Path | None:
    """The file of a picture; None where only its label file is left.

    Raises:
        SourceError: COCO names a file that is not there, or outside of the folder.
    """
    if picture.file is not None or picture.size is None:
        return picture.file
    reason = f"names {picture.name!r}, which is not there"
    if not (root / picture.name).resolve().is_relative_to(root.resolve()):
        reason = f"names {picture.name!r}, which lies outside the folder"
    raise SourceError(source=str(root), reason=reason)


def _truth(picture: DatasetPicture, file: Path, builder: LabelBuilder, refused: list[str]) -> Truth:
    size = picture.size
    if size is None:
        height, width = read_picture(file).shape[:2]
        size = width, height
    boxes: list[Box] = []
    crowds: list[Box] = []
    for each in picture.boxes:
        try:
            (crowds if each.crowd else boxes).append(each.check(size))
        except ImpossibleBoxError as error:
            refused.append(str(error))
    return builder.build(boxes, width=size[0], height=size[1], ignore=crowds)
