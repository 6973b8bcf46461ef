"""The anchor-free head of YOLOX: where each prediction sits and what its numbers mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Anchors:
    """The cells of all levels, in the order of the output.

    Attributes:
        corners: Top left of each cell in cells, [N, 2].
        strides: Pixels per cell, [N, 1].
    """

    corners: Tensor
    strides: Tensor

    @property
    def centres(self) -> Tensor:
        """Middle of each cell in pixels of the input, [N, 2]."""
        return (self.corners + 0.5) * self.strides


@dataclass(frozen=True, slots=True)
class YoloxHead:
    """Shape of an output of YOLOX (arXiv:2107.08430): [B, N, 5 + classes].

    The last axis holds tx, ty, tw, th in cells, objectness and one score per class; the cells of
    each level follow row by row, levels in the order of the strides.

    Attributes:
        height: Rows of the model's input.
        width: Columns of the model's input.
        classes: Number of classes.
        strides: Pixels per cell of each level.
        output: Name of the graph's output; the first one when None.
    """

    height: int
    width: int
    classes: int
    strides: tuple[int, ...] = (8, 16, 32)
    output: str | None = None

    def anchors(self, device: torch.device) -> Anchors:
        """The cells of all levels."""
        corners, strides = [], []
        for stride in self.strides:
            rows, columns = self.height // stride, self.width // stride
            y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            corners.append(torch.stack([x, y], -1).reshape(-1, 2))
            strides.append(torch.full((rows * columns, 1), stride))
        return Anchors(
            corners=torch.cat(corners).to(device, torch.float32),
            strides=torch.cat(strides).to(device, torch.float32),
        )

    @property
    def predictions(self) -> int:
        """Number of cells, N."""
        return sum((self.height // s) * (self.width // s) for s in self.strides)


def decode_boxes(raw: Tensor, anchors: Anchors) -> Tensor:
    """Raw predictions as boxes.

    Args:
        raw: [..., N, 4], in cells: offsets from the cell's corner and logarithms of the size.
        anchors: The cells.

    Returns:
        [..., N, 4]: x1, y1, x2, y2 in pixels of the input.
    """
    centre = (raw[..., :2] + anchors.corners) * anchors.strides
    # exp(12) cells are more than any picture has; without the bound one wild step makes infinities.
    half = raw[..., 2:4].clamp(max=12).exp() * anchors.strides / 2
    return torch.cat([centre - half, centre + half], -1)
