"""The layout of one camera's view, drawn once from its seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final, Literal

HEIGHT: Final = 240.0
"""Height of every view in scene units; the width follows from the picture's aspect ratio."""

Kind = Literal["person", "bicycle", "vehicle"]


@dataclass(frozen=True, slots=True)
class Track:
    """A line that figures move along, one behind the other.

    All of a track move by the same distance, so that nobody drives through the one in front; the
    speed breathes, because constant speed looks dead.

    Attributes:
        name: Unique in the layout.
        kind: Of the figures on it.
        ground: y of the feet or wheels, in units.
        direction: 1 to the right, -1 to the left.
        speed: Mean speed in units per second.
        sway: How far they run ahead of and fall behind the mean, in units.
        period: Seconds of one such swing.
        gap: Mean distance from one to the next, in units.
        start: How far the track has moved at frame 0, in units.
    """

    name: str
    kind: Kind
    ground: float
    direction: Literal[1, -1]
    speed: float
    sway: float
    period: float
    gap: float
    start: float


@dataclass(frozen=True, slots=True)
class Prop:
    """A prop on the street, in front of whatever passes behind it."""

    kind: Literal["tree", "lamp", "sign"]
    x: float
    ground: float
    look: str


@dataclass(frozen=True, slots=True)
class Layout:
    """One camera's view; lengths and places in scene units, y down.

    Attributes:
        width: Width of the view.
        facade: Where the house fronts meet the far pavement.
        far_kerb: Upper edge of the road.
        centre: Line between the two lanes.
        cycle: Line between the near lane and the cycle lane.
        near_kerb: Lower edge of the road.
        crossing: x of the zebra crossing, or None.
        tracks: Lines that figures move along.
        props: Trees, lamps and signs.
        look: Seed of everything that is only decoration.
    """

    width: float
    facade: float
    far_kerb: float
    centre: float
    cycle: float
    near_kerb: float
    crossing: float | None
    tracks: tuple[Track, ...]
    props: tuple[Prop, ...]
    look: str


def scale_at(ground: float, layout: Layout) -> float:
    """Scale of figures that stand at a y: 0.62 at the far pavement, 1.24 at the near edge."""
    depth = (ground - layout.facade) / (HEIGHT - layout.facade)
    return 0.62 + 0.62 * depth


def make_layout(seed: int, *, width: float) -> Layout:
    """Design the view of a camera.

    Args:
        seed: Equal seeds give equal views.
        width: Width in units.
    """
    rng = random.Random(f"layout/{seed}")
    facade = rng.uniform(100, 116)
    far_kerb = facade + rng.uniform(17, 20)
    near_kerb = rng.uniform(198, 206)
    road = near_kerb - far_kerb
    centre, cycle = far_kerb + road * 0.40, far_kerb + road * 0.80
    left_first = rng.random() < 0.5

    def track(
        name: str,
        kind: Kind,
        *,
        ground: float,
        toward: int,
        gap: float,
        speed: tuple[float, float],
    ) -> Track:
        mean = rng.uniform(*speed)
        period = rng.uniform(7, 15)
        return Track(
            name=name,
            kind=kind,
            ground=ground,
            direction=1 if toward > 0 else -1,
            speed=mean,
            # The swing's fastest backward motion is 2 pi sway / period: keep half of the speed.
            sway=rng.uniform(0.2, 0.5) * mean * period / 6.2832,
            period=period,
            gap=gap * rng.uniform(0.9, 1.1),
            start=rng.uniform(0, 5000),
        )

    first = -1 if left_first else 1
    far, near = far_kerb - facade, HEIGHT - near_kerb
    tracks = (
        track(
            "far-walk-a", "person", ground=facade + far * 0.42, toward=1, gap=430, speed=(11, 16)
        ),
        track(
            "far-walk-b", "person", ground=facade + far * 0.72, toward=-1, gap=500, speed=(13, 19)
        ),
        track(
            "far-lane",
            "vehicle",
            ground=centre - road * 0.055,
            toward=first,
            gap=400,
            speed=(44, 62),
        ),
        track(
            "near-lane",
            "vehicle",
            ground=cycle - road * 0.05,
            toward=-first,
            gap=460,
            speed=(52, 72),
        ),
        track(
            "cycle-lane", "bicycle", ground=near_kerb - 3.5, toward=-first, gap=640, speed=(30, 42)
        ),
        track(
            "near-walk-a",
            "person",
            ground=near_kerb + near * 0.40,
            toward=-1,
            gap=640,
            speed=(16, 22),
        ),
        track(
            "near-walk-b",
            "person",
            ground=near_kerb + near * 0.80,
            toward=1,
            gap=700,
            speed=(17, 25),
        ),
    )
    crossing = rng.uniform(0.2, 0.8) * width if rng.random() < 0.7 else None
    return Layout(
        width=width,
        facade=facade,
        far_kerb=far_kerb,
        centre=centre,
        cycle=cycle,
        near_kerb=near_kerb,
        crossing=crossing,
        tracks=tracks,
        props=_props(rng, width=width, far_kerb=far_kerb, near_kerb=near_kerb, seed=seed),
        look=f"look/{seed}",
    )


def _props(
    rng: random.Random, *, width: float, far_kerb: float, near_kerb: float, seed: int
) -> tuple[Prop, ...]:
    """Trees and lamps along the far kerb in turn, and perhaps one sign in front."""
    props: list[Prop] = []
    x, number = rng.uniform(10, 50), rng.randrange(2)
    while x < width + 20:
        props.append(
            Prop(
                kind="lamp" if number % 2 else "tree",
                x=x,
                ground=far_kerb - 1.5,
                look=f"prop/{seed}/{number}",
            )
        )
        x += rng.uniform(52, 92)
        number += 1
    if rng.random() < 0.6:
        place = rng.uniform(0.1, 0.9) * width
        props.append(Prop(kind="sign", x=place, ground=near_kerb + 4, look=f"prop/{seed}/sign"))
    return tuple(props)
