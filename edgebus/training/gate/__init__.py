"""The gate: may a candidate take the incumbent's place? Figures in, decision out."""

from edgebus.training.gate.measured import Measured, gain_interval, resampled_mean
from edgebus.training.gate.rules import (
    NEW,
    OLD,
    Latency,
    decide,
    domain_report,
    forgets_too_much,
    latency_of,
    too_few,
)

__all__ = [
    "NEW",
    "OLD",
    "Latency",
    "Measured",
    "decide",
    "domain_report",
    "forgets_too_much",
    "gain_interval",
    "latency_of",
    "resampled_mean",
    "too_few",
]
