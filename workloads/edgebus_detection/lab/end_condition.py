"""When a run is over, and what it still waits for; plain functions over the tracker."""

from __future__ import annotations

from dataclasses import dataclass

from edgebus.topology import Topology, Until
from edgebus_detection.lab.run_state import Tracker

__all__ = ["Verdict", "judge", "waiting_for"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a run is over.

    Attributes:
        over: Stop now.
        closed: Every edge serves a retrained version and was measured on it.
        words: How it ended, or what it waits for.
        failed: It ended because a service could not go on.
    """

    over: bool
    closed: bool
    words: str
    failed: bool = False


def judge(tracker: Tracker, topology: Topology, *, elapsed_s: float) -> Verdict:
    """Look whether the run is over.

    Args:
        tracker: What the bus said.
        topology: What was asked for.
        elapsed_s: Seconds since the services were started.
    """
    until = topology.until
    missing = waiting_for(tracker, topology, until or Until(loop="closed"))
    closed = not missing
    if until is None:
        return Verdict(over=False, closed=closed, words=missing or "the loop closed")
    if until.seconds is not None:
        words = "the loop closed" if closed else f"ran for {until.seconds:g} s"
        return Verdict(over=elapsed_s >= until.seconds, closed=closed, words=words)
    if closed:
        return Verdict(over=True, closed=True, words="the loop closed")
    if until.timeout_s is not None and elapsed_s >= until.timeout_s:
        words = f"the loop is not closed after {until.timeout_s:g} s: {missing}"
        return Verdict(over=True, closed=False, words=words)
    return Verdict(over=False, closed=False, words=missing)


def waiting_for(tracker: Tracker, topology: Topology, until: Until) -> str:
    """What the loop still waits for, in words; empty when it is closed."""
    edges = [f"{node}/{name}" for node, name in topology.services if name == "detector"]
    if not edges:
        return "this topology has no detector"
    silent = [name for name in edges if name not in tracker.edges]
    if silent:
        return f"waiting for {', '.join(silent)} to say what it serves"
    if not tracker.cameras:
        return "waiting for the first frame"
    release = tracker.release
    first = [tracker.first_version(camera) for camera in tracker.cameras.values()]
    known = [version for version in first if version is not None]
    if not known:
        return "waiting for the first detections"
    if release is None or release.bundle.model.version <= min(known):
        return _before_release(tracker)
    version = release.bundle.model.version
    behind = [name for name in edges if not tracker.converged(tracker.edges[name])]
    if behind:
        states = ", ".join(f"{name} is {tracker.edges[name].now.state}" for name in behind)
        return f"version {version} is released, but {states}"
    counts = {
        key: tracker.answered_by_later_version(camera) for key, camera in tracker.cameras.items()
    }
    few = [f"{key} {count}" for key, count in counts.items() if count < until.after_inputs]
    if few:
        return f"measuring version {version}: {', '.join(few)} of {until.after_inputs} frames"
    return ""


def _before_release(tracker: Tracker) -> str:
    accepted = [result for result in tracker.results.values() if result.outcome == "accepted"]
    if accepted:
        return "a candidate was accepted and is not released yet"
    if tracker.progress is not None:
        progress = tracker.progress
        return f"training, {progress.phase} {progress.step} of {progress.steps}"
    if tracker.results:
        last = max(tracker.results.values(), key=lambda result: result.time)
        return f"the last job was {last.outcome}: {last.reason}"
    sent = sum(tracker.samples.values())
    if tracker.store is not None and tracker.store.needed is not None:
        store = tracker.store
        return (
            f"{store.untrained} of {store.needed} samples to train on, {sent} collected; "
            f"the retrainer {store.trigger}"
        )
    return f"{sent} samples collected"
