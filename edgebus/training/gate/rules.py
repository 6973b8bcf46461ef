"""The rules of the gate: figures in, decision with reasons out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edgebus.contracts import Change, DomainReport, GateReport
from edgebus.training.gate.measured import Measured, gain_interval
from edgebus.training.settings import GateSettings

_NOTHING_MS = 0.5  # less is the clock's and the scheduler's, and slows nobody down

_ALIKE = 1.1  # times as long as the incumbent

NEW = "new"
OLD = "old"


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Milliseconds for one input through the engine that serves."""

    before: float
    after: float


def latency_of(
    before: Callable[[], object], after: Callable[[], object], *, runs: int = 12
) -> Latency:
    """The least time that each of two models takes for an input.

    The least of some runs, one model after the other: whatever else a host does only adds to it,
    and what slows the host down for a while slows both. Where the candidate seems slower, a busy
    host may not have let it run through once yet: it gets more runs, as does the incumbent.

    Args:
        before: Runs the incumbent once.
        after: Runs the candidate once.
        runs: Runs of each, after two that are not counted; five times as many before the candidate
            counts as slower.
    """
    best = [float("inf"), float("inf")]
    for number in range(5 * runs + 2):
        if number >= runs + 2 and best[1] <= _ALIKE * best[0]:
            break
        for which, run in enumerate((before, after)):
            began = time.perf_counter()
            run()
            spent = time.perf_counter() - began
            if number >= 2:
                best[which] = min(best[which], spent)
    return Latency(before=best[0] * 1e3, after=best[1] * 1e3)


def domain_report(
    name: str,
    before: Measured,
    after: Measured,
    settings: GateSettings,
    *,
    seed: int = 0,
    labelled_by: str = "",
) -> DomainReport:
    """Incumbent (`before`) and candidate (`after`) on one held-out set.

    Args:
        name: `NEW` or `OLD`.
        before: The incumbent's figures.
        after: The candidate's.
        settings: Confidence of the interval of the gain.
        seed: Seed of the interval.
        labelled_by: Source of the set's labels.
    """
    low = high = None
    if settings.confidence is not None:
        low, high = gain_interval(before, after, confidence=settings.confidence, seed=seed)
    return DomainReport(
        name=name,
        labelled_by=labelled_by,
        items=after.items,
        labels=after.labels,
        deciding=after.deciding,
        figures={
            figure: Change(before=value, after=after.figures[figure])
            for figure, value in before.figures.items()
            if figure in after.figures
        },
        groups={
            kind: {
                part: Change(
                    before=value,
                    after=after.groups[kind][part][0] if part in after.groups[kind] else 0.0,
                    labels=labels,
                )
                for part, (value, labels) in parts.items()
            }
            for kind, parts in before.groups.items()
        },
        lower_is_better=after.lower_is_better,
        gain_low=low,
        gain_high=high,
    )


def too_few(name: str, items: int, settings: GateSettings) -> str | None:
    """Why a held-out set cannot be measured on; None where it can.

    Args:
        name: `NEW` or `OLD`.
        items: Items with labels in it.
        settings: What is asked for.
    """
    if items >= settings.min_items or (name == OLD and items == 0 and not settings.require_old):
        return None
    hint = (
        "give a replay folder, or allow to train without one (gate.require_old: false)"
        if name == OLD
        else "wait for more audit samples, or raise the collectors' holdout_share"
    )
    return (
        f"too few held-out items with labels of the {name} domain: {items}, "
        f"{settings.min_items} are needed; {hint}"
    )


def decide(
    domains: Sequence[DomainReport],
    settings: GateSettings,
    *,
    latency: Latency | None = None,
    left_out: int = 0,
) -> GateReport:
    """The decision on a candidate, with every reason against it.

    It passes when the deciding figure on the new domain gets better, by at least `min_gain` and by
    more than chance can explain; when on the old domain it gets worse by at most `tolerance`; and
    when no part of either, no other figure, nor the speed, is worse than its rule allows.

    Args:
        domains: What was measured.
        settings: What is asked for.
        latency: What was measured; None: nothing.
        left_out: Training items that were left out for looking like held-out ones.
    """
    by_name = {domain.name: domain for domain in domains}
    reasons: list[str] = []
    for name in (NEW, OLD):
        domain = by_name.get(name)
        lacking = too_few(name, domain.items if domain else 0, settings)
        if lacking is not None:
            reasons.append(lacking)
    if NEW in by_name:
        reasons += _gains_too_little(by_name[NEW], settings)
    if OLD in by_name:
        reasons += _forgets(by_name[OLD], settings)
    for domain in domains:
        reasons += _parts_lost(domain, settings)
        reasons += _figures_lost(domain, settings)
    if latency is not None and settings.max_slowdown is not None:
        ratio = latency.after / latency.before
        if ratio > settings.max_slowdown and latency.after - latency.before > _NOTHING_MS:
            reasons.append(
                f"latency: {latency.before:.1f} -> {latency.after:.1f} ms per input, "
                f"{ratio:.2f} times the incumbent's; {settings.max_slowdown:g} is allowed"
            )
    return GateReport(
        passed=not reasons,
        reasons=tuple(reasons),
        domains=tuple(domains),
        tolerance=settings.tolerance,
        min_gain=settings.min_gain,
        confidence=settings.confidence,
        latency_ms_before=None if latency is None else round(latency.before, 3),
        latency_ms_after=None if latency is None else round(latency.after, 3),
        left_out=left_out,
    )


def forgets_too_much(report: GateReport, settings: GateSettings) -> bool:
    """Whether a candidate gains, and only what it loses elsewhere speaks against it.

    Then a part of the way from the old weights to the new may do.
    """
    by_name = {domain.name: domain for domain in report.domains}
    if report.passed or NEW not in by_name:
        return False
    old = by_name.get(OLD)
    if by_name[NEW].gain <= max(settings.min_gain, 0):
        return False
    forgets = old is not None and any(_forgets(old, settings))
    return forgets or any(
        reason for each in report.domains for reason in _parts_lost(each, settings)
    )


def _figures(what: str, figure: str, change: Change) -> str:
    return f"{what}{figure} {change.before:.3f} -> {change.after:.3f} ({change.rise:+.3f})"


def _gains_too_little(new: DomainReport, settings: GateSettings) -> Iterator[str]:
    figures = _figures("new domain: ", new.deciding, new.decision)
    if new.gain <= 0 or new.gain < settings.min_gain:
        yield f"{figures}, a gain of at least {max(settings.min_gain, 0):.3f} is needed"
    elif settings.require_significant_gain and new.gain_low is not None and new.gain_low <= 0:
        yield (
            f"{figures} may be chance: {settings.confidence:.0%} interval {new.gain_low:+.3f} to "
            f"{new.gain_high:+.3f} on {new.items} inputs; more held-out samples would tell"
        )


def _forgets(old: DomainReport, settings: GateSettings) -> Iterator[str]:
    if -old.gain > settings.tolerance:
        yield (
            f"{_figures('old domain: ', old.deciding, old.decision)}, "
            f"a loss of at most {settings.tolerance:.3f} is allowed"
        )


def _parts_lost(domain: DomainReport, settings: GateSettings) -> Iterator[str]:
    """Classes and streams that pay for what the others gain."""
    allowed = settings.group_tolerance
    for kind, parts in domain.groups.items():
        for name, change in parts.items():
            lost = -domain.better(domain.deciding, change)
            if (change.labels or 0) >= settings.group_min_labels and lost > allowed:
                what = f"{domain.name} domain, {kind} {name} ({change.labels} labels):"
                yield (f"{_figures(what, '', change)}, a loss of at most {allowed:.3f} is allowed")


def _figures_lost(domain: DomainReport, settings: GateSettings) -> Iterator[str]:
    for figure, allowed in settings.max_worsening.items():
        change = domain.figures.get(figure)
        if change is not None and -domain.better(figure, change) > allowed:
            yield (
                f"{_figures(f'{domain.name} domain: ', figure, change)}, "
                f"worse by at most {allowed:.3f} is allowed"
            )
