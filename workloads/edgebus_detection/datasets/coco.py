"""COCO: its classes, and annotation files as COCO has them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from edgebus_detection.datasets.index import PictureIndex
from edgebus_detection.datasets.picture import (
    Corners,
    DatasetBox,
    DatasetPicture,
    SourceError,
    bounds,
    provenance_of,
    sample_id_in,
    stated_size,
)

COCO_CLASSES: Final = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant",
    "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
"""By the numbers 0 to 79 that detectors use (not the 1 to 90 of COCO's own files)."""


def read_coco(
    file: Path, document: Any, index: PictureIndex, wrong: list[str]
) -> list[DatasetPicture]:
    """Pictures of a COCO annotation file, in its order.

    Crowds (`iscrowd`) are regions to ignore. Without a `bbox`, an object's is that of its polygon.

    Args:
        file: The JSON file.
        document: Its content.
        index: The pictures.
        wrong: Gets a line for what concerns no single picture.

    Raises:
        SourceError: It is no such file.
    """
    try:
        return _Coco(file, document, index, wrong).read()
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, SourceError):
            raise
        reason = f"is no COCO annotation file ({type(error).__name__}: {error})"
        raise SourceError(source=str(file), reason=reason) from error


class _Coco:
    def __init__(self, file: Path, document: Any, index: PictureIndex, wrong: list[str]) -> None:
        self._file, self._index, self._wrong = file, index, wrong
        self._rows: list[Any] = document["annotations"]
        self._names = self._numbered(document["categories"], "category")
        self._images = self._numbered(document["images"], "image")
        self._subset = file.stem.removeprefix("instances_") if "_" in file.stem else ""

    def read(self) -> list[DatasetPicture]:
        boxes: dict[Any, list[DatasetBox]] = defaultdict(list)
        bad: dict[Any, list[str]] = defaultdict(list)
        for row in self._rows:
            key, where = row["image_id"], f"{self._file.name}, annotation {row.get('id')}"
            if key not in self._images:
                self._wrong.append(f"{where}: there is no image {key!r}; list it, or remove this")
                continue
            try:
                boxes[key].append(self._box(row, where))
            except (KeyError, TypeError, ValueError) as error:
                bad[key].append(f"{where}: {_said(error)}")
        found = [self._picture(key, row, boxes[key], bad[key]) for key, row in self._images.items()]
        self._check_crowds(boxes)
        self._check_corners(found)
        return found

    def _numbered(self, rows: Any, what: str) -> dict[Any, Any]:
        found = {row["id"]: row for row in rows}
        if len(found) < len(rows):
            twice = next(
                key for key, count in Counter(row["id"] for row in rows).items() if count > 1
            )
            self._wrong.append(f"{self._file.name}: {what} {twice!r} is there a second time")
        return found

    def _box(self, row: Any, where: str) -> DatasetBox:
        category, bbox = row["category_id"], row.get("bbox")
        if category not in self._names:
            known = ", ".join(str(key) for key in list(self._names)[:8])
            raise ValueError(f"no such category: {category!r}; there are {known}")
        name = self._names[category]["name"]
        if not isinstance(name, str | int):
            raise ValueError(f"category {category!r} has no name, but {name!r}")
        turned = (row.get("attributes") or {}).get("rotation")
        if turned:
            raise ValueError(f"rotated by {turned:g} degrees; boxes are upright: draw it anew")
        if not bbox:
            corners = _polygon_bounds(row.get("segmentation"))
        else:
            if len(bbox) != 4:
                raise ValueError(f"bbox {bbox!r} has {len(bbox)} numbers, not x, y, width, height")
            x, y, width, height = map(float, bbox)
            if width <= 0 or height <= 0:
                raise ValueError(f"bbox {bbox!r} has no area: x, y, width, height")
            corners = x, y, x + width, y + height
        return DatasetBox(
            label=str(name),
            corners=corners,
            ignore=any(str(row.get(key)) in ("1", "True") for key in ("iscrowd", "ignore")),
            by=provenance_of(row.get("provenance")),
            where=where,
        )

    def _picture(
        self, key: Any, row: Any, boxes: list[DatasetBox], bad: list[str]
    ) -> DatasetPicture:
        name, where = str(row["file_name"]), f"{self._file.name}, image {key}"
        try:
            size = stated_size(row.get("width"), row.get("height"))
        except ValueError as error:
            size, bad = None, [*bad, f"{where}: {error}"]
        return DatasetPicture(
            name=name,
            file=self._index.find(name, near=self._file, subset=self._subset),
            # Of our own export: one that nobody has labelled, unless somebody has since.
            boxes=None if row.get("labelled_by") == "none" and not boxes else tuple(boxes),
            size=size,
            sample=sample_id_in(name),
            where=where,
            wrong=tuple(bad),
        )

    def _check_crowds(self, boxes: Mapping[Any, Sequence[DatasetBox]]) -> None:
        # Our own exports have such regions where a teacher is in doubt.
        every = [box for some in boxes.values() for box in some if box.by is None]
        if every and all(box.ignore for box in every):
            self._wrong.append(
                f"{every[0].where}: iscrowd is 1, and of every other annotation ({len(every)} in "
                "all), as some tools write for masks of single objects; set it to 0 for those: "
                "from crowds alone nothing is learnt"
            )

    def _check_corners(self, pictures: Sequence[DatasetPicture]) -> None:
        """Corners in place of width and height make boxes that reach beyond the border."""
        beyond: DatasetBox | None = None
        for picture in pictures:
            for box in picture.boxes or ():
                x, y, right, bottom = box.corners
                if right - x <= x or bottom - y <= y:
                    return
                if picture.size and (right > picture.size[0] + 1 or bottom > picture.size[1] + 1):
                    beyond = beyond or box
        if beyond is not None:
            x, y, right, bottom = beyond.corners
            self._wrong.append(
                f"{beyond.where}: bbox ({x:g}, {y:g}, {right - x:g}, {bottom - y:g}) reaches out "
                "of the picture, and every bbox looks like corners x1, y1, x2, y2; COCO has x, y, "
                "width, height"
            )


def _polygon_bounds(segmentation: Any) -> Corners:
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("it has neither a bbox nor a polygon; is this the file of another task?")
    numbers = [float(value) for polygon in segmentation for value in polygon]
    return bounds(list(zip(numbers[::2], numbers[1::2], strict=True)))


def _said(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)
