"""The gate: may a candidate take the incumbent's place? Figures in, decision out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgebus.contracts import DomainReport, GateReport
from edgebus.vision import MapResult

__all__ = ["GateRules", "decide", "domain_report"]

NEW = "new"
OLD = "old"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRules:
    """What a candidate has to show.

    Attributes:
        min_gain: mAP50 that the new domain must gain.
        tolerance: mAP50 that the old domain may lose.
        min_images: Held-out pictures with boxes that each domain must have at least.
        require_old: Whether a job without any old domain may pass.
    """

    min_gain: float = 0.0
    tolerance: float = 0.02
    min_images: int = 10
    require_old: bool = True


def domain_report(
    name: str, before: MapResult, after: MapResult, *, labels: str = ""
) -> DomainReport:
    """Incumbent (`before`) and candidate (`after`) on one held-out set, by somebody's `labels`."""
    return DomainReport(
        name=name,
        labels=labels,
        images=after.images,
        boxes=after.boxes,
        map50_before=_fraction(before.map50),
        map50_after=_fraction(after.map50),
        map_before=_fraction(before.map),
        map_after=_fraction(after.map),
        per_class_before={label: _fraction(value) for label, value in before.per_class.items()},
        per_class_after={label: _fraction(value) for label, value in after.per_class.items()},
    )


def too_few(name: str, images: int, rules: GateRules) -> str | None:
    """Why a held-out set cannot be measured on; None where it can."""
    if images >= rules.min_images or (name == OLD and images == 0 and not rules.require_old):
        return None
    hint = (
        "give a replay folder, or allow to train without one (gate.require_old: false)"
        if name == OLD
        else "wait for more audit samples, or raise the collectors' holdout_share"
    )
    return (
        f"too few held-out pictures with boxes of the {name} domain: {images}, "
        f"{rules.min_images} are needed; {hint}"
    )


def decide(domains: Sequence[DomainReport], rules: GateRules) -> GateReport:
    """Whether a candidate passes, with every reason why not.

    It passes when mAP50 on the new domain rises by at least `min_gain` (and rises at all), and
    mAP50 on the old domain falls by at most `tolerance`.
    """
    by_name = {domain.name: domain for domain in domains}
    reasons: list[str] = []
    for name in (NEW, OLD):
        domain = by_name.get(name)
        lacking = too_few(name, domain.images if domain else 0, rules)
        if lacking is not None:
            reasons.append(lacking)
    new, old = by_name.get(NEW), by_name.get(OLD)
    if new is not None:
        gain = new.map50_after - new.map50_before
        if gain <= 0 or gain < rules.min_gain:
            reasons.append(
                f"new domain: mAP50 {new.map50_before:.3f} -> {new.map50_after:.3f} "
                f"({gain:+.3f}), a gain of at least {max(rules.min_gain, 0):.3f} is needed"
            )
    if old is not None:
        loss = old.map50_before - old.map50_after
        if loss > rules.tolerance:
            reasons.append(
                f"old domain: mAP50 {old.map50_before:.3f} -> {old.map50_after:.3f} "
                f"({-loss:+.3f}), a loss of at most {rules.tolerance:.3f} is allowed"
            )
    return GateReport(
        passed=not reasons,
        reasons=tuple(reasons),
        domains=tuple(domains),
        tolerance=rules.tolerance,
        min_gain=rules.min_gain,
    )


def forgets_too_much(report: GateReport) -> bool:
    """Whether the old domain is what speaks against a candidate that does gain."""
    by_name = {domain.name: domain for domain in report.domains}
    new, old = by_name.get(NEW), by_name.get(OLD)
    if report.passed or new is None or old is None:
        return False
    return (
        new.map50_after - new.map50_before > max(report.min_gain, 0)
        and old.map50_before - old.map50_after > report.tolerance
    )


def _fraction(value: float) -> float:
    # Sums of float32 areas end a rounding error above 1.
    return min(1.0, max(0.0, value))
