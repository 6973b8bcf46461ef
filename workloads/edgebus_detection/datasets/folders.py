"""Labelled folders as material of a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edgebus.contracts import Split, split_of
from edgebus_detection.datasets.labelled import LabelBuilder, Labelled
from edgebus_detection.datasets.picture import SourceError
from edgebus_detection.datasets.reading import read_dataset

T = TypeVar("T")

_BLOCK = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A labelled folder, read.

    Attributes:
        pictures: In the order of their paths.
        refused: Pictures and labels that were left out, each with its reason.
        summary: What was found: label files, pictures, boxes and classes.
    """

    pictures: tuple[Labelled, ...]
    refused: tuple[str, ...]
    summary: str

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
    """Read a labelled folder of any form that `read_dataset` knows.

    A picture whose labels cannot be right is left out and named.

    Args:
        path: The folder, or a label file.
        builder: Turns class names into the model's labels.
        limit: At most this many pictures, evenly spread.

    Raises:
        SourceError: It is not there, holds no labelled pictures or none with a class that the
            model knows, names pictures that are not there, or many of its labels are wrong.
    """
    dataset = read_dataset(path)
    dataset.check()
    labelled = [picture for picture in dataset.pictures if picture.boxes is not None]
    lost = next((each for each in labelled if each.is_lost), None)
    if lost is not None:
        reason = f"{lost.where} names {lost.name!r}, which is not there; check the path"
        raise SourceError(source=str(path), reason=reason)
    files = {picture.file: picture for picture in labelled if picture.file is not None}
    if not files:
        reason = f"holds no labelled picture; found {dataset.summary}"
        raise SourceError(source=str(path), reason=reason)
    chosen: Sequence[Path] = sorted(files)
    if limit is not None:
        chosen = spread(chosen, limit)
    root = path if path.is_dir() else path.parent
    refused: list[str] = []
    pictures: list[Labelled] = []
    known = regions = 0
    placed = dataset.place([files[file] for file in chosen], refused)
    for number, each in enumerate(placed):
        if each.labels is None:
            continue
        truth = builder.build(
            each.labels.boxes,
            width=each.size[0],
            height=each.size[1],
            ignore=each.labels.ignore,
        )
        known += len(truth.labels)
        regions += len(each.labels.boxes)
        inside = each.file.is_relative_to(root)
        pictures.append(
            Labelled(
                path=each.file,
                truth=truth,
                provenance=path.name,
                key=str(each.file.relative_to(root) if inside else each.file),
                group=f"{path.name}/{number // _BLOCK}",
            )
        )
    if regions and not known:
        classes = ", ".join(builder.classes[:8]) + (", ..." if len(builder.classes) > 8 else "")
        reason = (
            f"has none of the model's classes ({classes}); found {dataset.summary}. Name others in "
            "labels.aliases, or give another folder"
        )
        raise SourceError(source=str(path), reason=reason)
    return Folder(pictures=tuple(pictures), refused=tuple(refused), summary=dataset.summary)


def spread(items: Sequence[T], limit: int) -> Sequence[T]:
    """At most `limit` of them, evenly spread."""
    if len(items) <= limit:
        return items
    return [items[number * len(items) // limit] for number in range(limit)]
