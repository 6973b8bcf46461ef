"""The end of a run, and what it still waits for; plain functions over its state."""

from __future__ import annotations

from dataclasses import dataclass

from edgebus.lab.run_state import RunState
from edgebus.topology import Topology, Until


@dataclass(frozen=True, slots=True)
class RunEnd:
    """The state of a run's end condition.

    Attributes:
        over: Stop now.
        closed: Every edge serves a retrained version and was measured on it.
        outcome: How it ended, or what it waits for.
        failed: It ended because a service could not go on.
    """

    over: bool
    closed: bool
    outcome: str
    failed: bool = False


def check_end(state: RunState, topology: Topology, *, elapsed_s: float) -> RunEnd:
    """Check whether the run is over.

    Args:
        state: Of the run.
        topology: With the end that was asked for.
        elapsed_s: Seconds since the services were started.
    """
    until = topology.until
    missing = waiting_for(state, topology, until or Until(loop="closed"))
    closed = not missing
    if until is None:
        return RunEnd(over=False, closed=closed, outcome=missing or "the loop closed")
    if until.seconds is not None:
        outcome = "the loop closed" if closed else f"ran for {until.seconds:g} s"
        return RunEnd(over=elapsed_s >= until.seconds, closed=closed, outcome=outcome)
    if closed:
        return RunEnd(over=True, closed=True, outcome="the loop closed")
    if until.timeout_s is not None and elapsed_s >= until.timeout_s:
        outcome = f"the loop is not closed after {until.timeout_s:g} s: {missing}"
        return RunEnd(over=True, closed=False, outcome=outcome)
    return RunEnd(over=False, closed=False, outcome=missing)


def waiting_for(state: RunState, topology: Topology, until: Until) -> str:
    """The condition that is not met yet, in words; empty when the loop is closed."""
    if names := state.serving_services:
        edges = [f"{node}/{name}" for node, name in topology.services if name in names]
        if not edges:
            return f"this topology has no {' or '.join(sorted(names))}"
    else:
        edges = sorted(state.edges)
        if not edges:
            return "waiting for a service that reports its model"
    silent = [name for name in edges if name not in state.edges]
    if silent:
        return f"waiting for {', '.join(silent)} to report its model"
    if missing := state.missing_input():
        return missing
    version = state.later_version
    if version is None:
        return _before_release(state)
    behind = [name for name in edges if not state.converged(state.edges[name])]
    if behind:
        states = ", ".join(f"{name} is {state.edges[name].now.state}" for name in behind)
        return f"version {version} is released, but {states}"
    return state.missing_measure(version, until)


def _before_release(state: RunState) -> str:
    if state.accepted:
        return "a candidate was accepted and is not released yet"
    if state.progress is not None:
        progress = state.progress
        return f"training, {progress.phase} {progress.step} of {progress.steps}"
    if state.results:
        last = max(state.results.values(), key=lambda result: result.time)
        return f"the last job was {last.outcome}: {last.reason}"
    sent = sum(state.samples.values())
    if state.store is not None and state.store.needed is not None:
        store = state.store
        return (
            f"{store.untrained} of {store.needed} samples to train on, {sent} collected; "
            f"the retrainer {store.trigger}"
        )
    return f"{sent} samples collected"
