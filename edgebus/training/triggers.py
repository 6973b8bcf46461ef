"""Triggers of jobs: plain settings over the contents of the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgebus.training.settings import TriggerSettings

Trigger = Literal["count", "edge", "drift", "rebase", "interval", "command"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerState:
    """Inputs of the triggers for one model.

    Attributes:
        untrained: Training samples that no accepted job has used.
        per_edge: The same by the node that collected them.
        untrained_at_refusal: Their number when the last job was refused or failed; None if the
            last one succeeded or there was none.
        since_last_s: Seconds since the last job ended, or since the start of the service.
        drifted: Whether some stream has drifted since the incumbent serves.
        rebase: Why a stream's own model is to be made anew; empty if it is not.
        accepted: Jobs whose candidate passed the gate.
        asked: Somebody asked for a job.
        waiting: Why no job may start now (one runs, no incumbent, ...); empty if one may.
        lacking: Why none starts by itself; a command does not care.
    """

    untrained: int
    per_edge: Mapping[str, int] = field(default_factory=dict)
    untrained_at_refusal: int | None = None
    since_last_s: float = 0.0
    drifted: bool = False
    rebase: str = ""
    accepted: int = 0
    asked: bool = False
    waiting: str = ""
    lacking: str = ""

    @property
    def fullest(self) -> tuple[str, int]:
        """The edge with the most untrained samples, the first by name of several; and how many."""
        return max(sorted(self.per_edge.items()), key=lambda edge: edge[1], default=("none", 0))


def needed(state: TriggerState, settings: TriggerSettings) -> int | None:
    """Untrained samples of all edges that start a job; None where their number starts none.

    After a refused or failed job its samples stay untrained, and `cooldown_samples` more are waited
    for: the same data would be refused again. Where a stream has drifted, fewer will do: they are
    not the odd mistake of every day.
    """
    wanted = (_enough(state, settings), _enough_after_drift(state, settings))
    return min((number for number in wanted if number is not None), default=None)


def trigger(state: TriggerState, settings: TriggerSettings) -> Trigger | None:
    """The trigger that starts a job now; None where none does."""
    if state.waiting:
        return None
    if state.asked:
        return "command"
    if state.lacking or (settings.max_jobs is not None and state.accepted >= settings.max_jobs):
        return None
    if state.rebase:
        return "rebase"
    found: tuple[tuple[Trigger, int | None], ...] = (
        ("count", _enough(state, settings)),
        ("edge", _enough_of_an_edge(state, settings)),
        ("drift", _enough_after_drift(state, settings)),
    )
    for what, wanted in found:
        if wanted is not None and state.untrained >= wanted:
            return what
    fresh = state.untrained - (state.untrained_at_refusal or 0)
    interval_s = settings.interval_s
    if interval_s is not None and fresh > 0 and state.since_last_s >= interval_s:
        return "interval"
    return None


def reason(what: Trigger, state: TriggerState, settings: TriggerSettings) -> str:
    """A trigger with its figures, for people."""
    edge, number = state.fullest
    untrained = f"{state.untrained} untrained samples"
    if what == "count":
        return f"{untrained}, of all edges; {_enough(state, settings)} are enough"
    if what == "edge":
        return (
            f"{number} untrained samples of {edge}; {settings.min_per_edge} of one edge are enough"
        )
    if what == "drift":
        wanted = _enough_after_drift(state, settings)
        return f"{untrained} after a drift; {wanted} are enough then"
    if what == "rebase":
        return state.rebase
    if what == "interval":
        return (
            f"{untrained} {state.since_last_s:.0f} s after the last job; any are enough after "
            f"{settings.interval_s:g} s"
        )
    return f"asked for, with {untrained}"


def waits_for(state: TriggerState, settings: TriggerSettings) -> str:
    """Why no job runs now, for people."""
    if state.waiting:
        return f"waits for {state.waiting}"
    if settings.max_jobs is not None and state.accepted >= settings.max_jobs:
        return f"{state.accepted} of {settings.max_jobs} candidates made; command only"
    if trigger(state, settings) is not None:
        return "due"
    wanted = needed(state, settings)
    of_edge = _enough_of_an_edge(state, settings)
    missing = []
    if wanted is not None and state.untrained < wanted:
        missing.append(f"untrained samples: {state.untrained} of {wanted}")
    if of_edge is not None and state.untrained < of_edge:
        edge, number = state.fullest
        if number < (settings.min_per_edge or 0):
            words = f"{number} of {settings.min_per_edge} ({edge})"
            missing.append(f"untrained samples of one edge: {words}")
        else:
            missing.append(f"untrained samples: {state.untrained} of {of_edge}")
    by_number = (wanted is not None) + (of_edge is not None)
    if missing and len(missing) == by_number:
        return "waits for " + ", or ".join(missing)
    if state.lacking:
        return f"waits for {state.lacking}"
    return "starts on command only" if not by_number and settings.interval_s is None else "due"


def _enough(state: TriggerState, settings: TriggerSettings) -> int | None:
    return (
        None
        if settings.min_samples is None
        else _after_refusal(settings.min_samples, state, settings)
    )


def _enough_of_an_edge(state: TriggerState, settings: TriggerSettings) -> int | None:
    """Untrained samples of all edges with which one of them has enough; None: never."""
    if settings.min_per_edge is None:
        return None
    lacking = max(0, settings.min_per_edge - state.fullest[1])
    return _after_refusal(state.untrained + lacking, state, settings)


def _enough_after_drift(state: TriggerState, settings: TriggerSettings) -> int | None:
    if not state.drifted or not settings.on_drift:
        return None
    return (state.untrained_at_refusal or 0) + settings.drift_samples


def _after_refusal(number: int, state: TriggerState, settings: TriggerSettings) -> int:
    refused = state.untrained_at_refusal
    return number if refused is None else max(number, refused + settings.cooldown_samples)
