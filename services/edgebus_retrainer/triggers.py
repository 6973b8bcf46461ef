"""When to train: plain rules over what the store holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Facts", "Trigger", "needed", "trigger"]

Trigger = Literal["count", "drift", "interval", "command"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the rules look at.

    Attributes:
        untrained: Training samples that no accepted job has used.
        untrained_at_refusal: Their number when the last job was refused or failed; None if the
            last one succeeded or there was none.
        since_last_s: Seconds since the last job ended, or since the start of the service.
        drifted: Whether some camera has drifted since the incumbent serves.
        accepted: Jobs whose candidate passed the gate.
        asked: Somebody asked for a job.
        waiting: Why no job may start now (one runs, no incumbent, ...); empty if one may.
        lacking: Why none starts by itself; a command does not care.
    """

    untrained: int
    untrained_at_refusal: int | None = None
    since_last_s: float = 0.0
    drifted: bool = False
    accepted: int = 0
    asked: bool = False
    waiting: str = ""
    lacking: str = ""


def needed(
    facts: Facts,
    *,
    min_samples: int | None,
    cooldown_samples: int,
    drift_samples: int | None = None,
) -> int | None:
    """Untrained samples that start a job; None where their number starts none.

    After a refused or failed job its samples stay untrained, and so many more are waited for:
    the same data would be refused again. Where a camera has drifted, fewer will do: they are not
    the odd mistake of every day.

    Args:
        facts: What the rules look at.
        min_samples: So many start a job; None: their number starts none.
        cooldown_samples: So many more after a refusal.
        drift_samples: So many after a drift, and so many more after a refusal; None: a drift
            changes nothing.
    """
    refused = facts.untrained_at_refusal
    wanted: list[int] = []
    if min_samples is not None:
        wanted.append(
            min_samples if refused is None else max(min_samples, refused + cooldown_samples)
        )
    if facts.drifted and drift_samples is not None:
        wanted.append((refused or 0) + drift_samples)
    return min(wanted, default=None)


def trigger(
    facts: Facts,
    *,
    min_samples: int | None,
    cooldown_samples: int,
    interval_s: float | None,
    max_jobs: int | None,
    drift_samples: int | None = None,
) -> Trigger | None:
    """What starts a job now; None where nothing does.

    Args:
        facts: What the rules look at.
        min_samples: So many untrained samples start a job; None: their number starts none.
        cooldown_samples: So many more after a refusal.
        interval_s: Seconds after the last job until the next starts, if there is anything new.
        max_jobs: No more candidates than this, except on command.
        drift_samples: So many untrained samples where a camera has drifted.
    """
    if facts.waiting:
        return None
    if facts.asked:
        return "command"
    if facts.lacking or (max_jobs is not None and facts.accepted >= max_jobs):
        return None
    number: tuple[tuple[Trigger, int | None], ...] = (("count", None), ("drift", drift_samples))
    for what, samples in number:
        wanted = needed(
            facts,
            min_samples=min_samples,
            cooldown_samples=cooldown_samples,
            drift_samples=samples,
        )
        if wanted is not None and facts.untrained >= wanted:
            return what
    fresh = facts.untrained - (facts.untrained_at_refusal or 0)
    if interval_s is not None and fresh > 0 and facts.since_last_s >= interval_s:
        return "interval"
    return None
