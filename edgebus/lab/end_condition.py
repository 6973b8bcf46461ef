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
        waits: What is missing to a closed loop; empty where nothing is.
    """

    over: bool
    closed: bool
    outcome: str
    failed: bool = False
    waits: str = ""


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
        outcome = missing or "the loop closed"
        return RunEnd(over=False, closed=closed, outcome=outcome, waits=missing)
    if until.seconds is not None:
        outcome = "the loop closed" if closed else f"ran for {until.seconds:g} s"
        over = elapsed_s >= until.seconds
        return RunEnd(over=over, closed=closed, outcome=outcome, waits=missing)
    if closed:
        return RunEnd(over=True, closed=True, outcome="the loop closed")
    if until.timeout_s is not None and elapsed_s >= until.timeout_s:
        outcome = f"the loop is not closed after {until.timeout_s:g} s: {missing}"
        return RunEnd(over=True, closed=False, outcome=outcome)
    return RunEnd(over=False, closed=False, outcome=missing, waits=missing)


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
    store = state.store
    if store is None:
        missing = state.collected
        if any(state.spooled.values()) or "collector" in _services(state):
            missing += "; no retrainer has reported yet"
        return missing
    waits = f"{state.collected}; the retrainer {store.trigger}"
    if store.due is not None:
        waits += f", or until {store.due.astimezone():%H:%M:%S}, when any are enough"
    if not state.results:
        return waits
    last = max(state.results.values(), key=lambda result: result.time)
    return f"the last job was {last.outcome}: {last.reason}; {waits}"


def _services(state: RunState) -> set[str]:
    """Names of the services that have reported."""
    return {name.partition("/")[2] for name in state.services}
