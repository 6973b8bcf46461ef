"""The still background: sky, houses, road, pavements, and the props that stand on them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from edgebus_detection.emulation.street.canvas import Bgr, Canvas, Image, Sprite, shade
from edgebus_detection.emulation.street.layout import HEIGHT, Layout, Prop, scale_at

LAMP_HEIGHT: Final = 92.0
"""Height of a street lamp in units at scale 1."""

_FRONTS: Final[tuple[Bgr, ...]] = (
    (150, 176, 206), (120, 148, 196), (168, 190, 200), (132, 158, 172), (176, 182, 190),
    (140, 140, 178), (160, 196, 214), (110, 130, 170),
)  # fmt: skip
_AWNINGS: Final[tuple[Bgr, ...]] = ((70, 70, 190), (110, 140, 60), (170, 120, 60), (60, 160, 220))
_LIT: Final[tuple[Bgr, ...]] = ((96, 178, 236), (120, 190, 230), (80, 150, 220))
_ASPHALT: Final[Bgr] = (112, 108, 106)
_PAVING: Final[Bgr] = (168, 176, 182)


@dataclass(frozen=True, slots=True)
class Backdrop:
    """The empty street.

    Attributes:
        image: ``[h, w, 3]`` uint8 BGR by day.
        glow: ``[h, w, 3]`` uint8: the light of its windows in the dark.
    """

    image: Image
    glow: Image


def draw_backdrop(layout: Layout, *, size: tuple[int, int], scale: float) -> Backdrop:
    """Draw the empty street.

    Args:
        layout: Of the view.
        size: Width and height in pixels.
        scale: Pixels per scene unit.
    """
    rng = random.Random(layout.look)
    canvas = Canvas(width=layout.width, height=HEIGHT, scale=scale, oversample=3)
    _draw_skyline(canvas, layout, rng)
    _draw_houses(canvas, layout, rng)
    _draw_street(canvas, layout, rng)
    drawn = cv2.resize(canvas.picture(), size, interpolation=cv2.INTER_AREA)
    glow = cv2.resize(canvas.glowing(), size, interpolation=cv2.INTER_AREA)
    sky = _sky(layout, size=size, seed=rng.randrange(2**32))
    # Sky shows where nothing was drawn (pure black is no colour of the drawing).
    open_sky = cv2.GaussianBlur((drawn.max(axis=2) < 24).astype(np.float32), (0, 0), 0.5)
    # Windows are dark but not black: only the area above the lowest roof can be sky.
    open_sky[round(layout.facade * scale) :] = 0
    image = drawn * (1 - open_sky[:, :, None]) + sky * open_sky[:, :, None]
    image = image * _grain(size=size, seed=rng.randrange(2**32), road=layout.far_kerb * scale)
    return Backdrop(image=np.clip(image, 0, 255).astype(np.uint8), glow=np.asarray(glow, np.uint8))


def _sky(layout: Layout, *, size: tuple[int, int], seed: int) -> npt.NDArray[np.float32]:
    """Blue above, pale towards the roofs, with soft clouds."""
    columns, rows = size
    top = np.array((222, 172, 118), np.float32)
    low = np.array((236, 226, 212), np.float32)
    ramp = np.clip(np.linspace(0, HEIGHT / layout.facade, rows, dtype=np.float32), 0, 1)
    sky = top + (low - top) * ramp[:, None, None]
    sky = np.repeat(sky, columns, axis=1)
    noise = np.random.default_rng(seed)
    cloud = np.zeros((rows, columns), np.float32)
    for cells, weight in ((4, 0.5), (8, 0.3), (16, 0.2)):
        coarse = noise.random((cells, cells), dtype=np.float32)
        cloud += weight * cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)
    cover = np.clip((cloud - 0.5) * 4, 0, 0.85)[:, :, None]
    return np.asarray(sky * (1 - cover) + 248 * cover, np.float32)


def _grain(*, size: tuple[int, int], seed: int, road: float) -> npt.NDArray[np.float32]:
    """Fine texture of asphalt and stone, and slow patches of wear."""
    columns, rows = size
    noise = np.random.default_rng(seed)
    fine = noise.normal(0, 0.022, (rows, columns)).astype(np.float32)
    coarse = noise.normal(0, 0.05, (6, 9)).astype(np.float32)
    wear = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    ground = (np.arange(rows) >= road).astype(np.float32)[:, None]
    grain = 1 + fine * (0.4 + 0.6 * ground) + wear * ground
    return np.asarray(grain[:, :, None], np.float32)


def _draw_skyline(canvas: Canvas, layout: Layout, rng: random.Random) -> None:
    """Hazy towers behind the houses."""
    x = -10.0
    while x < layout.width:
        width, top = rng.uniform(14, 34), layout.facade - rng.uniform(60, 98)
        if rng.random() < 0.7:
            canvas.rectangle((206, 192, 178), x, top, x + width, layout.facade)
        x += width + rng.uniform(2, 26)


def _draw_houses(canvas: Canvas, layout: Layout, rng: random.Random) -> None:
    x, base = -rng.uniform(0, 30), layout.facade
    while x < layout.width:
        width = rng.uniform(44, 78)
        if rng.random() < 0.12:  # a gap with a hedge
            canvas.rectangle((70, 118, 84), x, base - 12, x + width * 0.5, base)
            canvas.rectangle((60, 100, 70), x, base - 4, x + width * 0.5, base)
            x += width * 0.5
            continue
        _draw_house(canvas, rng, left=x, width=width, top=base - rng.uniform(52, 88), base=base)
        x += width + rng.choice((0.0, 0.0, 2.0))


def _draw_house(
    canvas: Canvas, rng: random.Random, *, left: float, width: float, top: float, base: float
) -> None:
    front, right = rng.choice(_FRONTS), left + width
    canvas.rectangle(front, left, top, right, base)
    canvas.rectangle(shade(front, 0.86), right - 1.4, top, right, base)
    if rng.random() < 0.4:  # a pitched roof
        roof = rng.choice(((70, 80, 120), (80, 76, 84), (64, 70, 100)))
        canvas.polygon(roof, [(left - 1, top), (left + 7, top - 11), (right - 7, top - 11),
                              (right + 1, top)])  # fmt: skip
        canvas.rectangle(shade(roof, 0.8), left + 12, top - 17, left + 17, top - 8)
    else:
        canvas.rectangle(shade(front, 0.8), left - 0.8, top - 2.4, right + 0.8, top + 1.2)
    shop = rng.random() < 0.55
    ground = 19.0 if shop else 4.0
    columns = max(2, round(width / rng.uniform(11, 16)))
    storeys = max(2, int((base - ground - top - 3) / 15))
    pitch_x, pitch_y = width / columns, (base - ground - top - 3) / storeys
    frame, dark = shade(front, 1.22), (104, 84, 70)
    for row in range(storeys):
        for column in range(columns):
            x1 = left + column * pitch_x + pitch_x * 0.25
            y1 = top + 3 + row * pitch_y + pitch_y * 0.2
            x2, y2 = x1 + pitch_x * 0.5, y1 + pitch_y * 0.62
            canvas.rectangle(frame, x1 - 0.9, y1 - 0.9, x2 + 0.9, y2 + 1.3)
            pane = shade(dark, rng.uniform(0.8, 1.5))
            canvas.rectangle(pane, x1, y1, x2, y2)
            canvas.polygon(shade(pane, 1.3), [(x1, y2), (x1, y1 + 2), (x1 + (x2 - x1) * 0.6, y1)])
            if rng.random() < 0.35:
                lit = shade(rng.choice(_LIT), rng.uniform(0.5, 0.9))
                canvas.rectangle(lit, x1, y1, x2, y2, glow=True)
    if shop:
        _draw_shop(canvas, rng, left=left, right=right, base=base, height=ground)
    else:
        door = left + width * rng.uniform(0.3, 0.6)
        canvas.rectangle(shade(front, 0.45), door, base - 14, door + 7, base)


def _draw_shop(
    canvas: Canvas, rng: random.Random, *, left: float, right: float, base: float, height: float
) -> None:
    awning, lit = rng.choice(_AWNINGS), shade(rng.choice(_LIT), 0.8)
    canvas.rectangle((78, 74, 74), left + 2, base - height, right - 2, base)
    panes = max(2, round((right - left) / 17))
    width = (right - left - 6) / panes
    door = rng.randrange(panes)
    for number in range(panes):
        x1 = left + 3 + number * width
        bottom = base if number == door else base - 4
        canvas.rectangle((140, 124, 104), x1 + 0.8, base - height + 5, x1 + width - 0.8, bottom)
        if rng.random() < 0.7:
            canvas.rectangle(lit, x1 + 0.8, base - height + 5, x1 + width - 0.8, bottom, glow=True)
    stripes = max(4, round((right - left) / 5))
    pitch = (right - left - 2) / stripes
    for number in range(stripes):
        colour = awning if number % 2 else (222, 228, 230)
        x1 = left + 1 + number * pitch
        canvas.rectangle(colour, x1, base - height - 2, x1 + pitch, base - height + 5)
    canvas.rectangle(shade(awning, 0.7), left + 1, base - height - 3, right - 1, base - height - 2)


def _draw_street(canvas: Canvas, layout: Layout, rng: random.Random) -> None:
    width, middle = layout.width, layout.width / 2
    canvas.rectangle(_PAVING, 0, layout.facade, width, layout.far_kerb)
    canvas.rectangle(shade(_PAVING, 0.84), 0, layout.facade, width, layout.facade + 1.6)
    canvas.rectangle(_ASPHALT, 0, layout.far_kerb, width, layout.near_kerb)
    canvas.rectangle(shade(_ASPHALT, 0.82), 0, layout.far_kerb, width, layout.far_kerb + 2)
    canvas.rectangle((196, 202, 206), 0, layout.far_kerb - 2.2, width, layout.far_kerb)
    canvas.rectangle((96, 98, 128), 0, layout.cycle, width, layout.near_kerb)  # reddish cycle lane
    canvas.rectangle((214, 218, 220), 0, layout.cycle - 0.7, width, layout.cycle + 0.7)
    x = -rng.uniform(0, 30)
    while x < width:
        canvas.rectangle((220, 224, 226), x, layout.centre - 0.8, x + 17, layout.centre + 0.8)
        x += 34
    canvas.rectangle(shade(_PAVING, 1.04), 0, layout.near_kerb, width, HEIGHT)
    for row in (0.28, 0.62):
        y = layout.near_kerb + (HEIGHT - layout.near_kerb) * row
        canvas.line(shade(_PAVING, 0.9), [(0, y), (width, y)], width=0.6)
    for x in np.arange(-width, 2 * width, 22.0):
        ends = [(float(x), layout.near_kerb), (middle + (float(x) - middle) * 1.35, HEIGHT)]
        canvas.line(shade(_PAVING, 0.91), ends, width=0.6)
    for x in np.arange(0, width, 11.0):
        ends = [(float(x), layout.facade), (middle + (float(x) - middle) * 1.06, layout.far_kerb)]
        canvas.line(shade(_PAVING, 0.92), ends, width=0.5)
    canvas.rectangle((208, 214, 216), 0, layout.near_kerb, width, layout.near_kerb + 3)
    canvas.rectangle(shade(_PAVING, 0.7), 0, layout.near_kerb - 1.6, width, layout.near_kerb)
    if layout.crossing is not None:
        for stripe in range(5):
            top = layout.far_kerb + 3 + stripe * (layout.cycle - layout.far_kerb - 4) / 5
            bottom = top + (layout.cycle - layout.far_kerb) / 9
            reach = 13 * scale_at((top + bottom) / 2, layout)
            lean = (layout.crossing - middle) * 0.0016
            x1, x2 = (layout.crossing + lean * (y - layout.far_kerb) for y in (top, bottom))
            upper, lower = [(x1 - reach, top), (x1 + reach, top)], [(x2 + reach, bottom)]
            canvas.polygon((212, 216, 218), [*upper, *lower, (x2 - reach, bottom)])
    for _ in range(2):
        place = rng.uniform(0.1, 0.9) * width
        y = rng.choice((layout.centre - 9, layout.cycle - 6))
        canvas.ellipse(shade(_ASPHALT, 0.75), (place, y), (5, 1.8))


def draw_prop(prop: Prop, *, scale: float) -> Sprite:
    """Draw a tree, lamp or sign; the lamp's light is not part of it."""
    rng = random.Random(prop.look)
    if prop.kind == "tree":
        return _draw_tree(rng, scale=scale)
    if prop.kind == "lamp":
        canvas = Canvas(width=44, height=LAMP_HEIGHT + 8, scale=scale, origin=(12, LAMP_HEIGHT + 4))
        metal = (70, 74, 70)
        canvas.shadow((0, 0), (5, 1.4))
        canvas.rectangle(metal, -1.9, -9, 1.9, 0)
        canvas.line(metal, [(0, 0), (0, -LAMP_HEIGHT + 8), (5, -LAMP_HEIGHT), (17, -LAMP_HEIGHT)],
                    width=2.0)  # fmt: skip
        top, low = -LAMP_HEIGHT, -LAMP_HEIGHT + 3
        canvas.polygon((206, 220, 226), [(12, top), (24, top), (22, low), (14, low)])
        canvas.rectangle((170, 225, 255), 13, -LAMP_HEIGHT, 23, -LAMP_HEIGHT + 3, glow=True)
        return canvas.sprite()
    canvas = Canvas(width=26, height=66, scale=scale, origin=(13, 63))
    canvas.shadow((0, 0), (4, 1.2))
    canvas.rectangle((150, 152, 152), -1, -60, 1, 0)
    face = rng.choice(((170, 90, 40), (60, 60, 200)))
    canvas.ellipse((235, 238, 240), (0, -52), (8.6, 8.6))
    canvas.ellipse(face, (0, -52), (7.4, 7.4))
    canvas.rectangle((235, 238, 240), -4.6, -53.4, 4.6, -50.6)
    return canvas.sprite()


def _draw_tree(rng: random.Random, *, scale: float) -> Sprite:
    tall, wide = rng.uniform(76, 104), rng.uniform(24, 32)
    canvas = Canvas(width=wide * 2.6, height=tall + 14, scale=scale, origin=(wide * 1.3, tall + 8))
    canvas.shadow((0, 0), (wide * 0.7, 2.6))
    trunk = (58, 78, 98)
    canvas.polygon(trunk, [(-3, 0), (-1.8, -tall * 0.6), (1.8, -tall * 0.6), (3.2, 0)])
    canvas.line(trunk, [(0, -tall * 0.45), (-wide * 0.35, -tall * 0.66)], width=1.8)
    green = rng.choice(((62, 128, 88), (54, 116, 96), (70, 140, 104)))
    for tone, lift, spread, count in ((0.72, 0.0, 0.95, 12), (1.0, 0.05, 0.8, 12),
                                      (1.26, 0.11, 0.6, 9)):  # fmt: skip
        for _ in range(count):
            x = rng.uniform(-1, 1) * wide * spread * 0.72
            y = -tall * (0.70 + lift + rng.uniform(-0.13, 0.13) * (1 - abs(x) / (wide * 1.3)))
            radius = rng.uniform(5.2, 9.5) * (1.15 - 0.35 * (tone - 0.7))
            canvas.ellipse(shade(green, tone * rng.uniform(0.93, 1.07)), (x, y),
                           (radius, radius * 0.85))  # fmt: skip
    return canvas.sprite()
