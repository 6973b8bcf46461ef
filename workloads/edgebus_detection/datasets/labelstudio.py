"""Label Studio's own JSON: tasks with annotations, and the short form (JSON-MIN)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebus_detection.datasets.index import PictureIndex
from edgebus_detection.datasets.picture import (
    PICTURES,
    DatasetBox,
    DatasetPicture,
    SourceError,
    provenance_of,
    sample_id_in,
    stated_size,
)

Row = Mapping[str, Any]


def read_tasks(
    file: Path, document: Any, index: PictureIndex, wrong: list[str]
) -> list[DatasetPicture]:
    """Pictures of annotated tasks: the newest submission of each.

    A task that nobody has submitted, or that was skipped, is none.

    Args:
        file: The JSON file.
        document: Its content.
        index: The pictures.
        wrong: Gets a line for what concerns no single picture.

    Raises:
        SourceError: It is no such file.
    """
    try:
        if not isinstance(document, list):
            raise TypeError("a list of tasks is expected")
        found = (_task(task, place, file, index) for place, task in enumerate(document))
        pictures = [picture for picture in found if picture is not None]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, SourceError):
            raise
        reason = f"is no Label Studio file ({type(error).__name__}: {error})"
        raise SourceError(source=str(file), reason=reason) from error
    if document and not pictures:
        wrong.append(
            f"{file.name}: none of its {len(document)} tasks is annotated; submit some, or accept "
            "their predictions"
        )
    return pictures


def _task(task: Row, place: int, file: Path, index: PictureIndex) -> DatasetPicture | None:
    where = f"{file.name}, task {task.get('id', place)}"
    if "data" in task:
        data = task["data"]
        done = [each for each in task.get("annotations", ()) if not each.get("was_cancelled")]
        if not done:
            return None
        newest = max(done, key=lambda each: str(each.get("updated_at", "")))
        regions: Sequence[Row] = newest["result"]
        # What was exported as an annotation has no author; what a person submits has.
        confirmed = "completed_by" in newest
    else:
        data, confirmed = task, True
        regions = [
            {"id": number, "value": value}
            for each in task.values()
            if isinstance(each, list)
            for number, value in enumerate(each)
            if isinstance(value, dict)
        ]
    name = _picture_name(data, where)
    boxes: list[DatasetBox] = []
    wrong: list[str] = []
    sizes: set[tuple[float, float]] = set()
    for region in regions:
        at = f"{where}, region {region.get('id')}"
        value = region.get("value") or {}
        try:
            boxes.append(_box(region, value, at))
            size = stated_size(
                *(region.get(key, value.get(key)) for key in ("original_width", "original_height"))
            )
        except ValueError as error:
            wrong.append(f"{at}: {error}")
            continue
        sizes |= {size} if size else set()
    if len(sizes) > 1:
        wrong.append(f"{where}: its regions state {len(sizes)} sizes of one picture: {sizes}")
    return DatasetPicture(
        name=name,
        file=index.find(name, near=file),
        boxes=tuple(boxes),
        size=next(iter(sizes)) if len(sizes) == 1 else None,
        sample=sample_id_in(str(data.get("sample", ""))) or sample_id_in(name),
        confirmed=confirmed,
        where=where,
        wrong=tuple(wrong),
    )


def _picture_name(data: Row, where: str) -> str:
    """The picture's address, under `image` or whatever the labelling interface calls it."""
    if isinstance(data.get("image"), str):
        return str(data["image"])
    for value in data.values():
        if isinstance(value, str) and Path(value).suffix.lower() in PICTURES:
            return value
    raise ValueError(f"{where} names no picture")


def _box(region: Row, value: Row, where: str) -> DatasetBox:
    """The box of a region.

    Raises:
        ValueError: It is none.
    """
    kind = region.get("type") or next(
        (key for key in value if key.endswith("labels")), "no labelled region"
    )
    if kind != "rectanglelabels":
        raise ValueError(f"{kind!r} is no box; only rectanglelabels are")
    if value.get("rotation"):
        raise ValueError(f"rotated by {value['rotation']:g} degrees; boxes are upright")
    labels = value.get("rectanglelabels") or []
    if len(labels) != 1:
        raise ValueError(f"one class is expected, not {labels!r}")
    try:
        x, y, w, h = (float(value[key]) / 100 for key in ("x", "y", "width", "height"))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"x, y, width and height are expected, in percent ({error})") from error
    notes = (region.get("meta") or {}).get("text") or [None]
    return DatasetBox(
        label=str(labels[0]),
        corners=(x, y, x + w, y + h),
        relative=True,
        by=provenance_of(notes[0] if isinstance(notes, list) else notes),
        where=where,
    )
