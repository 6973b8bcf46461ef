"""Boxes of several sources on one picture, each source with a line style and a colour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from edgebus_detection.labels.label_sources import LabelSources
from edgebus_detection.messages import Box
from edgebus_detection.vision import Image

SourceName = Literal["operator", "truth", "teacher", "model", "ignore"]
Point = tuple[float, float]
_Place = tuple[int, int, int, int]  # left, top, width, height
_STEPS = 6  # rows that a name may be moved up or down


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Line style of a source's boxes.

    Attributes:
        color: BGR; Okabe and Ito's palette, told apart by colour-blind people too.
        on: Length of a dash; 0: solid.
        off: Length between two dashes.
        width: In pixels of a tile.
        corner: Where its class is written.
    """

    color: tuple[int, int, int]
    on: int = 0
    off: int = 0
    width: int = 2
    corner: Literal["above", "below", "inside", "none"] = "above"


LINES: dict[SourceName, Line] = {
    "ignore": Line(color=(167, 121, 204), on=3, off=5, width=2, corner="none"),
    "model": Line(color=(233, 180, 86), on=2, off=6, corner="inside"),
    "teacher": Line(color=(0, 159, 230), on=9, off=6, corner="below"),
    "truth": Line(color=(255, 255, 255), corner="above"),
    "operator": Line(color=(115, 190, 0), width=3, corner="above"),
}
"""In the order in which they are drawn: what counts most comes last."""

_WORDS: dict[SourceName, str] = {
    "operator": "operator",
    "truth": "truth",
    "teacher": "teacher",
    "model": "model",
    "ignore": "unsure: ignored",
}
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_DARK = (24, 24, 24)


def draw_sources(image: Image, sources: LabelSources, *, width: int) -> Image:
    """The picture at another width, with the boxes of every source.

    Args:
        image: BGR, uint8 [height, width, 3].
        sources: Their boxes, in pixels of `image`.
        width: Width of the outcome in pixels.
    """
    factor = width / image.shape[1]
    size = width, max(1, round(image.shape[0] * factor))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    canvas: Image = cv2.resize(image, size, interpolation=how).astype(np.uint8, copy=False)
    shown = {
        source: [
            (box, tuple(value * factor for value in (box.x1, box.y1, box.x2, box.y2)))
            for box in boxes
        ]
        for source, boxes in boxes_of(sources).items()
    }
    for source, placed in shown.items():
        for _, corners in placed:
            _rectangle(canvas, corners, LINES[source])
    taken: list[_Place] = []
    for source, placed in reversed(shown.items()):
        for box, corners in placed:
            _tag(canvas, box, corners, LINES[source], taken)
    return canvas


def legend(width: int, sources: Sequence[SourceName], *, title: str = "") -> Image:
    """A dark strip that explains the line styles, in as many rows as it needs.

    Args:
        width: In pixels.
        sources: Those that occur.
        title: Stands first, in a row of its own.
    """
    scale, row = 0.45, 24
    title = fit(title, width - 20, scale=0.5)
    places: list[tuple[SourceName, int, int]] = []
    top, left = row if title else 0, 10
    for source in reversed([each for each in LINES if each in sources]):
        (length, _), _ = cv2.getTextSize(_WORDS[source], _FONT, scale, 1)
        needed = 36 + 8 + length + 22
        if left + needed > width and left > 10:
            top, left = top + row, 10
        places.append((source, left, top))
        left += needed
    strip = np.full((top + row + 6, width, 3), 32, np.uint8)
    if title:
        cv2.putText(strip, title, (10, 18), _FONT, 0.5, (245,) * 3, 1, cv2.LINE_AA)
    for source, x, y in places:
        line, middle = LINES[source], y + 14
        _dashes(strip, (x, middle), (x + 36, middle), line)
        cv2.putText(
            strip, _WORDS[source], (x + 44, middle + 5), _FONT, scale, (225,) * 3, 1, cv2.LINE_AA
        )
    return strip


def fit(text: str, width: int, *, scale: float) -> str:
    """As much of a text as `width` pixels hold, in ASCII: OpenCV's fonts draw no more."""
    plain = text.encode("ascii", "replace").decode()
    shown = plain
    while shown and cv2.getTextSize(shown, _FONT, scale, 1)[0][0] > width:
        plain = plain[:-1]
        shown = f"{plain}..."
    return shown


def occurring(sources: Iterable[LabelSources]) -> list[SourceName]:
    """The sources that have boxes somewhere."""
    found = [boxes_of(each) for each in sources]
    return [source for source in LINES if any(shown[source] for shown in found)]


def boxes_of(sources: LabelSources) -> dict[SourceName, tuple[Box, ...]]:
    """Boxes by source, in the order in which they are drawn."""
    labels = sources.operator
    return {
        "ignore": sources.unsure,
        "model": sources.detections,
        "teacher": sources.teacher or (),
        "truth": sources.truth or (),
        "operator": () if labels is None else tuple(each.box for each in labels.labels),
    }


def _touch(one: _Place, other: _Place) -> bool:
    return (
        one[0] < other[0] + other[2]
        and other[0] < one[0] + one[2]
        and one[1] < other[1] + other[3]
        and other[1] < one[1] + one[3]
    )


def _rectangle(canvas: Image, corners: tuple[float, ...], line: Line) -> None:
    x1, y1, x2, y2 = corners
    for start, end in (
        ((x1, y1), (x2, y1)),
        ((x2, y1), (x2, y2)),
        ((x2, y2), (x1, y2)),
        ((x1, y2), (x1, y1)),
    ):
        _dashes(canvas, start, end, line)


def _dashes(canvas: Image, start: Point, end: Point, line: Line) -> None:
    """A line with a dark rim, so that it is seen on white and on black."""
    (x1, y1), (x2, y2) = start, end
    length = max(1e-6, float(np.hypot(x2 - x1, y2 - y1)))
    step = line.on + line.off if line.on else length
    dash = line.on or length
    parts = [
        (at / length, min(1.0, (at + dash) / length))
        for at in np.arange(0.0, length, step).tolist()
    ]
    # Dots with a wide rim would be dark chains.
    rim = 1 if line.on and line.on < 5 else 2
    for color, width in ((_DARK, line.width + rim), (line.color, line.width)):
        for begin, stop in parts:
            a = round(x1 + (x2 - x1) * begin), round(y1 + (y2 - y1) * begin)
            b = round(x1 + (x2 - x1) * stop), round(y1 + (y2 - y1) * stop)
            cv2.line(canvas, a, b, color, width, cv2.LINE_AA)


def _tag(
    canvas: Image, box: Box, corners: tuple[float, ...], line: Line, taken: list[_Place]
) -> None:
    """Write a box's class at its corner, or as near to it as nothing else is written."""
    if line.corner == "none":
        return
    text = box.label if box.score is None else f"{box.label} {box.score:.2f}"
    scale = 0.38 if canvas.shape[1] < 800 else 0.5
    (width, height), base = cv2.getTextSize(text, _FONT, scale, 1)
    tall = height + base + 3
    x1, y1, _, y2 = corners
    top = {"above": y1 - tall, "below": y2 + 1, "inside": y1 + 1}[line.corner]
    x = round(min(max(0.0, x1), max(0.0, canvas.shape[1] - width - 6.0)))
    lowest = canvas.shape[0] - tall - 1
    steps = sorted(range(-_STEPS, _STEPS + 1), key=abs)
    rows = [round(min(max(0.0, top + step * (tall + 1)), lowest)) for step in steps]
    free = (row for row in rows if not any(_touch((x, row, width + 5, tall), t) for t in taken))
    y = next(free, rows[0])
    taken.append((x, y, width + 5, tall))
    cv2.rectangle(canvas, (x, y), (x + width + 5, y + tall), _DARK, cv2.FILLED)
    place = x + 3, y + height + 2
    cv2.putText(canvas, text, place, _FONT, scale, line.color, 1, cv2.LINE_AA)
