"""Boxes as text or JSON, checked against the picture and the model's classes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from edgebus_detection.datasets.picture import ImpossibleBoxError, checked_box
from edgebus_detection.messages import Box


class BoxesRefusedError(ValueError):
    """Boxes that cannot be, or of unknown classes; nothing was written.

    Attributes:
        reasons: One for each of them.
    """

    exit_code = 2

    def __init__(self, reasons: Sequence[str]) -> None:
        shown = "; ".join(reasons[:10]) + (
            f"; and {len(reasons) - 10} more" if len(reasons) > 10 else ""
        )
        super().__init__(f"nothing was written. {shown}")
        self.reasons = tuple(reasons)


def parse_words(words: Sequence[str]) -> list[dict[str, Any]]:
    """`car 10 20 30 40 person 5 5 9 9`, in one word or in many, as rows.

    A class of several words stays as it is: everything before four numbers is its name.

    Raises:
        BoxesRefusedError: It is not of that form.
    """
    rows: list[dict[str, Any]] = []
    name: list[str] = []
    numbers: list[float] = []
    for word in " ".join(words).split():
        try:
            numbers.append(float(word))
        except ValueError:
            if numbers:
                break
            name.append(word)
            continue
        if not name:
            break
        if len(numbers) == 4:
            rows.append(
                {
                    "label": " ".join(name),
                    **dict(zip(("x1", "y1", "x2", "y2"), numbers, strict=True)),
                }
            )
            name, numbers = [], []
    if name or numbers or not rows:
        msg = f"{' '.join(words)!r} is not of the form 'CLASS X1 Y1 X2 Y2 ...', in pixels"
        raise BoxesRefusedError([msg])
    return rows


def read_rows(rows: Any, *, where: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of a JSON list of boxes, and what is wrong with the others.

    A row is ``{"label": "car", "x1": 1, "y1": 2, "x2": 3, "y2": 4}``.
    """
    if not isinstance(rows, list):
        return [], [f"{where}: a list of boxes is expected, not {type(rows).__name__}"]
    good: list[dict[str, Any]] = []
    bad: list[str] = []
    for number, row in enumerate(rows):
        keys = ("x1", "y1", "x2", "y2")
        fine = isinstance(row, dict) and isinstance(row.get("label"), str)
        if fine and all(_is_number(row.get(key)) for key in keys):
            good.append(row)
        else:
            bad.append(f"{where}, box {number}: label, x1, y1, x2 and y2 are expected, not {row!r}")
    return good, bad


def check_boxes(
    rows: Iterable[dict[str, Any]],
    *,
    size: tuple[int, int],
    classes: Sequence[str] | None,
    where: str,
) -> tuple[list[Box], list[str]]:
    """Boxes, cut at the picture's border, and what is wrong with the others.

    Args:
        rows: With label, x1, y1, x2, y2.
        size: Width and height of the picture.
        classes: Those that there are; None: any.
        where: The picture, for the reasons.
    """
    boxes: list[Box] = []
    reasons: list[str] = []
    for number, row in enumerate(rows):
        place = f"{where}, box {number}"
        label = row["label"]
        if classes is not None and label not in classes:
            reasons.append(f"{place}: {unknown_class(label, classes)}")
            continue
        corners = float(row["x1"]), float(row["y1"]), float(row["x2"]), float(row["y2"])
        try:
            boxes.append(checked_box(label, corners, size=size, where=partial(str, place)))
        except (ImpossibleBoxError, ValueError) as error:
            reasons.append(str(error))
    return boxes, reasons


def unknown_class(label: str, classes: Sequence[str]) -> str:
    """Message about a class that the model does not have."""
    near = difflib.get_close_matches(label, classes, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    known = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
    return f"the model has no class {label!r}; {hint}it has {known} (--any-class takes any)"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
