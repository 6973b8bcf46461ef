"""Contact sheet: one or many samples on one picture, with the boxes of every source."""

from __future__ import annotations

import math
from collections.abc import Iterable

import cv2
import numpy as np

from edgebus_detection.labels.label_sources import LabelSources
from edgebus_detection.vision import Image
from edgebus_samples.details import SampleDetail, SampleUnreadableError
from edgebus_samples.drawing import draw_sources, fit, legend, occurring

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GROUND = 32
_GAP = 8
_ROW = 17
_CONFLICT = (80, 80, 255)


def contact_sheet(
    details: Iterable[SampleDetail],
    *,
    title: str,
    columns: int | None = None,
    tile: int = 320,
    unreadable: list[str],
) -> Image | None:
    """Samples side by side, each drawn when its turn comes; None if there is none.

    Args:
        details: The samples.
        title: Heading.
        columns: Tiles per row; about as many as rows by default.
        tile: Width of a tile in pixels.
        unreadable: Gets a line for each picture that is corrupt.
    """
    tiles: list[Image] = []
    seen: list[LabelSources] = []
    for detail in details:
        try:
            tiles.append(_tile(detail, tile))
        except SampleUnreadableError as error:
            unreadable.append(str(error))
            continue
        seen.append(detail.sources)
    if not tiles:
        return None
    across = min(len(tiles), columns or max(2, math.ceil(math.sqrt(len(tiles)))))
    rows: list[Image] = []
    for start in range(0, len(tiles), across):
        row = tiles[start : start + across]
        height = max(each.shape[0] for each in row)
        canvas = _blank(height + _GAP, across * (tile + _GAP) + _GAP)
        for place, each in enumerate(row):
            left = _GAP + place * (tile + _GAP)
            canvas[: each.shape[0], left : left + tile] = each
        rows.append(canvas)
    width = rows[0].shape[1]
    heading = legend(width, occurring(seen), title=title)
    return np.concatenate([heading, *rows])


def one_picture(detail: SampleDetail, *, width: int) -> Image:
    """A sample at full size under its legend, its conflicts written below.

    Raises:
        SampleUnreadableError: The picture is corrupt.
    """
    picture = draw_sources(detail.picture(), detail.sources, width=width)
    entry = detail.entry
    title = f"{entry.id}   {entry.stream} #{entry.index}   {entry.policy}: {entry.reason}"
    parts = [legend(picture.shape[1], occurring([detail.sources]), title=title), picture]
    conflicts = () if detail.merged is None else detail.merged.conflicts
    lines = [conflict.summary for conflict in conflicts[:12]]
    if len(conflicts) > len(lines):
        lines.append(f"and {len(conflicts) - len(lines)} more")
    if lines:
        below = _blank(_ROW * len(lines) + 12, picture.shape[1])
        for number, line in enumerate(lines):
            _write(below, line, (10, _ROW * (number + 1)), _CONFLICT)
        parts.append(below)
    return np.concatenate(parts)


def _tile(detail: SampleDetail, width: int) -> Image:
    picture = draw_sources(detail.picture(), detail.sources, width=width)
    entry, found = detail.entry, detail.merged
    below = _blank(2 * _ROW + 6, width)
    first = f"{entry.id[-8:]}  {entry.stream} #{entry.index}"
    labels = "unlabelled" if found is None else f"{len(found.sourced)} by {found.source}"
    second = f"{entry.policy}, {entry.split}, {labels}"
    _write(below, first, (2, _ROW - 3), (235, 235, 235))
    _write(below, second, (2, 2 * _ROW - 3), (170, 170, 170))
    if found is not None and found.conflicts:
        count = len(found.conflicts)
        words = f"{count} conflict{'s' if count > 1 else ''}"
        (length, _), _ = cv2.getTextSize(words, _FONT, 0.42, 1)
        below[_ROW:, width - length - 8 :] = _GROUND
        _write(below, words, (width - length - 3, 2 * _ROW - 3), _CONFLICT)
        cv2.rectangle(picture, (0, 0), (width - 1, picture.shape[0] - 1), _CONFLICT, 2)
    return np.concatenate([picture, below])


def _blank(height: int, width: int) -> Image:
    return np.full((height, width, 3), _GROUND, np.uint8)


def _write(canvas: Image, text: str, place: tuple[int, int], color: tuple[int, int, int]) -> None:
    fitting = fit(text, canvas.shape[1] - place[0] - 2, scale=0.42)
    cv2.putText(canvas, fitting, place, _FONT, 0.42, color, 1, cv2.LINE_AA)
