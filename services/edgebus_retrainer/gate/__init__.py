"""Whether a candidate may replace the incumbent."""

from edgebus_retrainer.gate._evidence import calibration_error, gain_interval, resampled_ap
from edgebus_retrainer.gate._leaks import Leak, keep_apart
from edgebus_retrainer.gate._measuring import Measured, measure, milliseconds
from edgebus_retrainer.gate._rules import (
    NEW,
    OLD,
    GateRules,
    Latency,
    decide,
    domain_report,
    goes_too_far,
    too_few,
)

__all__ = [
    "NEW",
    "OLD",
    "GateRules",
    "Latency",
    "Leak",
    "Measured",
    "calibration_error",
    "decide",
    "domain_report",
    "gain_interval",
    "goes_too_far",
    "keep_apart",
    "measure",
    "milliseconds",
    "resampled_ap",
    "too_few",
]
