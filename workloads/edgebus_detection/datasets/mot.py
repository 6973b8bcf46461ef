"""MOTChallenge text: true boxes of a video."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from edgebus_detection.datasets.files import read_text
from edgebus_detection.datasets.picture import SourceError, clip_box
from edgebus_detection.messages import Box

MOT_CLASSES: Final[Mapping[int, str]] = {
    1: "person", 2: "person", 3: "car", 4: "bicycle", 5: "motorcycle", 7: "person",
}  # fmt: skip
"""Classes of MOT16 (Milan et al. 2016, table 3) that COCO also has; 7 is a standing person."""


def read_mot(
    path: Path, *, names: Mapping[int, str] | None, min_score: float
) -> dict[int, tuple[Box, ...]]:
    """Read MOTChallenge text: frame (from 1), track, left, top, width, height, score, class, ….

    Args:
        path: The text file.
        names: Class names by number; by default those of MOT16. Others are
            regions to ignore: whatever is found there is neither right nor wrong.
        min_score: Rows with a lower score are left out; those with 0, which in a ground truth means
            "ignore", are such regions.

    Returns:
        Boxes by frame number from 0. Frames without any row are not in it: many such files label
        only some frames, so nothing is known of the rest.

    Raises:
        SourceError: It cannot be read, or a line is wrong.
    """
    classes = MOT_CLASSES if names is None else names
    found: dict[int, list[Box]] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            frame, label, score, box = _row(line.split(","), classes)
        except (ValueError, OverflowError) as error:
            raise SourceError(source=f"{path}, line {number}", reason=str(error)) from error
        boxes = found.setdefault(frame, [])
        if box is not None:
            if label is None or score == 0:
                boxes.append(box.model_copy(update={"ignore": True}))
            elif score >= min_score:
                boxes.append(box)
    return {frame: tuple(boxes) for frame, boxes in found.items()}


def _row(
    fields: list[str], classes: Mapping[int, str]
) -> tuple[int, str | None, float, Box | None]:
    if len(fields) < 7:
        msg = f"has {len(fields)} fields; MOT text has at least 7"
        raise ValueError(msg)
    frame = int(fields[0])
    if frame < 1:
        msg = f"is of frame {frame}; MOT counts frames from 1"
        raise ValueError(msg)
    x, y, width, height, score = (float(field) for field in fields[2:7])
    if width <= 0 or height <= 0:
        msg = f"has a box of width {width:g} and height {height:g}; neither can be"
        raise ValueError(msg)
    label = classes.get(int(float(fields[7])) if len(fields) > 7 else 1)
    box = clip_box(label or "?", (x, y, x + width, y + height), size=None)
    return frame - 1, label, score, box
