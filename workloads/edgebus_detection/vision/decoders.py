"""Decoders: raw outputs of detection heads to boxes, one small class per kind of head.

Boxes leave a decoder in pixels of the model's input; `Placement` takes them to the picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from edgebus_detection.vision.boxes import Detected
from edgebus_detection.vision.images import VisionError
from edgebus_detection.vision.spec import DecoderSpec

Array: TypeAlias = npt.NDArray[np.float32]

# exp() of more overflows what any picture needs; such boxes are clipped to the picture anyway.
_MAX_LOG_SIZE = 20.0


class OutputError(VisionError):
    """A model's output is not what its decoder reads: wrong shape, or not finite.

    Attributes:
        decoder: The decoder's kind, for example ``yolox``.
        reason: What is wrong with the output.
    """

    def __init__(self, *, decoder: str, reason: str) -> None:
        super().__init__(f"{decoder} output: {reason}")
        self.decoder = decoder
        self.reason = reason


class Decoder:
    """The base of all decoders; a subclass reads one kind of head.

    Args:
        height: Rows of the model's input.
        width: Columns of the model's input.
        strides: Input pixels per grid cell, one per level.
        classes: Number of classes.
    """

    kind: str
    default_strides: tuple[int, ...]

    def __init__(self, *, height: int, width: int, strides: Sequence[int], classes: int) -> None:
        self.height, self.width, self.classes = height, width, classes
        self.strides = tuple(strides) or self.default_strides

    def decode(self, outputs: Sequence[Array], *, threshold: float) -> Detected:
        """Candidates that score at least `threshold`, before suppression.

        Raises:
            OutputError: An output has the wrong shape, or is NaN or infinite somewhere.
        """
        for number, output in enumerate(outputs):
            if not np.isfinite(output).all():
                bad = int((~np.isfinite(output)).sum())
                raise self.error(f"{bad} of {output.size} values of output {number} are not finite")
        return self.read(outputs, threshold)

    def read(self, outputs: Sequence[Array], threshold: float) -> Detected:
        """Decode outputs that are finite; a subclass does it."""
        raise NotImplementedError

    def error(self, reason: str) -> OutputError:
        """An `OutputError` of this decoder."""
        return OutputError(decoder=self.kind, reason=reason)

    def single(self, outputs: Sequence[Array], shape: tuple[int, ...]) -> Array:
        """The only output, checked."""
        shapes = [output.shape for output in outputs]
        if shapes != [shape]:
            raise self.error(f"shapes {shapes}; expected [{shape}] for {self.classes} classes")
        return outputs[0]

    @cached_property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of each level's grid."""
        return tuple((self.height // stride, self.width // stride) for stride in self.strides)

    @cached_property
    def cells(self) -> tuple[Array, Array]:
        """Column and row of each cell [n, 2], and its stride [n, 1], level after level."""
        places, sizes = [], []
        for stride, (rows, columns) in zip(self.strides, self.levels, strict=True):
            y, x = np.mgrid[:rows, :columns]
            places.append(np.stack([x.ravel(), y.ravel()], axis=1))
            sizes.append(np.full((rows * columns, 1), stride))
        return np.concatenate(places).astype(np.float32), np.concatenate(sizes).astype(np.float32)


def _around(centre: Array, size: Array) -> Array:
    """x1 y1 x2 y2 from centres and sizes, both [n, 2]."""
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1).astype(np.float32)


def _best(scores: Array) -> tuple[Array, npt.NDArray[np.int64]]:
    """The best class of each row."""
    labels = scores.argmax(axis=1)
    return scores[np.arange(len(scores)), labels], labels


class YoloxDecoder(Decoder):
    """YOLOX, exported without its decoding: [1, N, 5 + classes].

    Rows are tx, ty, log w, log h in grid units, objectness and class probabilities
    (YOLOX, arXiv:2107.08430 §2.1).
    """

    kind = "yolox"
    default_strides = (8, 16, 32)

    def read(self, outputs: Sequence[Array], threshold: float) -> Detected:
        """See the base."""
        places, strides = self.cells
        rows = self.single(outputs, (1, len(places), 5 + self.classes))[0]
        # A product with a probability is no larger: most rows are gone before the classes are read.
        near = np.flatnonzero(rows[:, 4] >= threshold)
        rows = rows[near]
        scores, labels = _best(rows[:, 5:])
        scores = scores * rows[:, 4]
        keep = scores >= threshold
        rows, near = rows[keep], near[keep]
        centre = (rows[:, :2] + places[near]) * strides[near]
        size = np.exp(np.minimum(rows[:, 2:4], _MAX_LOG_SIZE)) * strides[near]
        return Detected(_around(centre, size), scores[keep], labels[keep])


class DecodedYoloxDecoder(Decoder):
    """YOLOX or YOLOv6 with its decoding in the graph: [1, N, 5 + classes].

    Rows are cx, cy, w, h in pixels, objectness (always 1 in YOLOv6) and class probabilities.
    """

    kind = "yolox-decoded"
    default_strides = (8, 16, 32)

    def read(self, outputs: Sequence[Array], threshold: float) -> Detected:
        """See the base."""
        places, _strides = self.cells
        rows = self.single(outputs, (1, len(places), 5 + self.classes))[0]
        rows = rows[rows[:, 4] >= threshold]
        scores, labels = _best(rows[:, 5:])
        scores = scores * rows[:, 4]
        keep = scores >= threshold
        rows = rows[keep]
        return Detected(_around(rows[:, :2], rows[:, 2:4]), scores[keep], labels[keep])


class FastestDetDecoder(Decoder):
    """FastestDet: [1, 5 + classes, rows, columns], one level.

    Channels are objectness, tanh offset x and y, sigmoid width and height (shares of the input)
    and class probabilities; the score is objectness^0.6 * class^0.4.
    """

    kind = "fastestdet"
    default_strides = (16,)

    def read(self, outputs: Sequence[Array], threshold: float) -> Detected:
        """See the base."""
        (rows, columns), *_ = self.levels
        planes = self.single(outputs, (1, 5 + self.classes, rows, columns))[0]
        table = planes.reshape(5 + self.classes, -1).T
        places, _strides = self.cells
        probability, labels = _best(table[:, 5:])
        scores = np.clip(table[:, 0], 0, None) ** 0.6 * np.clip(probability, 0, None) ** 0.4
        keep = scores >= threshold
        table = table[keep]
        whole = np.array([self.width, self.height], np.float32)
        centre = (np.tanh(table[:, 1:3]) + places[keep]) / (columns, rows) * whole
        size = whole / (1 + np.exp(-np.clip(table[:, 3:5], -_MAX_LOG_SIZE, _MAX_LOG_SIZE)))
        return Detected(
            _around(centre, size).astype(np.float32), scores[keep].astype(np.float32), labels[keep]
        )


class NanoDetDecoder(Decoder):
    """NanoDet with the GFL head: per level class scores [1, n, C] and distances [1, n, 4 * bins].

    A distance is the expectation of a softmax over bins, in strides
    (Generalized Focal Loss, arXiv:2006.04388 §3).
    """

    kind = "nanodet"
    default_strides = (8, 16, 32)

    def read(self, outputs: Sequence[Array], threshold: float) -> Detected:
        """See the base."""
        found = [
            self._level(*pair, stride=stride, threshold=threshold, columns=columns)
            for pair, stride, (_rows, columns) in zip(
                self._pairs(outputs), self.strides, self.levels, strict=True
            )
        ]
        return Detected(
            np.concatenate([level.boxes for level in found]),
            np.concatenate([level.scores for level in found]),
            np.concatenate([level.labels for level in found]),
        )

    def _pairs(self, outputs: Sequence[Array]) -> list[tuple[Array, Array]]:
        """(scores, distances) of each level, whatever the order of the outputs."""
        tables = [output.reshape(-1, output.shape[-1]) for output in outputs]
        pairs = []
        for rows, columns in self.levels:
            here = [table for table in tables if len(table) == rows * columns]
            scores = [table for table in here if table.shape[1] == self.classes]
            distances = [t for t in here if t.shape[1] % 4 == 0 and not any(t is s for s in scores)]
            if len(here) != 2 or len(scores) != 1 or len(distances) != 1:
                shapes = [output.shape for output in outputs]
                raise self.error(
                    f"shapes {shapes}; expected [1, {rows * columns}, {self.classes}] and "
                    f"[1, {rows * columns}, 4 * bins] for the level of {rows} x {columns}"
                )
            pairs.append((scores[0], distances[0]))
        return pairs

    def _level(
        self, table: Array, distances: Array, *, stride: int, threshold: float, columns: int
    ) -> Detected:
        scores, labels = _best(table)
        index = np.flatnonzero(scores >= threshold)
        bins = distances[index].reshape(len(index), 4, distances.shape[1] // 4)
        weights = np.exp(bins - bins.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        sides = (weights @ np.arange(weights.shape[2], dtype=np.float32)) * stride
        centre = (np.stack([index % columns, index // columns], axis=1) + 0.5) * stride
        boxes = np.concatenate([centre - sides[:, :2], centre + sides[:, 2:]], axis=1)
        return Detected(boxes.astype(np.float32), scores[index], labels[index])


class YoloV8Decoder(Decoder):
    """YOLOv8 with its decoding in the graph: [1, 4 + classes, N], boxes cx, cy, w, h in pixels."""

    kind = "yolov8"
    default_strides = (8, 16, 32)

    def read(self, outputs: Sequence[Array], threshold: float) -> Detected:
        """See the base."""
        places, _strides = self.cells
        rows = self.single(outputs, (1, 4 + self.classes, len(places)))[0].T
        scores, labels = _best(rows[:, 4:])
        keep = scores >= threshold
        rows = rows[keep]
        return Detected(_around(rows[:, :2], rows[:, 2:4]), scores[keep], labels[keep])


DECODERS: Final[Mapping[str, type[Decoder]]] = {
    decoder.kind: decoder
    for decoder in (
        YoloxDecoder,
        DecodedYoloxDecoder,
        FastestDetDecoder,
        NanoDetDecoder,
        YoloV8Decoder,
    )
}
"""Every decoder by its kind, as manifests name it."""


def make_decoder(spec: DecoderSpec, *, height: int, width: int, classes: int) -> Decoder:
    """The decoder that a manifest names.

    Raises:
        ValueError: No decoder has that kind.
    """
    kind = DECODERS.get(spec.kind)
    if kind is None:
        msg = f"no decoder {spec.kind!r}; there are {', '.join(sorted(DECODERS))}"
        raise ValueError(msg)
    return kind(height=height, width=width, strides=spec.strides, classes=classes)
