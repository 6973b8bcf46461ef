"""Change detectors, from the library river; each sees values of mean 0.5 and range about one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from river.base import DriftDetector

DetectorName = Literal["adwin", "page-hinkley", "kswin"]


def make_detector(name: DetectorName, parameter: float | None = None) -> DriftDetector:
    """A new detector.

    ============  =========================================================  ==============
    name          what it does                                               parameter
    ============  =========================================================  ==============
    adwin         splits an adaptive window where two parts differ (Bifet    delta, 0.0002
                  and Gavaldà 2007, *Learning from Time-Changing Data with
                  Adaptive Windowing*)
    page-hinkley  sums deviations from the running mean (Page 1954,          threshold, 25
                  *Continuous Inspection Schemes*, Biometrika 41)
    kswin         Kolmogorov-Smirnov test of the last 30 against the 70      alpha, 1e-7
                  before (Raab, Heusinger and Schleif 2020)
    ============  =========================================================  ==============

    Args:
        name: Which one.
        parameter: Its own measure of sensitivity.

    Raises:
        ValueError: The parameter makes no sense for it.
        ImportError: river is not installed.
    """
    check_parameter(name, parameter)
    return _MAKERS[name](parameter)


def check_parameter(name: DetectorName, parameter: float | None) -> None:
    """Refuse a parameter that makes no sense for a detector.

    Raises:
        ValueError: It makes none.
    """
    if parameter is not None and not (parameter > 0 and (name == "page-hinkley" or parameter < 1)):
        limit = "more than 0" if name == "page-hinkley" else "between 0 and 1"
        msg = f"parameter {parameter:g} of the drift detector {name} has to be {limit}"
        raise ValueError(msg)


# Imported only here: river brings scipy, some 110 MB of memory, which a collector that does not
# watch for drift need not pay.
def _adwin(parameter: float | None) -> DriftDetector:
    from river.drift import ADWIN

    # Asked after every value, and also about windows of two: whoever averages in blocks has few.
    return ADWIN(  # type: ignore[no-untyped-call]
        delta=parameter or 2e-4, clock=1, min_window_length=2, grace_period=8
    )


def _page_hinkley(parameter: float | None) -> DriftDetector:
    from river.drift import PageHinkley

    return PageHinkley(min_instances=20, delta=0.08, threshold=parameter or 25.0, alpha=1.0)


def _kswin(parameter: float | None) -> DriftDetector:
    from river.drift import KSWIN

    return KSWIN(alpha=parameter or 1e-7, window_size=100, stat_size=30, seed=1)


_MAKERS: Final[dict[DetectorName, Callable[[float | None], DriftDetector]]] = {
    "adwin": _adwin,
    "page-hinkley": _page_hinkley,
    "kswin": _kswin,
}
