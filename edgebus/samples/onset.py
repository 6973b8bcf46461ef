"""Onset of a new domain: a change point in the rate of errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def onset(errors: Sequence[float], *, origin: float) -> float | None:
    """The time from which errors come at a higher rate.

    A model is now and then wrong long before anything has changed. Errors are taken for a Poisson
    process whose rate changes once; the time is the one of maximum likelihood (Raftery and Akman
    1986, "Bayesian analysis of a Poisson process with a change-point", *Biometrika* 73). For n
    errors, i of them in the T1 seconds before and n - i in the T2 seconds after the change::

        log L(i) = i log(i / T1) + (n - i) log((n - i) / T2)

    At least half of the errors lie after the change: it is they that are to be learnt. Where the
    rate does not grow, it is the time of the first error.

    Args:
        errors: Times in seconds, ascending.
        origin: When looking began, in seconds; at most the first error.

    Returns:
        One of the times; None where there are none.
    """
    if not errors:
        return None
    times = np.asarray(errors, np.float64)
    count = len(times)
    before = np.arange(count // 2 + 1)
    at = times[before]
    # Half a second keeps bursts finite: inputs of a stream come about as often.
    span_before = np.maximum(at - origin, 0.5)
    span_after = np.maximum(times[-1] - at, 0.5)
    after = count - before
    with np.errstate(divide="ignore", invalid="ignore"):
        first = np.where(before > 0, before * np.log(before / span_before), 0.0)
    likelihood = first + after * np.log(after / span_after)
    grows = (after / span_after) > (before / span_before)
    likelihood[~grows] = -np.inf
    if not grows.any():
        return float(times[0])
    return float(at[int(likelihood.argmax())])
