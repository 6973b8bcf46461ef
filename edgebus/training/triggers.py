"""When to train: plain rules over what the store holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Facts", "Rules", "Trigger", "needed", "reason", "trigger", "waits_for"]

Trigger = Literal["count", "edge", "drift", "rebase", "interval", "command"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What starts a job. Each starts one by itself.

    Attributes:
        min_samples: So many untrained samples of all edges; None: their number starts none.
        min_per_edge: So many of one edge; None: an edge's number starts none.
        cooldown_samples: So many more of all edges after a refusal: the same data would be refused
            again.
        drift_samples: So many of all edges where a camera has drifted, and so many more after a
            refusal; None: a drift changes nothing.
        interval_s: Seconds after the last job until the next starts, if there is anything new;
            None: never.
        max_jobs: No more candidates than this, except on command; None: no limit.
    """

    min_samples: int | None = 50
    min_per_edge: int | None = None
    cooldown_samples: int = 20
    drift_samples: int | None = None
    interval_s: float | None = None
    max_jobs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the rules look at.

    Attributes:
        untrained: Training samples that no accepted job has used.
        per_edge: The same by the node that collected them.
        untrained_at_refusal: Their number when the last job was refused or failed; None if the
            last one succeeded or there was none.
        since_last_s: Seconds since the last job ended, or since the start of the service.
        drifted: Whether some camera has drifted since the incumbent serves.
        rebase: What a camera's own model is to be made from anew, in words; empty if it is not.
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


def needed(facts: Facts, rules: Rules) -> int | None:
    """Untrained samples of all edges that start a job; None where their number starts none.

    After a refused or failed job its samples stay untrained, and so many more are waited for:
    the same data would be refused again. Where a camera has drifted, fewer will do: they are not
    the odd mistake of every day.
    """
    wanted = (_enough(facts, rules), _enough_after_drift(facts, rules))
    return min((number for number in wanted if number is not None), default=None)


def trigger(facts: Facts, rules: Rules) -> Trigger | None:
    """What starts a job now; None where nothing does."""
    if facts.waiting:
        return None
    if facts.asked:
        return "command"
    if facts.lacking or (rules.max_jobs is not None and facts.accepted >= rules.max_jobs):
        return None
    if facts.rebase:
        return "rebase"
    found: tuple[tuple[Trigger, int | None], ...] = (
        ("count", _enough(facts, rules)),
        ("edge", _enough_of_an_edge(facts, rules)),
        ("drift", _enough_after_drift(facts, rules)),
    )
    for what, wanted in found:
        if wanted is not None and facts.untrained >= wanted:
            return what
    fresh = facts.untrained - (facts.untrained_at_refusal or 0)
    interval_s = rules.interval_s
    if interval_s is not None and fresh > 0 and facts.since_last_s >= interval_s:
        return "interval"
    return None


def reason(what: Trigger, facts: Facts, rules: Rules) -> str:
    """What started a job, with its figures."""
    edge, number = facts.fullest
    untrained = f"{facts.untrained} untrained samples"
    if what == "count":
        return f"{untrained}, of all edges; {_enough(facts, rules)} are enough"
    if what == "edge":
        return f"{number} untrained samples of {edge}; {rules.min_per_edge} of one edge are enough"
    if what == "drift":
        wanted = _enough_after_drift(facts, rules)
        return f"{untrained} after a drift; {wanted} are enough then"
    if what == "rebase":
        return facts.rebase
    if what == "interval":
        return f"{untrained} {facts.since_last_s:.0f} s after the last job"
    return f"asked for, with {untrained}"


def waits_for(facts: Facts, rules: Rules) -> str:
    """Why no job runs now, for people."""
    if facts.waiting:
        return f"waits for {facts.waiting}"
    if rules.max_jobs is not None and facts.accepted >= rules.max_jobs:
        return f"{facts.accepted} of {rules.max_jobs} candidates made; command only"
    if trigger(facts, rules) is not None:
        return "due"
    wanted = needed(facts, rules)
    of_edge = _enough_of_an_edge(facts, rules)
    missing = []
    if wanted is not None and facts.untrained < wanted:
        missing.append(f"untrained samples: {facts.untrained} of {wanted}")
    if of_edge is not None and facts.untrained < of_edge:
        edge, number = facts.fullest
        if number < (rules.min_per_edge or 0):
            words = f"{number} of {rules.min_per_edge} ({edge})"
            missing.append(f"untrained samples of one edge: {words}")
        else:
            missing.append(f"untrained samples: {facts.untrained} of {of_edge}")
    rules_by_number = (wanted is not None) + (of_edge is not None)
    if missing and len(missing) == rules_by_number:
        return "waits for " + ", or ".join(missing)
    if facts.lacking:
        return f"waits for {facts.lacking}"
    return "command only" if not rules_by_number and rules.interval_s is None else "due"


def _enough(facts: Facts, rules: Rules) -> int | None:
    return None if rules.min_samples is None else _after_refusal(rules.min_samples, facts, rules)


def _enough_of_an_edge(facts: Facts, rules: Rules) -> int | None:
    """Untrained samples of all edges with which one of them has enough; None: never."""
    if rules.min_per_edge is None:
        return None
    lacking = max(0, rules.min_per_edge - facts.fullest[1])
    return _after_refusal(facts.untrained + lacking, facts, rules)


def _enough_after_drift(facts: Facts, rules: Rules) -> int | None:
    if not facts.drifted or rules.drift_samples is None:
        return None
    return (facts.untrained_at_refusal or 0) + rules.drift_samples


def _after_refusal(number: int, facts: Facts, rules: Rules) -> int:
    refused = facts.untrained_at_refusal
    return number if refused is None else max(number, refused + rules.cooldown_samples)
