"""The scene: backdrop, props and passers-by in one picture, with the box of every visible one."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from edgebus_detection.emulation.street.backdrop import LAMP_HEIGHT, draw_backdrop, draw_prop
from edgebus_detection.emulation.street.canvas import Image, Sprite
from edgebus_detection.emulation.street.layout import HEIGHT, make_layout, scale_at
from edgebus_detection.emulation.street.traffic import Label, passers
from edgebus_detection.messages import Box

_VISIBLE: Final = 0.3  # of an object's pixels, in the picture and not hidden, to be labelled
_SPRITES: Final = 512  # kept drawn: about 40 passers-by with all their poses
_GRAIN: Final = 2.2  # standard deviation of the sensor's noise by day, in grey levels
_SPARE: Final = 61  # the noise sheet is this much larger than the picture, to cut it elsewhere


class SceneFrame(NamedTuple):
    """One picture of the street.

    Attributes:
        image: ``[h, w, 3]`` uint8 BGR.
        boxes: Of the visible parts, farthest first.
        condition: Always ``day``; dusk and weather come from the effects.
    """

    image: Image
    boxes: list[Box]
    condition: str


@dataclass(frozen=True, slots=True)
class Lights:
    """Lights of a dark scene; for `dusk` in `edgebus_detection.emulation.effects`.

    Attributes:
        glow: ``[h, w, 3]`` uint8 BGR: windows, lamps and head lights, to be added.
        lit: ``[h, w, 3]`` float32: how much of the day's light the street lamps give.
    """

    glow: Image
    lit: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Placed:
    """A sprite cut to the picture: rows and columns there, and the same part of the sprite."""

    label: Label | None
    sprite: Sprite
    window: tuple[slice, slice]
    part: tuple[slice, slice]


class Scene:
    """A street seen by one camera.

    Not safe to share between threads: it remembers drawn sprites.

    Args:
        seed: Decides the street and everybody in it.
        width: Width of the pictures in pixels.
        height: Height of the pictures in pixels.
        fps: Frames per second: how far things move from one index to the next.

    Raises:
        ValueError: A size below 64 pixels, or a frame rate that is no positive number.
    """

    def __init__(
        self, *, seed: int, width: int = 320, height: int = 240, fps: float = 10.0
    ) -> None:
        if width < 64 or height < 64:
            msg = f"a scene of {width} x {height} pixels shows nothing; use at least 64 x 64"
            raise ValueError(msg)
        if not (math.isfinite(fps) and fps > 0):
            msg = f"fps is {fps}; a scene needs a positive number of frames per second"
            raise ValueError(msg)
        self.seed, self.width, self.height, self.fps = seed, width, height, fps
        self._scale = height / HEIGHT
        self.layout = make_layout(seed, width=width / self._scale)
        self._backdrop = draw_backdrop(self.layout, size=(width, height), scale=self._scale)
        self._sprites: OrderedDict[object, Sprite] = OrderedDict()
        sheet = np.random.default_rng(seed).normal(0, _GRAIN, (height + _SPARE, width + _SPARE, 3))
        self._grain = sheet.round().astype(np.int16)
        self._lamps: Lights | None = None

    def render(self, index: int) -> SceneFrame:
        """Draw a frame.

        Args:
            index: Frame number, from 0, in any order.
        """
        image = self._backdrop.image.copy()
        owners = np.zeros((self.height, self.width), np.uint8)
        placed = self._placed(index)
        for number, item in enumerate(placed, start=1):
            target, sprite = image[item.window], item.sprite
            cv2.multiply(target, sprite.keep[item.part], dst=target, scale=1 / 255)
            cv2.add(target, sprite.colour[item.part], dst=target)
            owners[item.window][sprite.mask[item.part]] = number
        boxes = [
            box
            for number, item in enumerate(placed, start=1)
            if item.label is not None and (box := _visible(owners, number, item)) is not None
        ]
        return SceneFrame(self._expose(image, index), boxes, "day")

    def lights(self, index: int) -> Lights:
        """The lights of a frame in the dark."""
        lamps = self._lamps or self._light_lamps()
        self._lamps = lamps
        glow = self._backdrop.glow.copy()
        for item in self._placed(index):
            target, sprite = glow[item.window], item.sprite
            target[sprite.mask[item.part]] = 0
            if sprite.glow is not None:
                cv2.add(target, sprite.glow[item.part], dst=target)
        cv2.add(glow, lamps.glow, dst=glow)
        return Lights(glow=glow, lit=lamps.lit)

    def _placed(self, index: int) -> list[_Placed]:
        """Everything before the backdrop, farthest first."""
        things: list[tuple[float, _Placed | None]] = []
        for prop in self.layout.props:
            scale = scale_at(prop.ground, self.layout) * self._scale
            sprite = self._sprite(prop, lambda prop=prop, scale=scale: draw_prop(prop, scale=scale))  # type: ignore[misc]
            things.append((prop.ground, self._place(None, sprite, prop.x, prop.ground)))
        time = index / self.fps
        for passer in passers(self.layout, time=time, pixels_per_unit=self._scale):
            key = (passer.draw.__name__, passer.figure)
            sprite = self._sprite(key, lambda passer=passer: passer.draw(passer.figure))  # type: ignore[misc]
            place = self._place(passer.label, sprite, passer.x, passer.ground)
            things.append((passer.ground, place))
        things.sort(key=lambda thing: thing[0])
        return [item for _, item in things if item is not None]

    def _sprite(self, key: object, draw: Callable[[], Sprite]) -> Sprite:
        sprite = self._sprites.get(key)
        if sprite is None:
            sprite = self._sprites[key] = draw()
            if len(self._sprites) > _SPRITES:
                self._sprites.popitem(last=False)
        else:
            self._sprites.move_to_end(key)
        return sprite

    def _place(
        self, label: Label | None, sprite: Sprite, x: float, ground: float
    ) -> _Placed | None:
        """Cut a sprite to the picture; None when it is outside."""
        left = round(x * self._scale) - sprite.anchor[0]
        top = round(ground * self._scale) - sprite.anchor[1]
        rows, columns = sprite.mask.shape
        x1, y1 = max(0, left), max(0, top)
        x2, y2 = min(self.width, left + columns), min(self.height, top + rows)
        if x2 <= x1 or y2 <= y1:
            return None
        return _Placed(
            label,
            sprite,
            (slice(y1, y2), slice(x1, x2)),
            (slice(y1 - top, y2 - top), slice(x1 - left, x2 - left)),
        )

    def _expose(self, image: Image, index: int) -> Image:
        """Passing clouds and the sensor's noise."""
        time = index / self.fps
        light = 1 + 0.05 * math.sin(time / 9 + self.seed) + 0.03 * math.sin(time / 3.7)
        # Any two coprime strides visit every cut of the sheet.
        row, column = index * 17 % _SPARE, index * 29 % _SPARE
        grain = self._grain[row : row + self.height, column : column + self.width]
        noisy = cv2.scaleAdd(image.astype(np.float32), light, grain.astype(np.float32))
        return np.asarray(cv2.convertScaleAbs(np.maximum(noisy, 0)), np.uint8)

    def _light_lamps(self) -> Lights:
        """The street lamps' cones, the same in every frame."""
        rows, columns = np.mgrid[0 : self.height, 0 : self.width].astype(np.float32) / self._scale
        lit = np.zeros((self.height, self.width), np.float32)
        halo = np.zeros_like(lit)
        for prop in self.layout.props:
            if prop.kind != "lamp":
                continue
            size = scale_at(prop.ground, self.layout)
            x, y = prop.x + 18 * size, prop.ground - LAMP_HEIGHT * size
            halo += np.exp(-np.hypot(columns - x, rows - y) / 5)
            spread = 12 + np.maximum(rows - y, 0) * 0.42
            cone = np.exp(-(((columns - x) / spread) ** 2)) * (rows > y)
            pool = np.exp(-((rows - prop.ground - 14) ** 2) / (2 * 34.0**2))
            lit += cone * (0.25 + 0.75 * pool)
        warm = np.array((0.42, 0.66, 0.92), np.float32)
        glow = np.clip(halo[:, :, None] * warm * 210, 0, 255).astype(np.uint8)
        return Lights(glow=glow, lit=np.minimum(lit, 1)[:, :, None] * warm * np.float32(0.36))


def _visible(owners: npt.NDArray[np.uint8], number: int, item: _Placed) -> Box | None:
    """The box of an object's visible part, or None when that is too small."""
    if item.label is None:
        return None
    seen = owners[item.window] == number
    if np.count_nonzero(seen) < max(12, _VISIBLE * item.sprite.area):
        return None
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    top, left = item.window[0].start, item.window[1].start
    return Box(
        label=item.label,
        x1=float(left + columns[0]),
        y1=float(top + rows[0]),
        x2=float(left + columns[-1] + 1),
        y2=float(top + rows[-1] + 1),
    )
