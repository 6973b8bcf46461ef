"""Messages as rows of CSV tables.

Every row begins with `heard`, the time at which telemetry received the message. The other times
are the senders' own. All of them are RFC 3339, UTC, microseconds, so rows of several nodes sort
together as text.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from edgebus.contracts import (
    Metrics,
    ModelStatus,
    RolloutStatus,
    ServiceState,
    TrainingResult,
    rfc3339,
)
from edgebus_detection.messages import Detections

__all__ = [
    "TABLES",
    "detection_row",
    "metrics_row",
    "model_row",
    "rollout_row",
    "state_row",
    "training_row",
]

Row = list[str]

_WHO = ("heard", "site", "node", "service", "time")

TABLES: dict[str, tuple[str, ...]] = {
    "detections": (
        "heard",
        "site",
        "node",
        "camera",
        "index",
        "frame",
        "captured",
        "sent",
        "received",
        "detected",
        "model",
        "version",
        "digest",
        "boxes",
        "labels",
        "best_score",
        "decode_ms",
        "preprocess_ms",
        "inference_ms",
        "postprocess_ms",
        "dropped",
    ),
    "states": (*_WHO, "state", "session", "instance", "since", "reason", "host", "pid"),
    "metrics": (
        *_WHO,
        "uptime_s",
        "cpu_percent",
        "rss_bytes",
        "host_cpu_percent",
        "host_memory_percent",
        "name",
        "kind",
        "value",
    ),
    "models": (
        *_WHO,
        "model",
        "version",
        "digest",
        "since",
        "state",
        "target_version",
        "progress",
        "received_bytes",
        "swap_ms",
        "error",
    ),
    "rollouts": (
        *_WHO,
        "model",
        "version",
        "channel",
        "sequence",
        "total",
        "converged",
        "failed",
        "served_bytes",
        "started",
        "finished",
    ),
    "trainings": (
        *_WHO,
        "job",
        "model",
        "version",
        "candidate",
        "outcome",
        "reason",
        "trigger",
        "samples",
        "replay",
        "update_bytes",
        "seconds",
        "started",
    ),
}
"""Columns of every table. A change of them is a change of the files' format."""


def detection_row(heard: datetime, who: dict[str, str], message: Detections) -> Row:
    """One answered frame."""
    stages = message.stages
    labels = Counter(box.label for box in message.boxes)
    return [
        rfc3339(heard),
        who["site"],
        who["node"],
        message.camera,
        str(message.index),
        message.frame,
        rfc3339(message.captured),
        rfc3339(message.sent),
        rfc3339(message.received),
        rfc3339(message.detected),
        message.model.name,
        str(message.model.version),
        message.model.digest,
        str(len(message.boxes)),
        " ".join(f"{name}:{count}" for name, count in sorted(labels.items())),
        _number(max((box.score or 0.0 for box in message.boxes), default=None)),
        _number(stages.decode_ms),
        _number(stages.preprocess_ms),
        _number(stages.inference_ms),
        _number(stages.postprocess_ms),
        str(message.dropped),
    ]


def state_row(heard: datetime, who: dict[str, str], message: ServiceState) -> Row:
    """One change of a service's state."""
    return [
        *_who(heard, who, message.time),
        message.state,
        str(message.session),
        message.instance,
        rfc3339(message.since),
        message.reason,
        message.host,
        str(message.pid),
    ]


def metrics_row(heard: datetime, who: dict[str, str], message: Metrics) -> list[Row]:
    """One row per counter and gauge, and one for the process where it has none."""
    head = [
        *_who(heard, who, message.time),
        _number(message.uptime_s),
        _number(message.cpu_percent),
        str(message.rss_bytes),
        _number(message.host_cpu_percent),
        _number(message.host_memory_percent),
    ]
    rows = [
        [*head, name, kind, _number(value)]
        for kind, values in (("counter", message.counters), ("gauge", message.gauges))
        for name, value in sorted(values.items())
    ]
    return rows or [[*head, "", "", ""]]


def model_row(heard: datetime, who: dict[str, str], message: ModelStatus) -> Row:
    """What an edge serves."""
    serving, target = message.serving, message.target
    return [
        *_who(heard, who, message.time),
        serving.name if serving else "",
        str(serving.version) if serving else "",
        serving.digest if serving else "",
        rfc3339(message.since) if message.since else "",
        message.state,
        str(target.version) if target else "",
        _number(message.progress),
        str(message.received_bytes),
        _number(message.swap_ms),
        message.error or "",
    ]


def rollout_row(heard: datetime, who: dict[str, str], message: RolloutStatus) -> Row:
    """How far a release has come."""
    return [
        *_who(heard, who, message.time),
        message.release.model.name,
        str(message.release.model.version),
        message.channel,
        str(message.sequence),
        str(message.total),
        str(message.converged),
        str(message.failed),
        str(message.served_bytes),
        rfc3339(message.started),
        rfc3339(message.finished) if message.finished else "",
    ]


def training_row(heard: datetime, who: dict[str, str], message: TrainingResult) -> Row:
    """How a training job ended."""
    return [
        *_who(heard, who, message.time),
        message.job,
        message.model.name,
        str(message.model.version),
        str(message.candidate.version) if message.candidate else "",
        message.outcome,
        message.reason,
        message.trigger,
        str(message.samples),
        str(message.replay),
        str(message.update_bytes),
        _number(sum(message.seconds.values())),
        rfc3339(message.started),
    ]


def _who(heard: datetime, who: dict[str, str], time: datetime) -> Row:
    return [rfc3339(heard), who["site"], who["node"], who["service"], rfc3339(time)]


def _number(value: float | None) -> str:
    """The shortest text that keeps three decimals."""
    if value is None:
        return ""
    return f"{value:.3f}".rstrip("0").rstrip(".")
