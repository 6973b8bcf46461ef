"""Positions of all figures at a moment: a pure function of the layout and the time."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from edgebus_detection.emulation.street.canvas import Sprite
from edgebus_detection.emulation.street.figures import (
    POSES,
    Figure,
    draw_bicycle,
    draw_bus,
    draw_car,
    draw_person,
    draw_rider,
)
from edgebus_detection.emulation.street.layout import Layout, Track, scale_at

Label = Literal["person", "bicycle", "car", "bus"]
CLASSES: Final[tuple[Label, ...]] = ("person", "bicycle", "car", "bus")
"""The labels of the scene, by their COCO names."""

_MARGIN: Final = 110.0  # half of the longest figure, with its head light's beam
_BUS_SHARE: Final = 0.3
_STRIDE: Final = 19.0  # units walked per cycle of poses
_SPOKE: Final = 9.0  # units rolled per cycle of poses


@dataclass(frozen=True, slots=True)
class Passer:
    """One figure in the view.

    Attributes:
        label: Its class.
        x: Where its anchor is, in units.
        ground: y of its anchor, in units.
        figure: Its sprite now.
        draw: Draws it.
    """

    label: Label
    x: float
    ground: float
    figure: Figure
    draw: Callable[[Figure], Sprite]


def passers(layout: Layout, *, time: float, pixels_per_unit: float) -> Iterator[Passer]:
    """Everybody who may be in view, farthest first.

    Args:
        layout: The view.
        time: Seconds since frame 0.
        pixels_per_unit: Resolution of the picture.
    """
    for track in sorted(layout.tracks, key=lambda item: item.ground):
        moved = (
            track.start
            + track.speed * time
            + track.sway * math.sin(2 * math.pi * time / track.period)
        )
        # Number n entered n gaps behind number 0.
        first = math.floor((moved - layout.width - 2 * _MARGIN) / track.gap) - 1
        last = math.ceil(moved / track.gap) + 1
        for number in range(first, last + 1):
            look = f"{layout.look}/{track.name}/{number}"
            rng = random.Random(look)
            run = moved - (number + rng.uniform(-0.3, 0.3) * _looseness(track)) * track.gap
            if 0 <= run <= layout.width + 2 * _MARGIN:
                yield from _on_track(
                    track, layout, run=run, look=look, rng=rng, pixels_per_unit=pixels_per_unit
                )


def _looseness(track: Track) -> float:
    """Vehicles keep their distance; people do not mind."""
    return 0.7 if track.kind == "vehicle" else 1.0


def _on_track(
    track: Track,
    layout: Layout,
    *,
    run: float,
    look: str,
    rng: random.Random,
    pixels_per_unit: float,
) -> Iterator[Passer]:
    x = run - _MARGIN if track.direction > 0 else layout.width + _MARGIN - run
    ground = track.ground
    cycle = _SPOKE
    if track.kind == "person":
        ground += rng.uniform(-1.4, 1.4)
        cycle = _STRIDE
    size = scale_at(ground, layout)
    figure = Figure(
        look=look,
        scale=size * pixels_per_unit,
        pose=int(run / (cycle * size) * POSES) % POSES,
        mirrored=track.direction < 0,
    )
    if track.kind == "person":
        yield Passer("person", x, ground, figure, draw_person)
    elif track.kind == "bicycle":
        # As in COCO: the bicycle and the person on it are two objects.
        yield Passer("bicycle", x, ground, figure, draw_bicycle)
        yield Passer("person", x, ground, figure, draw_rider)
    elif rng.random() < _BUS_SHARE:
        yield Passer("bus", x, ground, figure, draw_bus)
    else:
        yield Passer("car", x, ground, figure, draw_car)
