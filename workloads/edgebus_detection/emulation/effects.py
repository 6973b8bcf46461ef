"""Drift effects on pictures: weather, light, mounting and sensor.

Every effect takes a strength from 0 (nothing) to 1 and is a pure function of picture, strength,
seed and frame number. Only `moved` changes where things are; it moves the boxes along.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from edgebus_detection.emulation.drift import EFFECTS, EffectName
from edgebus_detection.emulation.street import Lights
from edgebus_detection.messages import Box

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_SPARE: Final = 61
_KEEP: Final = 0.3  # of a box's area has to stay in the picture

# At full strength, for a picture of 240 rows.
_TILT_DEG: Final = 6.0
_SHIFT: Final = 0.05
_FOG_NEAR, _FOG_FAR = 0.55, 2.4
_DUSK_LIGHT: Final = (0.235, 0.165, 0.125)  # of the day's blue, green and red
_DUSK_VEIL: Final = (11.0, 7.5, 6.0)
_DUSK_NOISE: Final = 6.5
_INFRARED_NOISE: Final = 7.0
_BLUR_SIGMA: Final = 2.6
_NOISE: Final = 34.0


@dataclass(frozen=True, slots=True)
class _Sheets:
    """Prepared for one size of picture."""

    noise: Floats
    spot: Floats
    depth: Floats


class Effects:
    """Drift effects for the frames of one camera.

    Args:
        seed: Decides the noise, and which way a moved camera looks.
    """

    def __init__(self, *, seed: int) -> None:
        self._seed = seed
        self._prepared: dict[tuple[int, int], _Sheets] = {}

    def apply(
        self,
        image: Image,
        boxes: Iterable[Box],
        strengths: Mapping[EffectName, float],
        *,
        index: int,
        lights: Lights | None = None,
    ) -> tuple[Image, list[Box]]:
        """Apply all effects of a frame.

        Args:
            image: ``[h, w, 3]`` uint8 BGR; not changed.
            boxes: Its ground truth.
            strengths: 0 to 1 by effect; effects that are absent are off.
            index: Frame number.
            lights: The lights of the dark scene, where the source knows them.

        Returns:
            The new picture and the boxes in it. Boxes that have left it are left out.

        Raises:
            ValueError: A strength outside 0 to 1, or an unknown effect.
        """
        for name, strength in strengths.items():
            if name not in EFFECTS:
                msg = f"there is no effect {name!r}; there are {', '.join(EFFECTS)}"
                raise ValueError(msg)
            if not 0 <= strength <= 1:
                msg = f"effect {name!r} has strength {strength}; it goes from 0 to 1"
                raise ValueError(msg)
        kept = list(boxes)
        for name in EFFECTS:
            strength = strengths.get(name, 0.0)
            if strength <= 0:
                continue
            if name == "moved":
                matrix = self._camera_move(image.shape, strength)
                image, lights = _warp(image, matrix), _warp_lights(lights, matrix)
                kept = move_boxes(kept, matrix, width=image.shape[1], height=image.shape[0])
            elif name == "fog":
                image = self._fog(image, strength, index)
            elif name == "dusk":
                image = self._dusk(image, strength, index, lights)
            elif name == "infrared":
                image = self._infrared(image, strength, index)
            elif name == "blur":
                image = _blur(image, strength)
            else:
                noise = self._noise(image.shape, index) * np.float32(_NOISE * strength)
                image = _to_image(image.astype(np.float32) + noise)
        return image, kept

    def _camera_move(self, shape: tuple[int, ...], strength: float) -> npt.NDArray[np.float64]:
        """The 2 x 3 matrix of a camera that hangs askew and looks aside.

        It is zoomed in by just as much as keeps the old picture's border out of view.
        """
        rows, columns = shape[0], shape[1]
        sides = np.random.default_rng([self._seed, 7]).choice((-1.0, 1.0), 3)
        angle = math.radians(_TILT_DEG) * strength
        shift = _SHIFT * strength
        cos, sin = math.cos(angle), math.sin(angle)
        aspect = columns / rows
        zoom = (1 + 2 * shift) * (cos + max(aspect, 1 / aspect) * sin)
        cos, sin = zoom * cos, zoom * sin * sides[0]
        dx, dy = sides[1] * shift * columns, sides[2] * shift * rows
        x, y = columns / 2, rows / 2
        return np.array(
            [[cos, -sin, x + dx - cos * x + sin * y], [sin, cos, y + dy - sin * x - cos * y]]
        )

    def _fog(self, image: Image, strength: float, index: int) -> Image:
        """Koschmieder's law: contrast falls exponentially with distance, taken from the row."""
        sheets = self._sheets(image.shape)
        # Swathes drift slowly through the view.
        swathe = 1 + 0.18 * np.sin(
            np.linspace(0, 5, image.shape[1], dtype=np.float32) + 0.013 * index + self._seed
        )
        depth = sheets.depth * swathe[None, :, None]
        through = np.exp(-strength * depth, dtype=np.float32)
        white = np.array((214, 212, 208), np.float32)
        return _to_image(image * through + white * (1 - through))

    def _dusk(self, image: Image, strength: float, index: int, lights: Lights | None) -> Image:
        """Less light, bluer and flatter, lamps on, and the sensor's gain turned up."""
        light = 1 - strength * (1 - np.array(_DUSK_LIGHT, np.float32))
        veil = strength * np.array(_DUSK_VEIL, np.float32)
        picture = image.astype(np.float32)
        gain: Floats = light
        if lights is not None:
            gain = light + np.float32(strength) * lights.lit
        dark = picture * gain + veil
        if lights is not None:
            # Lamps come on at a third of the way, not with the first cloud.
            on = np.float32(np.clip((strength - 0.3) / 0.4, 0, 1))
            dark += lights.glow * on
        dark += self._noise(image.shape, index) * np.float32(_DUSK_NOISE * strength)
        return _to_image(dark)

    def _infrared(self, image: Image, strength: float, index: int) -> Image:
        """A night camera with its own lamp: grey, bright in the middle, soft and noisy.

        Near infrared: leaves shine, the blue sky is dark.
        """
        sheets = self._sheets(image.shape)
        grey = image.astype(np.float32) @ np.array((-0.25, 0.75, 0.5), np.float32)
        soft = cv2.GaussianBlur(np.clip(grey, 0, 255), (0, 0), 0.9 * image.shape[0] / 240)
        night = 255 * (soft[:, :, None].astype(np.float32) / 255) ** 1.35 * sheets.spot + 14
        night = night + self._noise(image.shape, index)[:, :, :1] * np.float32(_INFRARED_NOISE)
        return _to_image(image * np.float32(1 - strength) + night * np.float32(strength))

    def _noise(self, shape: tuple[int, ...], index: int) -> Floats:
        """Noise of standard deviation 1, another cut of one sheet for each frame."""
        row, column = index * 23 % _SPARE, index * 37 % _SPARE
        noise = self._sheets(shape).noise
        return noise[row : row + shape[0], column : column + shape[1]]

    def _sheets(self, shape: tuple[int, ...]) -> _Sheets:
        rows, columns = shape[0], shape[1]
        sheets = self._prepared.get((rows, columns))
        if sheets is None:
            random = np.random.default_rng([self._seed, rows, columns])
            noise = random.standard_normal((rows + _SPARE, columns + _SPARE, 3), np.float32)
            y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j].astype(np.float32)
            spot = np.exp(-(0.7 * x**2 + 0.7 * y**2))[:, :, None] * np.float32(0.95)
            nearness = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None]
            depth = _FOG_FAR + (_FOG_NEAR - _FOG_FAR) * nearness
            sheets = _Sheets(
                noise=noise, spot=spot, depth=np.asarray(np.repeat(depth, columns, axis=1))
            )
            # A camera has one size; a few more when its source changes it.
            if len(self._prepared) >= 4:
                self._prepared.clear()
            self._prepared[(rows, columns)] = sheets
        return sheets


def move_boxes(
    boxes: Iterable[Box], matrix: npt.NDArray[np.float64], *, width: int, height: int
) -> list[Box]:
    """Boxes of the same things after the camera has moved.

    The box of a rotated box would grow with each turn. Things fill their boxes about as an ellipse
    does, so the new box is the one around the rotated ellipse.

    Args:
        boxes: In pixels of the old picture.
        matrix: 2 x 3, from old to new pixels: rotation, zoom, shift.
        width: Width of the new picture.
        height: Height of the new picture.

    Returns:
        The boxes, clipped; without those that are mostly outside.
    """
    moved = []
    for box in boxes:
        centre = matrix @ ((box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2, 1.0)
        radii = np.array(((box.x2 - box.x1) / 2, (box.y2 - box.y1) / 2))
        reach = np.sqrt(((matrix[:, :2] * radii) ** 2).sum(axis=1))
        low, high = centre - reach, centre + reach
        x1, y1 = max(0.0, float(low[0])), max(0.0, float(low[1]))
        x2, y2 = min(float(width), float(high[0])), min(float(height), float(high[1]))
        area = float(4 * reach[0] * reach[1])
        if x2 - x1 < 1 or y2 - y1 < 1 or (x2 - x1) * (y2 - y1) < _KEEP * area:
            continue
        moved.append(box.model_copy(update={"x1": x1, "y1": y1, "x2": x2, "y2": y2}))
    return moved


def _warp(image: Image, matrix: npt.NDArray[np.float64]) -> Image:
    size = (image.shape[1], image.shape[0])
    warped = cv2.warpAffine(
        image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(warped, np.uint8)


def _warp_lights(lights: Lights | None, matrix: npt.NDArray[np.float64]) -> Lights | None:
    if lights is None:
        return None
    size = (lights.glow.shape[1], lights.glow.shape[0])
    lit = cv2.warpAffine(lights.lit, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    return Lights(glow=_warp(lights.glow, matrix), lit=np.asarray(lit, np.float32))


def _blur(image: Image, strength: float) -> Image:
    sigma = max(0.05, _BLUR_SIGMA * strength * image.shape[0] / 240)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)


def _to_image(picture: npt.NDArray[np.floating]) -> Image:
    return np.asarray(np.clip(np.rint(picture), 0, 255), np.uint8)
