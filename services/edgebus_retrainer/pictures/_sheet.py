"""Many samples on one picture, or one sample on one picture, with everybody's boxes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from edgebus_detection.vision import Image
from edgebus_retrainer.claims import Voices
from edgebus_retrainer.pictures._strokes import Voice, draw_voices, fit, legend, occurring
from edgebus_retrainer.samples import SampleUnreadableError, Sight

__all__ = ["contact_sheet", "one_picture"]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GROUND = 32
_GAP = 8
_ROW = 17
_CONFLICT = (80, 80, 255)


def contact_sheet(
    sights: Iterable[Sight],
    *,
    title: str,
    columns: int | None = None,
    tile: int = 320,
    unreadable: list[str],
    show: Sequence[Voice] | None = None,
) -> Image | None:
    """Samples side by side, each drawn when its turn comes; None if there is none.

    Args:
        sights: The samples.
        title: Heading.
        columns: Tiles per row; about as many as rows by default.
        tile: Width of a tile in pixels.
        unreadable: Gets a line for each picture that is corrupt.
        show: Only these voices; all by default.
    """
    tiles: list[Image] = []
    seen: list[Voices] = []
    for sight in sights:
        try:
            tiles.append(_tile(sight, tile, show))
        except SampleUnreadableError as error:
            unreadable.append(str(error))
            continue
        seen.append(sight.voices)
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
    heading = legend(width, _voices(seen, show), title=title)
    return np.concatenate([heading, *rows])


def one_picture(sight: Sight, *, width: int = 960, show: Sequence[Voice] | None = None) -> Image:
    """A sample at full size under its legend, its conflicts written below.

    Raises:
        SampleUnreadableError: The picture is corrupt.
    """
    picture = _drawn(sight, max(width, 320), show)
    entry = sight.entry
    title = f"{entry.id}   {entry.camera} #{entry.index}   {entry.policy}: {entry.reason}"
    parts = [legend(picture.shape[1], _voices([sight.voices], show), title=title), picture]
    conflicts = () if sight.resolved is None else sight.resolved.conflicts
    lines = [conflict.words for conflict in conflicts[:12]]
    if len(conflicts) > len(lines):
        lines.append(f"and {len(conflicts) - len(lines)} more")
    if lines:
        below = _blank(_ROW * len(lines) + 12, picture.shape[1])
        for number, line in enumerate(lines):
            _write(below, line, (10, _ROW * (number + 1)), _CONFLICT)
        parts.append(below)
    return np.concatenate(parts)


def _tile(sight: Sight, width: int, show: Sequence[Voice] | None) -> Image:
    picture = _drawn(sight, width, show)
    entry, found = sight.entry, sight.resolved
    below = _blank(2 * _ROW + 6, width)
    first = f"{entry.id[-8:]}  {entry.camera} #{entry.index}"
    labels = "unlabelled" if found is None else f"{len(found.claims)} by {found.source}"
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


def _drawn(sight: Sight, width: int, show: Sequence[Voice] | None) -> Image:
    if show is None:
        return draw_voices(sight.picture(), sight.voices, width=width)
    return draw_voices(sight.picture(), sight.voices, width=width, show=show)


def _voices(seen: Iterable[Voices], show: Sequence[Voice] | None) -> list[Voice]:
    return [voice for voice in occurring(seen) if show is None or voice in show]


def _blank(height: int, width: int) -> Image:
    return np.full((height, width, 3), _GROUND, np.uint8)


def _write(canvas: Image, text: str, place: tuple[int, int], color: tuple[int, int, int]) -> None:
    fitting = fit(text, canvas.shape[1] - place[0] - 2, scale=0.42)
    cv2.putText(canvas, fitting, place, _FONT, 0.42, color, 1, cv2.LINE_AA)
