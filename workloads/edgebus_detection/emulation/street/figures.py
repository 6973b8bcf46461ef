"""The figures of the street: vehicles, cyclists, pedestrians. All face right, feet at (0, 0).

Sizes are in scene units at scale 1: a grown-up is about 48 units tall.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Final

from edgebus_detection.emulation.street.canvas import Bgr, Canvas, Sprite, shade

POSES: Final = 8
"""Poses of one stride, and of one turn of a wheel."""

_PAINTS: Final[tuple[Bgr, ...]] = (
    (236, 236, 232), (176, 178, 176), (62, 56, 54), (52, 48, 196), (170, 92, 40),
    (96, 140, 60), (60, 190, 236), (40, 110, 220), (150, 120, 60), (120, 60, 110),
)  # fmt: skip
_LIVERIES: Final[tuple[Bgr, ...]] = ((48, 52, 204), (66, 170, 240), (150, 110, 40), (90, 150, 70))
_CLOTHES: Final[tuple[Bgr, ...]] = (
    (60, 60, 200), (190, 110, 50), (80, 150, 70), (50, 170, 230), (200, 200, 205),
    (70, 60, 60), (150, 70, 140), (60, 110, 220), (170, 160, 60), (110, 110, 120),
)  # fmt: skip
_TROUSERS: Final[tuple[Bgr, ...]] = ((90, 60, 40), (60, 52, 50), (70, 90, 110), (140, 130, 120))
_SKINS: Final[tuple[Bgr, ...]] = ((176, 200, 236), (140, 170, 220), (90, 125, 180), (60, 85, 130))
_HAIR: Final[tuple[Bgr, ...]] = ((30, 34, 44), (40, 66, 100), (80, 140, 190), (120, 120, 126))
_GLASS: Final[Bgr] = (150, 122, 96)
_TYRE: Final[Bgr] = (38, 36, 36)
_HUB: Final[Bgr] = (178, 178, 180)
_WARM: Final[Bgr] = (150, 215, 255)
_HEAD: Final[Bgr] = (215, 240, 255)
_TAIL: Final[Bgr] = (30, 30, 230)


@dataclass(frozen=True, slots=True)
class Figure:
    """The look of one passer-by.

    Attributes:
        look: Seed of its colours and proportions.
        scale: Pixels per scene unit where it stands.
        pose: 0 to ``POSES - 1``.
        mirrored: Whether it faces left.
    """

    look: str
    scale: float
    pose: int
    mirrored: bool


def _wheel(canvas: Canvas, x: float, radius: float, pose: int) -> None:
    canvas.ellipse(_TYRE, (x, -radius), (radius, radius))
    canvas.ellipse(_HUB, (x, -radius), (radius * 0.58, radius * 0.58))
    turn = 2 * math.pi * pose / POSES / 5  # five spokes: a fifth of a turn looks like a whole one
    for spoke in range(5):
        angle = turn + spoke * 2 * math.pi / 5
        tip = (x + radius * 0.5 * math.cos(angle), -radius + radius * 0.5 * math.sin(angle))
        canvas.line(shade(_TYRE, 1.6), [(x, -radius), tip], width=radius * 0.16)


def draw_car(figure: Figure) -> Sprite:
    """A car of one of four bodies: saloon, hatchback, off-roader, van."""
    rng = random.Random(figure.look)
    paint = rng.choice(_PAINTS)
    length = rng.uniform(76, 90)
    body = rng.choice(("saloon", "hatchback", "offroad", "van"))
    height = {"saloon": 27.0, "hatchback": 29.0, "offroad": 34.0, "van": 38.0}[body]
    waist = height * (0.55 if body != "van" else 0.52)
    half = length / 2
    canvas = Canvas(
        width=length + 44, height=height + 12, scale=figure.scale, origin=(half + 22, height + 6)
    )
    canvas.shadow((0, -0.5), (half * 1.02, 3.6))
    front = {"saloon": 0.42, "hatchback": 0.46, "offroad": 0.44, "van": 0.72}[body]
    rear = {"saloon": 0.72, "hatchback": 0.97, "offroad": 0.98, "van": 0.99}[body]
    roof = [
        (-half * rear, -waist), (-half * rear * 0.84, -height), (half * front * 0.55, -height),
        (half * front, -waist),
    ]  # fmt: skip
    canvas.polygon(shade(paint, 0.9), roof)
    lower = [
        (-half, -6), (-half, -waist + 3), (-half + 3, -waist), (half * 0.7, -waist),
        (half - 3, -waist * 0.82), (half, -waist * 0.55), (half, -5), (half - 2, -4),
        (-half + 2, -4),
    ]  # fmt: skip
    canvas.polygon(paint, lower)
    canvas.polygon(shade(paint, 0.72), [(-half, -8), (half, -8), (half - 2, -4), (-half + 2, -4)])
    canvas.line(shade(paint, 1.2), [(-half + 3, -waist + 1.4), (half * 0.7, -waist + 1.4)], width=1)
    top = -height + 2.6
    split = (-half * rear * 0.84 + half * front * 0.55) / 2
    panes = [
        [(-half * rear * 0.92, -waist), (-half * rear * 0.78, top), (split - 1.4, top),
         (split - 1.4, -waist)],
        [(split + 1.4, -waist), (split + 1.4, top), (half * front * 0.5, top),
         (half * front * 0.9, -waist)],
    ]  # fmt: skip
    for number, pane in enumerate(panes):
        if body == "van" and number == 0 and rng.random() < 0.6:
            continue  # a delivery van has no rear panes
        canvas.polygon(_GLASS, pane)
        (left, bottom), (slope, _), _, _ = pane
        canvas.line(shade(_GLASS, 1.35), [(left + 4, bottom - 1), (slope + 4, top + 1)], width=1.6)
    canvas.line(shade(paint, 0.75), [(split, -waist), (split, -7)], width=0.7)
    canvas.rectangle(shade(paint, 0.6), split + 2, -waist + 3, split + 5.5, -waist + 4.2)
    for x in (-half * 0.62, half * 0.62):
        canvas.ellipse(shade(paint, 0.4), (x, -6.2), (8.2, 7.6))
        _wheel(canvas, x, 6.6, figure.pose)
    canvas.ellipse((210, 240, 250), (half - 2.6, -waist * 0.62), (2.4, 1.7))
    canvas.rectangle((40, 40, 190), -half, -waist + 2.5, -half + 2.2, -waist + 6)
    _beams(canvas, half, waist * 0.62)
    return canvas.sprite(mirrored=figure.mirrored)


def _beams(canvas: Canvas, half: float, height: float) -> None:
    """Head light with a short beam, and a tail light."""
    for layer in range(6):  # brighter towards the lamp
        tone = 9.0 * (layer + 1)
        reach = 10 - 1.6 * layer
        centre = (half + 1 + reach, -height + 2.4 - 0.4 * layer)
        canvas.ellipse((round(tone * 0.62), round(tone * 0.85), round(tone)), centre,
                       (reach, 5.6 - 0.7 * layer), angle=8, glow=True)  # fmt: skip
    canvas.ellipse((90, 110, 120), (half, -height), (5, 4), glow=True)
    canvas.ellipse(_HEAD, (half - 1.5, -height), (2.6, 2.0), glow=True)
    canvas.ellipse((10, 10, 70), (-half, -height), (5, 4), glow=True)
    canvas.ellipse(_TAIL, (-half + 1, -height), (1.6, 2.2), glow=True)


def draw_bus(figure: Figure) -> Sprite:
    """A town bus with two doors."""
    rng = random.Random(figure.look)
    paint = rng.choice(_LIVERIES)
    length, height = rng.uniform(140, 158), rng.uniform(52, 57)
    half = length / 2
    canvas = Canvas(
        width=length + 44, height=height + 12, scale=figure.scale, origin=(half + 22, height + 6)
    )
    canvas.shadow((0, -0.5), (half * 1.01, 4.4))
    white = (228, 232, 234)
    canvas.polygon(paint, [
        (-half, -5), (-half, -height + 4), (-half + 4, -height), (half - 6, -height),
        (half - 1, -height + 6), (half, -18), (half, -5),
    ])  # fmt: skip
    canvas.rectangle(white, -half, -height * 0.46, half - 0.4, -height * 0.36)
    canvas.rectangle(shade(paint, 0.7), -half, -8, half, -4.5)
    canvas.rectangle(shade(paint, 1.18), -half + 4, -height, half - 6, -height + 2.4)
    panes = 6
    width = (length - 34) / panes
    for number in range(panes):
        left = -half + 5 + number * width
        top, bottom = -height * 0.88, -height * 0.5
        if number in {2, 5}:
            door = (left + 1, left + width - 2)
            canvas.rectangle(shade(_GLASS, 0.8), door[0], top, door[1], -7)
            middle = sum(door) / 2
            canvas.line(shade(paint, 0.8), [(middle, top), (middle, -7)], width=1.2)
        else:
            canvas.rectangle(_GLASS, left, top, left + width - 2.5, bottom)
            head = (left + width * 0.4, bottom - 5)
            if rng.random() < 0.6:
                canvas.ellipse(shade(_GLASS, 0.55), head, (3, 3.4))
                canvas.ellipse(shade(_GLASS, 0.55), (head[0], bottom), (4.6, 4.2))
        canvas.rectangle((70, 110, 140), left, top, left + width - 2.5, bottom, glow=True)
    canvas.polygon(_GLASS, [
        (half - 20, -height * 0.88), (half - 4, -height * 0.88), (half - 1, -height * 0.4),
        (half - 20, -height * 0.4),
    ])  # fmt: skip
    canvas.rectangle((40, 170, 250), half - 40, -height + 1.4, half - 9, -height + 5)
    canvas.rectangle((30, 120, 190), half - 40, -height + 1.4, half - 9, -height + 5, glow=True)
    for x in (-half * 0.6, half * 0.64):
        canvas.ellipse(shade(paint, 0.4), (x, -8), (10.4, 9.6))
        _wheel(canvas, x, 8.2, figure.pose)
    canvas.ellipse((210, 240, 250), (half - 2.4, -13), (2.2, 2.0))
    canvas.rectangle((40, 40, 190), -half, -20, -half + 2, -14)
    _beams(canvas, half, 13)
    return canvas.sprite(mirrored=figure.mirrored)


def draw_person(figure: Figure) -> Sprite:
    """A walking pedestrian."""
    rng = random.Random(figure.look)
    tall = rng.uniform(40, 51)
    shirt, legs = rng.choice(_CLOTHES), rng.choice(_TROUSERS)
    skin, hair = rng.choice(_SKINS), rng.choice(_HAIR)
    skirt, bag, stout = rng.random() < 0.25, rng.random() < 0.35, rng.uniform(0.9, 1.2)
    canvas = Canvas(width=40, height=tall + 10, scale=figure.scale, origin=(20, tall + 5))
    canvas.shadow((0, -0.4), (9, 2.4))
    swing = math.sin(2 * math.pi * figure.pose / POSES)
    lift = math.cos(2 * math.pi * figure.pose / POSES)
    hip, shoulder, head = tall * 0.49, tall * 0.80, tall * 0.905
    stride = tall * 0.16 * swing
    far, near = shade(legs, 0.75), legs

    def leg(reach: float, raised: float, colour: Bgr) -> None:
        knee = (reach * 0.45 + max(0.0, raised) * 1.6, -hip * 0.52)
        foot = (reach, -1.2 - max(0.0, raised) * 2.2)
        canvas.line(colour, [(0, -hip), knee, foot], width=tall * 0.082 * stout)
        canvas.line((40, 40, 48), [foot, (foot[0] + tall * 0.055, foot[1])], width=tall * 0.05)

    def arm(reach: float, colour: Bgr) -> None:
        elbow = (reach * 0.55 - 0.6, -(shoulder + hip) / 2)
        hand = (reach + 0.8, -hip + 0.4)
        canvas.line(colour, [(0, -shoulder + 1.6), elbow, hand], width=tall * 0.062)
        canvas.ellipse(skin, hand, (tall * 0.032, tall * 0.032))

    arm(stride * 0.8, shade(shirt, 0.7))
    leg(-stride, -lift, far)
    leg(stride, lift, near)
    wide = tall * 0.098 * stout
    torso = [
        (-wide, -shoulder + 1.5), (wide, -shoulder + 1.5), (wide * 0.92, -hip + 1),
        (-wide * 0.92, -hip + 1),
    ]  # fmt: skip
    canvas.polygon(shirt, torso)
    canvas.ellipse(shirt, (0, -shoulder + 1.2), (wide, tall * 0.04))
    canvas.line(shade(shirt, 0.82), [(-wide * 0.8, -shoulder + 3), (-wide * 0.8, -hip)], width=1.6)
    if skirt:
        canvas.polygon(shade(shirt, 0.85), [
            (-wide * 0.9, -hip - 1.5), (wide * 0.9, -hip - 1.5), (wide * 1.5, -hip * 0.62),
            (-wide * 1.5, -hip * 0.62),
        ])  # fmt: skip
    if bag:
        canvas.ellipse(shade(shirt, 0.5), (-wide * 1.25, -shoulder * 0.86), (2.8, 5.2))
    canvas.line(skin, [(0.4, -shoulder), (0.6, -head)], width=tall * 0.06)
    radius = tall * 0.078
    canvas.ellipse(hair, (-0.5, -head - 0.7), (radius * 1.08, radius * 1.1))
    canvas.ellipse(skin, (0.9, -head + 0.5), (radius * 0.82, radius * 0.92))
    arm(-stride * 0.8, shade(shirt, 0.9))
    return canvas.sprite(mirrored=figure.mirrored)


def draw_bicycle(figure: Figure) -> Sprite:
    """A bicycle without its rider."""
    rng = random.Random(figure.look)
    paint = rng.choice(_PAINTS)
    canvas = Canvas(width=66, height=38, scale=figure.scale, origin=(33, 33))
    canvas.shadow((0, -0.3), (21, 2.0))
    turn = 2 * math.pi * figure.pose / POSES / 3
    for x in (-13.5, 13.5):
        canvas.ring(_TYRE, (x, -8.6), 8.0, width=1.7)
        for spoke in range(3):
            angle = turn + spoke * math.pi / 3
            dx, dy = 7 * math.cos(angle), 7 * math.sin(angle)
            ends = [(x - dx, -8.6 - dy), (x + dx, -8.6 + dy)]
            canvas.line((150, 150, 152), ends, width=0.45)
    crank, saddle, head, fork = (-1.5, -8.0), (-5.0, -19.5), (9.5, -20.0), (13.5, -8.6)
    for ends in (
        [(-13.5, -8.6), crank], [(-13.5, -8.6), (-4.4, -17)], [crank, (-4.6, -18)],
        [(-4.4, -17), head], [crank, head], [(9.0, -22.0), head, fork],
    ):  # fmt: skip
        canvas.line(paint, ends, width=1.7)
    canvas.line(_TYRE, [saddle, (-8.4, -20.4)], width=2.0)
    canvas.line(_TYRE, [saddle, (-2.4, -20.0)], width=1.6)
    canvas.line(_TYRE, [(9.0, -22.0), (8.4, -24.0), (11.6, -24.6)], width=1.4)
    canvas.ring(_TYRE, crank, 2.2, width=0.9)
    canvas.ellipse(_WARM, (14.5, -21), (2.0, 1.8), glow=True)
    canvas.ellipse(_TAIL, (-20.5, -15), (1.3, 1.5), glow=True)
    return canvas.sprite(mirrored=figure.mirrored)


def draw_rider(figure: Figure) -> Sprite:
    """The person on the bicycle of the same look; same anchor."""
    rng = random.Random(f"{figure.look}/rider")
    shirt, legs = rng.choice(_CLOTHES), rng.choice(_TROUSERS)
    skin, helmet = rng.choice(_SKINS), rng.choice(_CLOTHES)
    canvas = Canvas(width=50, height=56, scale=figure.scale, origin=(25, 51))
    angle = 2 * math.pi * figure.pose / POSES
    hip, shoulder, hand = (-5.0, -21.5), (2.2, -34.5), (10.4, -24.4)

    def leg(turn: float, colour: Bgr) -> None:
        foot = (-1.5 + 3.6 * math.cos(turn), -7.4 + 3.6 * math.sin(turn))
        knee = ((hip[0] + foot[0]) / 2 + 4.6, (hip[1] + foot[1]) / 2 - 2.4)
        canvas.line(colour, [hip, knee, foot], width=3.5)
        canvas.line((40, 40, 48), [foot, (foot[0] + 2.6, foot[1])], width=2.2)

    leg(angle + math.pi, shade(legs, 0.75))
    canvas.line(shade(shirt, 0.8), [shoulder, (7.4, -27.6), hand], width=2.6)
    canvas.line(shirt, [hip, shoulder], width=7.4)
    canvas.line(shade(shirt, 1.15), [(-5.8, -24.5), (0.2, -35.0)], width=1.6)
    leg(angle, legs)
    canvas.line(shade(shirt, 0.92), [shoulder, (6.6, -27.0), hand], width=2.6)
    canvas.ellipse(skin, hand, (1.5, 1.5))
    canvas.line(skin, [shoulder, (4.6, -38.6)], width=2.8)
    canvas.ellipse(skin, (5.0, -40.0), (3.5, 3.9))
    canvas.ellipse(helmet, (4.4, -41.8), (4.4, 3.2), angle=-8)
    return canvas.sprite(mirrored=figure.mirrored)
