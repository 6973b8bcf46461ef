"""Layouts of boxes that have one shape, told apart by numbers: the model is run on a picture."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np

from edgebus.artifacts import Array, OnnxFile
from edgebus.serving.engine import EngineSettings, OrtEngine
from edgebus_detection.emulation.street import Scene
from edgebus_detection.models.heads import HEADS
from edgebus_detection.vision import InputSpec, Preprocessor, make_decoder

Layout = Literal["grid", "pixels", "corners", "shares", "corner shares"]

LAYOUTS: Final[dict[Layout, str]] = {
    "grid": "offsets in its grid",
    "pixels": "centres and sizes in pixels",
    "corners": "corners in pixels",
    "shares": "centres and sizes as shares of the picture",
    "corner shares": "corners as shares of the picture",
}
"""What the four numbers of a box may be."""

_NEAR = 4.0
"""A head's boxes lie about their cells: half of them within this many strides."""
_CLEARLY = 3.0
_FOLLOWS = 0.9


def run_on_picture(file: OnnxFile, picture: InputSpec) -> dict[str, Array]:
    """The outputs of a model for a street, by name.

    Raises:
        EngineError: The runtime refuses the model.
    """
    engine = OrtEngine(file.draft(), EngineSettings(threads=1))
    image, _, _ = Scene(seed=0, width=320, height=240).render(0)
    tensor, _ = Preprocessor(picture).prepare(image)
    return engine.run({picture.name: tensor})


def find_layout(rows: Array, *, height: int, width: int, expected: Layout) -> Layout | None:
    """The layout of boxes [n, 4], one for each cell of the strides 8, 16 and 32.

    A box is about its cell, whatever the picture shows; so the layout is the one by which half of
    the boxes lie nearest to theirs. `expected` wins where another is not clearly nearer; None:
    they are nowhere near by any.
    """
    decoder = make_decoder(HEADS["yolox"].decoder, height=height, width=width, classes=1)
    places, strides = decoder.cells
    if len(rows) != len(places) or not np.isfinite(rows).all():
        return expected
    size = np.array([width, height], np.float32)
    first, middle = rows[:, :2], (rows[:, :2] + rows[:, 2:4]) / 2
    centres: dict[Layout, Array] = {
        "grid": (first + places) * strides,
        "pixels": first,
        "corners": middle,
        "shares": first * size,
        "corner shares": middle * size,
    }
    cells = (places + 0.5) * strides
    off = {
        layout: float(np.median(np.abs((centre - cells) / strides).max(axis=1)))
        for layout, centre in centres.items()
    }
    if expected != "grid":
        del off["grid"]
    elif _follows(first[:, 0], cells[:, 0]) and _follows(first[:, 1], cells[:, 1]):
        off["grid"] = np.inf  # an offset in the grid knows nothing of where its cell is
    nearest = min(off, key=lambda layout: off[layout])
    if off[expected] <= _CLEARLY * off[nearest] and off[expected] < _NEAR:
        return expected
    return nearest if off[nearest] < _NEAR else None


def _follows(values: Array, cells: Array) -> bool:
    return bool(values.std() > 0 and np.corrcoef(values, cells)[0, 1] > _FOLLOWS)
