"""Monitor of one statistic of one stream: calibrated, watched, its changes located."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from river.base import DriftDetector

_MEMORY = 2048
_SCALE = 3.0
_LEAST_DEVIATION = 1e-3
_LEAST_AFTER = 2
_SETTLING = 30
_BACK = 0.8
_ASIDE = 0.5
_LARGE = 5.0
_LOWEST, _HIGHEST = -3.0, 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of a statistic.

    Attributes:
        before: Its mean before the change.
        after: Its mean since then.
        count: Inputs since then.
        since: When it began, by the stream's clock.
        returned: It is back to what was normal.
    """

    before: float
    after: float
    count: int
    since: datetime
    returned: bool


def split_at(values: Sequence[float], *, least: int = _LEAST_AFTER) -> int:
    """The most likely change of a series' mean: the index of the first value after.

    Maximum likelihood for one change of the mean of independent normal values (Hinkley 1970,
    *Inference about the change-point in a sequence of random variables*, Biometrika 57): of n
    values, the k that maximises ``k (n - k) / n * (mean of the first k - mean of the rest)^2``.

    Args:
        values: At least ``2 * least`` of them.
        least: Neither part is shorter.
    """
    series = np.asarray(values, np.float64)
    count = len(series)
    sums = np.cumsum(series)
    k = np.arange(least, count - least + 1)
    head = sums[k - 1] / k
    tail = (sums[-1] - sums[k - 1]) / (count - k)
    return int(k[np.argmax(k * (count - k) * (head - tail) ** 2)])


class ChangeMonitor:
    """Monitor of one statistic; no clock, no I/O.

    The first inputs are for calibration: their mean is what is normal, their standard deviation
    the scale, and their lag-1 correlation r gives the number of inputs in one independent value.
    Where they are of two kinds (a change of more than three deviations lies among them), the first
    kind is normal. Values of a video, for one, are anything but independent, and every detector
    takes them for it; so they are averaged in blocks of about ``(1 + r) / (1 - r)`` inputs (the
    integrated autocorrelation time of an AR(1) process). A block's mean x then goes to the detector
    as ``0.5 + (x - mean) / (3 deviation)``, clipped to [-3, 4]: ADWIN's bound is made for values of
    range 1 and is slow to notice a change that is small on that scale.

    Where the detector raises its alarm, the change is located by `split_at` and the detector
    starts anew with what came after. For some blocks more it is looked at where the statistic
    settles. People come and go, cars pass, the light moves: such changes are sure, and none is a
    drift. So the mean since the change is compared with means over as many neighbours in the past
    (2,048 blocks). It has left what is normal if it lies outside of all of them, by half of their
    range, and if it is `least` and half a deviation of single inputs away from the mean. It has
    returned when it is nearer than four fifths of that and than half of where it was. What has left
    by less than five times what it takes, and has come back, belongs to the past that later changes
    are compared with: a street that fills and empties is told of once, each night anew.

    Args:
        detector: Makes a new change detector.
        calibration: Inputs to calibrate with.
        least: How far from normal the statistic has to be, more than 0.
        max_block: The longest block, in inputs: with longer ones alarms come too late to be of
            use, with shorter ones more of them are false.
    """

    def __init__(
        self,
        detector: Callable[[], DriftDetector],
        *,
        calibration: int,
        max_block: int,
        least: float = 0.05,
    ) -> None:
        self._make = detector
        self._calibration = calibration
        self._max_block = max_block
        self._least = least
        self._first: list[tuple[float, datetime]] = []
        self._detector: DriftDetector | None = None
        self._mean = 0.0
        self._deviation = 1.0
        self._block = 1
        self._part: list[float] = []
        self._started: datetime | None = None
        self._values: deque[float] = deque(maxlen=_MEMORY)
        self._times: deque[datetime] = deque(maxlen=_MEMORY)
        self._past: deque[float] = deque(maxlen=_MEMORY)
        self._gone: deque[float] = deque(maxlen=_MEMORY)
        self._normal: float | None = None
        self._needed = least
        self._before = 0.0
        self._settling = 0
        self._reported: float | None = None
        self.since: datetime | None = None
        """When it left what is normal; None while it is normal."""

    @property
    def calibrated(self) -> bool:
        """Whether it watches already."""
        return self._detector is not None

    @property
    def block(self) -> int:
        """Inputs that are averaged into one value."""
        return self._block

    @property
    def mean(self) -> float | None:
        """Mean of the last inputs, at most some hundred; None before the first."""
        recent = list(self._values)[-max(1, 100 // self._block) :]
        recent = recent or [value for value, _ in self._first]
        return float(np.mean(recent)) if recent else None

    def update(self, value: float, *, at: datetime) -> Change | None:
        """Take the value of the next input; a change, where there is one.

        Args:
            value: Finite.
            at: When the input was measured.
        """
        if self._detector is None:
            self._first.append((value, at))
            return self._calibrate() if len(self._first) >= self._calibration else None
        return self._watch(value, at=at)

    def _watch(self, value: float, *, at: datetime) -> Change | None:
        if not self._part:
            self._started = at
        self._part.append(value)
        if len(self._part) < self._block:
            return None
        mean = sum(self._part) / self._block
        self._part.clear()
        assert self._started is not None
        assert self._detector is not None
        self._values.append(mean)
        self._times.append(self._started)
        self._detector.update(self._scaled(mean))
        if self._detector.drift_detected and len(self._values) >= 2 * _LEAST_AFTER:
            self._locate()
            self._settling = _SETTLING
        if not self._settling:
            return None
        self._settling -= 1
        return self._settled()

    def _calibrate(self) -> Change | None:
        """Learn what is normal, then watch the inputs that it was learnt from, as they came."""
        values = np.array([value for value, _ in self._first], np.float64)
        series = values[: _first_kind(values, least=self._least)]
        centred = series - series.mean()
        variance = max(float(centred.var()), _LEAST_DEVIATION**2)
        r = float((centred[1:] * centred[:-1]).mean()) / variance
        r = min(max(r, 0.0), 0.97)
        self._block = min(self._max_block, math.ceil((1 + r) / (1 - r) - 0.3))
        n = self._block
        # The variance of a mean of n values of an AR(1) process.
        factor = ((1 + r) / (1 - r) - 2 * r * (1 - r**n) / (n * (1 - r) ** 2)) / n
        self._deviation = math.sqrt(variance * factor)
        self._mean = float(series.mean())
        self._needed = max(self._least, _ASIDE * math.sqrt(variance))
        self._detector = self._make()
        first, self._first = self._first, []
        changes = [self._watch(value, at=at) for value, at in first]
        return next((change for change in reversed(changes) if change is not None), None)

    def _scaled(self, value: float) -> float:
        return min(_HIGHEST, max(_LOWEST, 0.5 + (value - self._mean) / (_SCALE * self._deviation)))

    def _locate(self) -> None:
        """Find the change that the detector has noticed, and begin anew with what came after."""
        values, times = list(self._values), list(self._times)
        split = split_at(values)
        self._before = float(np.mean(values[:split]))
        if self._normal is None:
            self._normal = self._before
        away = abs(self._before - self._normal)
        if away < _LARGE * self._needed:
            self._gone.extend(values[:split])
        if away < self._needed:
            self._keep_past()
        self._values = deque(values[split:], maxlen=_MEMORY)
        self._times = deque(times[split:], maxlen=_MEMORY)
        self._detector = self._make()
        for value in self._values:
            self._detector.update(self._scaled(value))

    def _settled(self) -> Change | None:
        """A change, where the last values have settled elsewhere, or twice as far away."""
        assert self._normal is not None
        after = float(np.mean(self._values))
        away = abs(after - self._normal)
        returned = False
        if self._reported is None:
            if away < self._needed or self._is_known(after):
                return None
        else:
            reported = abs(self._reported - self._normal)
            returned = away < min(reported / 2, _BACK * self._needed)
            if not returned and away < 2 * reported:
                return None
        since = self._times[0]
        if returned:
            self._keep_past()
            self._reported = self.since = None
        else:
            self._reported = after
            self.since = self.since or since
        return Change(
            before=self._before,
            after=after,
            count=len(self._values) * self._block,
            since=since,
            returned=returned,
        )

    def _keep_past(self) -> None:
        """It is back: what it has done meanwhile is what it does."""
        self._past.extend(self._gone)
        self._gone.clear()

    def _is_known(self, after: float) -> bool:
        """Whether the statistic has been there before, for as long as now."""
        past, length = np.asarray(self._past), min(len(self._values), len(self._past))
        sums = np.cumsum(np.concatenate([[0.0], past]))
        means = (sums[length:] - sums[:-length]) / length
        low, high = float(means.min()), float(means.max())
        margin = (high - low) / 2
        return low - margin <= after <= high + margin


def _first_kind(values: npt.NDArray[np.float64], *, least: float) -> int:
    """Number of the values that are of the first kind; all where there is one kind."""
    split = split_at(values.tolist(), least=max(_LEAST_AFTER, len(values) // 5))
    head, tail = values[:split], values[split:]
    apart = abs(float(tail.mean() - head.mean()))
    return split if apart >= max(least, _SCALE * float(head.std())) else len(values)
