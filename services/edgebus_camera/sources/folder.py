"""A folder of pictures as a source, with labels where it has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgebus_camera.sources.base import (
    PASS_PERIOD,
    PictureSkippedError,
    SourceError,
    SourceFrame,
)
from edgebus_detection.datasets import LabelledPicture, NoLabelsError, read_dataset
from edgebus_detection.datasets.files import pictures_below
from edgebus_detection.vision import Image, ImageError, read_picture


class FolderSource:
    """The pictures of a folder, in order of their names.

    Labels are found where tools put them; see `edgebus_detection.datasets.read_dataset`. A picture
    that nobody has labelled, or whose labels cannot be right, goes out without ground truth.

    Args:
        path: The folder.
        loop: Begin again after the last picture.
        stride: Take one picture in this many.
        truth: A label file or a folder of labels that lies elsewhere.
        classes: Names of YOLO's class numbers; by default the data set's own.

    Raises:
        SourceError: It has no pictures, or its labels cannot be read.
    """

    live = False
    trouble = ""
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
        self._labels: dict[Path, LabelledPicture] = {}
        self.left_out: list[str] = []
        """Labels that cannot be right, each with its reason."""
        self._pictures = pictures_below(path)
        self.labels = self._read_labels(truth, classes)
        """The labels that were found, or why there are none, in words."""
        self._pictures = self._pictures[::stride]
        self._failed_in_a_row = 0

    @property
    def is_labelled(self) -> bool:
        """Whether any of its pictures has labels."""
        return any(each.labels is not None for each in self._labels.values())

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
            image = load_picture(picture)
        except PictureSkippedError as error:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= len(self._pictures):
                reason = f"none of its {len(self._pictures)} pictures can be read, last {error}"
                raise SourceError(source=str(self._path), reason=reason) from error
            raise
        self._failed_in_a_row = 0
        period = -(-len(self._pictures) // PASS_PERIOD) * PASS_PERIOD
        labelled = self._labels.get(picture)
        boxes = None
        # A picture that was replaced meanwhile by one of another size has no labels.
        if labelled is not None and labelled.labels and labelled.size == image.shape[1::-1]:
            boxes = (*labelled.labels.boxes, *labelled.labels.ignore)
        return SourceFrame(image, boxes, turn * period + place)

    def close(self) -> None:
        """Nothing to let go of."""

    def _read_labels(self, truth: Path | None, classes: Mapping[int, str] | None) -> str:
        try:
            dataset = read_dataset(
                self._path if truth is None else truth,
                pictures=None if truth is None else self._path,
                names=classes,
            )
        except NoLabelsError as error:
            if truth is not None:
                raise
            return error.reason
        there = [picture for picture in dataset.pictures if picture.file is not None]
        lost = next((each for each in dataset.pictures if each.is_lost), None)
        if lost is not None:
            reason = f"{lost.where} names {lost.name}, which is not there; check the path"
            raise SourceError(source=str(self._path), reason=reason)
        if truth is not None and not any(picture.boxes is not None for picture in there):
            reason = f"has no label of any picture of {self._path}; found {dataset.summary}"
            raise SourceError(source=str(truth), reason=reason)
        self._labels = {each.file: each for each in dataset.place(there, self.left_out)}
        return dataset.summary


def load_picture(path: Path) -> Image:
    """Read a picture, ``[h, w, 3]`` uint8 BGR.

    Raises:
        PictureSkippedError: It cannot be read or decoded.
    """
    try:
        return read_picture(path)
    except ImageError as error:
        raise PictureSkippedError(source=str(path), reason=error.reason) from error
