"""How soon a change is noticed, and how often one is seen where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks._learning_streams import Stream
from edgebus_collector.drift import DetectorName, DriftSettings, DriftWatch
from edgebus_detection import Detection
from edgebus_detection.messages import Detections

__all__ = ["STATIONARY_FRAMES", "Alarm", "measure_drift"]

STATIONARY_FRAMES = 100_000
_CALIBRATION = 120
_BLOCK = 64


@dataclass(frozen=True, slots=True)
class Alarm:
    """One detector on one statistic of one stream.

    Attributes:
        delay: Frames from the onset to the first alarm; None: there was none.
        early: Alarms before the onset.
        false_alarms: Alarms on a stationary stream of `stationary` frames.
    """

    script: str
    seed: int
    detector: DetectorName
    statistic: str
    delay: int | None
    early: int
    false_alarms: int
    stationary: int


def measure_drift(stream: Stream, *, stationary: int) -> list[Alarm]:
    """Every detector on every statistic of one stream.

    The stationary stream is made of the frames before the onset: stretches of 64 neighbours, drawn
    with replacement (the moving-block bootstrap of Künsch 1989), so that neighbours stay as alike
    as they are.
    """
    answers = [moment.example.prediction for moment in stream.moments]
    home = answers[: stream.onset]
    order = _stretches(len(home), stationary, seed=stream.seed)
    found = []
    detectors: tuple[DetectorName, ...] = ("adwin", "page-hinkley", "kswin")
    for detector in detectors:
        for statistic in Detection.statistics:
            alarms = _alarms(answers, detector, statistic)
            after = [at - stream.onset for at in alarms if at >= stream.onset]
            found.append(
                Alarm(
                    script=stream.name,
                    seed=stream.seed,
                    detector=detector,
                    statistic=statistic,
                    delay=min(after, default=None),
                    early=len(alarms) - len(after),
                    false_alarms=len(_alarms([home[n] for n in order], detector, statistic)),
                    stationary=stationary,
                )
            )
    return found


def _alarms(answers: Sequence[Detections], detector: DetectorName, statistic: str) -> list[int]:
    calibration = min(_CALIBRATION, len(answers) // 3)
    settings = DriftSettings(method=detector, statistics=(statistic,), calibration=calibration)
    watch = DriftWatch(settings, Detection.statistics)
    return [
        number
        for number, answer in enumerate(answers)
        if any(not drift.returned for drift in watch.update(answer))
    ]


def _stretches(length: int, wanted: int, *, seed: int) -> npt.NDArray[np.int64]:
    block = min(_BLOCK, length)
    starts = np.random.default_rng(seed).integers(0, length - block + 1, wanted // block + 1)
    return (starts[:, None] + np.arange(block)).reshape(-1)[:wanted]
