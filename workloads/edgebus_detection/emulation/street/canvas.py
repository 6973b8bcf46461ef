"""Anti-aliased drawing in scene units, and the sprites that come out of it.

Shapes are drawn several times larger than needed and averaged down: cheaper to get right than
OpenCV's line-wise anti-aliasing, and colour and coverage stay consistent at the edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Bgr = tuple[int, int, int]
Point = tuple[float, float]

_SHADOW = 0.38  # how dark the ground below an object gets


def shade(colour: Bgr, factor: float) -> Bgr:
    """A darker (below 1) or lighter (above 1) tone of a colour."""
    blue, green, red = (max(0, min(255, round(channel * factor))) for channel in colour)
    return blue, green, red


@dataclass(frozen=True, slots=True)
class Sprite:
    """A picture with soft edges, ready to be laid over another.

    Attributes:
        colour: ``[h, w, 3]`` uint8, already multiplied by its coverage.
        keep: ``[h, w, 3]`` uint8; the share of the picture below that shows through, 255 is all.
        mask: ``[h, w]`` bool, the object itself: without its shadow.
        glow: ``[h, w, 3]`` uint8, its light in the dark; None without.
        anchor: Pixel inside the sprite that stands on the ground: (x, y).
        area: Number of pixels in `mask`.
    """

    colour: Image
    keep: Image
    mask: Mask
    glow: Image | None
    anchor: tuple[int, int]
    area: int


class Canvas:
    """A sheet of ``width`` x ``height`` scene units to draw on, x to the right and y down.

    Args:
        width: Width in scene units.
        height: Height in scene units.
        scale: Pixels per unit of the finished picture.
        origin: Where the drawing's (0, 0) lies on the sheet, in units.
        oversample: How much larger than the finished picture it is drawn.
    """

    def __init__(
        self,
        *,
        width: float,
        height: float,
        scale: float,
        origin: Point = (0.0, 0.0),
        oversample: int = 4,
    ) -> None:
        self.size = (max(1, round(width * scale)), max(1, round(height * scale)))
        self._origin = origin
        self._scale = scale
        self._zoom = scale * oversample
        columns, rows = self.size[0] * oversample, self.size[1] * oversample
        self._colour: Image = np.zeros((rows, columns, 3), np.uint8)
        self._cover: Image = np.zeros((rows, columns), np.uint8)
        self._glow: Image | None = None
        self._shadow: Image | None = None

    def polygon(self, colour: Bgr, points: list[Point], *, glow: bool = False) -> None:
        """Fill a polygon; with `glow`, it only shines in the dark."""
        corners = np.array([self._at(point) for point in points], np.int32)
        for sheet, paint in self._sheets(colour, glow=glow):
            cv2.fillPoly(sheet, [corners], paint)

    def rectangle(
        self, colour: Bgr, left: float, top: float, right: float, bottom: float, *,
        glow: bool = False,
    ) -> None:  # fmt: skip
        """Fill a rectangle."""
        first, last = self._at((left, top)), self._at((right, bottom))
        # OpenCV's second corner is inside the rectangle.
        last = (max(first[0], last[0] - 1), max(first[1], last[1] - 1))
        for sheet, paint in self._sheets(colour, glow=glow):
            cv2.rectangle(sheet, first, last, paint, cv2.FILLED)

    def ellipse(
        self, colour: Bgr, centre: Point, radii: Point, *, angle: float = 0.0, glow: bool = False
    ) -> None:
        """Fill an ellipse; `angle` in degrees, clockwise."""
        axes = (max(1, round(radii[0] * self._zoom)), max(1, round(radii[1] * self._zoom)))
        for sheet, paint in self._sheets(colour, glow=glow):
            cv2.ellipse(sheet, self._at(centre), axes, angle, 0, 360, paint, cv2.FILLED)

    def ring(self, colour: Bgr, centre: Point, radius: float, *, width: float) -> None:
        """Draw a circle's line."""
        for sheet, paint in self._sheets(colour, glow=False):
            cv2.circle(
                sheet, self._at(centre), max(1, round(radius * self._zoom)), paint, self._pen(width)
            )

    def line(self, colour: Bgr, points: list[Point], *, width: float) -> None:
        """Draw a line through the points, with round ends."""
        track = np.array([self._at(point) for point in points], np.int32)
        for sheet, paint in self._sheets(colour, glow=False):
            cv2.polylines(sheet, [track], isClosed=False, color=paint, thickness=self._pen(width))

    def shadow(self, centre: Point, radii: Point) -> None:
        """Darken the ground softly in an ellipse."""
        if self._shadow is None:
            self._shadow = np.zeros_like(self._cover)
        axes = (max(1, round(radii[0] * self._zoom)), max(1, round(radii[1] * self._zoom)))
        cv2.ellipse(self._shadow, self._at(centre), axes, 0, 0, 360, (255,), cv2.FILLED)

    def picture(self) -> Image:
        """The finished picture, ``[h, w, 3]`` uint8; black where nothing was drawn."""
        return self._shrink(self._colour)

    def glowing(self) -> Image:
        """The parts drawn with `glow`, ``[h, w, 3]`` uint8."""
        if self._glow is None:
            return np.zeros((self.size[1], self.size[0], 3), np.uint8)
        return self._shrink(self._glow)

    def sprite(self, *, mirrored: bool = False) -> Sprite:
        """The finished sprite; its anchor is the drawing's (0, 0)."""
        colour, cover = self._shrink(self._colour), self._shrink(self._cover)
        glow = None if self._glow is None else self._shrink(self._glow)
        through = 255.0 - cover.astype(np.float32)
        if self._shadow is not None:
            soft = cv2.GaussianBlur(self._shrink(self._shadow), (0, 0), max(0.6, self._scale))
            through *= 1.0 - _SHADOW * soft.astype(np.float32) / 255.0
        keep = through.round().astype(np.uint8)
        mask = cover >= 128
        x = round(self._origin[0] * self._scale)
        y = round(self._origin[1] * self._scale)
        if mirrored:
            colour, keep, mask = colour[:, ::-1], keep[:, ::-1], mask[:, ::-1]
            glow = None if glow is None else np.ascontiguousarray(glow[:, ::-1])
            x = self.size[0] - x
        return Sprite(
            colour=np.ascontiguousarray(colour),
            keep=np.repeat(np.ascontiguousarray(keep)[:, :, None], 3, axis=2),
            mask=np.ascontiguousarray(mask),
            glow=glow,
            anchor=(x, y),
            area=int(np.count_nonzero(mask)),
        )

    def _at(self, point: Point) -> tuple[int, int]:
        return (
            round((point[0] + self._origin[0]) * self._zoom),
            round((point[1] + self._origin[1]) * self._zoom),
        )

    def _pen(self, width: float) -> int:
        return max(1, round(width * self._zoom))

    def _sheets(self, colour: Bgr, *, glow: bool) -> list[tuple[Image, tuple[int, ...]]]:
        if glow:
            if self._glow is None:
                self._glow = np.zeros_like(self._colour)
            return [(self._glow, colour)]
        return [(self._colour, colour), (self._cover, (255,))]

    def _shrink(self, sheet: Image) -> Image:
        return cast("Image", cv2.resize(sheet, self.size, interpolation=cv2.INTER_AREA))
