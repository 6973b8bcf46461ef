"""Figures of a model on a held-out set, and how sure a gain in them is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A model on one held-out set.

    Attributes:
        items: Items it was measured on.
        labels: Labels on them.
        deciding: Name of the figure that decides.
        figures: Figures by name, the deciding one among them.
        groups: The deciding figure and the number of labels of each part of the set, by kind of
            part (class, stream) and name.
        lower_is_better: Names of the figures of which less is better.
        resample: The deciding figure where each item counts several times or not at all: int64
            [resamples, items] to float64 [resamples], NaN where nothing can be measured.
    """

    items: int
    labels: int
    deciding: str
    figures: Mapping[str, float]
    resample: Callable[[Counts], Floats]
    groups: Mapping[str, Mapping[str, tuple[float, int]]] = field(default_factory=dict)
    lower_is_better: tuple[str, ...] = ()

    @classmethod
    def of_scores(
        cls,
        figure: str,
        scores: Sequence[float],
        *,
        streams: Sequence[str] = (),
        lower_is_better: bool = False,
    ) -> Measured:
        """A figure that is the mean of one score per item, each with one label.

        Args:
            figure: Its name.
            scores: The scores, one per item, at least one.
            streams: Stream of each item; empty: no groups.
            lower_is_better: Whether less is better.
        """
        values = np.asarray(scores, np.float64)
        names = np.asarray(streams)
        of_streams = {
            str(name): (float(values[names == name].mean()), int((names == name).sum()))
            for name in np.unique(names)
        }
        return cls(
            items=len(values),
            labels=len(values),
            deciding=figure,
            figures={figure: float(values.mean())},
            groups={"stream": of_streams} if len(streams) else {},
            lower_is_better=(figure,) if lower_is_better else (),
            resample=partial(resampled_mean, values),
        )


def resampled_mean(scores: Floats, drawn: Counts) -> Floats:
    """Mean of scores where each item counts several times.

    Args:
        scores: float64 [n].
        drawn: int64 [resamples, n]: how often each counts.

    Returns:
        float64 [resamples].
    """
    means: Floats = (drawn @ scores) / np.maximum(drawn.sum(axis=1), 1)
    return means


def gain_interval(
    before: Measured, after: Measured, *, confidence: float, seed: int, resamples: int = 400
) -> tuple[float, float]:
    """Percentile bootstrap interval of what the deciding figure gains from one model to another.

    Items are drawn with replacement (Efron 1979), the same ones for both models: what makes an
    item hard is hard for both, and cancels.

    Args:
        before: The incumbent.
        after: The candidate, on the same items in the same order.
        confidence: Of the two-sided interval, for example 0.9.
        seed: Seed of the draw: equal seeds give equal intervals.
        resamples: Number of draws.

    Raises:
        ValueError: The two are of different items, or there are none.
    """
    if before.items != after.items or not before.items:
        msg = f"{before.items} items before and {after.items} after; give the same ones to both"
        raise ValueError(msg)
    count = before.items
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    gains = after.resample(drawn) - before.resample(drawn)
    if after.deciding in after.lower_is_better:
        gains = -gains
    gains = gains[np.isfinite(gains)]
    if not len(gains):
        return -1.0, 1.0
    tail = (1 - confidence) / 2
    low, high = np.quantile(gains, [tail, 1 - tail])
    return float(low), float(high)
