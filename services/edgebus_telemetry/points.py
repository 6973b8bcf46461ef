"""Messages as points of a time series: one measurement per kind of message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from edgebus.contracts import Metrics, ModelStatus, RolloutStatus, ServiceState, TrainingResult
from edgebus_detection.messages import Detections

__all__ = [
    "Point",
    "detection_point",
    "metrics_point",
    "model_point",
    "rollout_point",
    "state_point",
    "training_point",
]


Value = float | int | str | bool


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a series.

    Attributes:
        measurement: The series' family.
        time: When.
        tags: Indexed labels.
        fields: Values. The type of a field must never change: InfluxDB refuses the second one.
    """

    measurement: str
    time: datetime
    tags: Mapping[str, str]
    fields: Mapping[str, Value]


def detection_point(who: dict[str, str], message: Detections) -> Point:
    """Measurement `detections`, at the moment of detection."""
    stages = message.stages
    tags = {
        "camera": message.camera,
        "model": message.model.name,
        "version": str(message.model.version),
    }
    fields: dict[str, Value] = {
        "boxes": len(message.boxes),
        "index": message.index,
        "dropped": message.dropped,
        "send_ms": _ms(message.captured, message.sent),
        "transport_ms": _ms(message.sent, message.received),
        "process_ms": _ms(message.received, message.detected),
        "latency_ms": _ms(message.captured, message.detected),
        "decode_ms": stages.decode_ms,
        "preprocess_ms": stages.preprocess_ms,
        "inference_ms": stages.inference_ms,
        "postprocess_ms": stages.postprocess_ms,
    }
    return Point("detections", message.detected, _node(who) | tags, fields)


def metrics_point(who: dict[str, str], message: Metrics) -> Point:
    """Measurement `services`: CPU, memory, and every counter and gauge by its own name."""
    fields: dict[str, Value] = {
        "uptime_s": float(message.uptime_s),
        "session": message.session,
        "cpu_percent": float(message.cpu_percent),
        "rss_bytes": message.rss_bytes,
        "host_cpu_percent": float(message.host_cpu_percent),
        "host_memory_percent": float(message.host_memory_percent),
    }
    fields |= {name: float(value) for name, value in message.counters.items()}
    fields |= {name: float(value) for name, value in message.gauges.items()}
    return Point("services", message.time, _service(who), fields)


def state_point(who: dict[str, str], heard: datetime, message: ServiceState) -> Point:
    """Measurement `states`. A will was written long before it is sent, so it counts from now."""
    fields: dict[str, Value] = {
        "state": message.state,
        "up": message.state in {"ready", "degraded"},
        "session": message.session,
        "reason": message.reason,
    }
    time = heard if message.state == "offline" else message.time
    return Point("states", time, _service(who), fields)


def model_point(who: dict[str, str], message: ModelStatus) -> Point:
    """Measurement `models`: what an edge serves, and how far it is with the next."""
    tags = _service(who)
    fields: dict[str, Value] = {
        "state": message.state,
        "progress": float(message.progress),
        "received_bytes": message.received_bytes,
        "failed": message.state == "failed",
    }
    if message.serving is not None:
        tags["model"] = message.serving.name
        fields["version"] = message.serving.version
    if message.swap_ms is not None:
        fields["swap_ms"] = float(message.swap_ms)
    return Point("models", message.time, tags, fields)


def rollout_point(who: dict[str, str], message: RolloutStatus) -> Point:
    """Measurement `rollouts`: how far a release has come."""
    tags = _node(who) | {"channel": message.channel, "model": message.release.model.name}
    fields: dict[str, Value] = {
        "version": message.release.model.version,
        "sequence": message.sequence,
        "total": message.total,
        "converged": message.converged,
        "failed": message.failed,
        "served_bytes": message.served_bytes,
    }
    return Point("rollouts", message.time, tags, fields)


def training_point(who: dict[str, str], message: TrainingResult) -> Point:
    """Measurement `trainings`: how a job ended, with the gate's figures."""
    fields: dict[str, Value] = {
        "job": message.job,
        "samples": message.samples,
        "replay": message.replay,
        "update_bytes": message.update_bytes,
        "seconds": float(sum(message.seconds.values())),
    }
    for domain in message.gate.domains if message.gate else ():
        for name, change in domain.figures.items():
            fields[f"{domain.name}_{name}_before"] = change.before
            fields[f"{domain.name}_{name}_after"] = change.after
    tags = _node(who) | {"model": message.model.name, "outcome": message.outcome}
    return Point("trainings", message.time, tags, fields)


def _node(who: dict[str, str]) -> dict[str, str]:
    return {"site": who["site"], "node": who["node"]}


def _service(who: dict[str, str]) -> dict[str, str]:
    return _node(who) | {"service": who["service"]}


def _ms(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds() * 1e3
