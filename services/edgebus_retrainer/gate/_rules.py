"""The gate: may a candidate take the incumbent's place? Figures in, decision out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgebus.contracts import DomainReport, GateReport
from edgebus_retrainer.gate._evidence import gain_interval
from edgebus_retrainer.gate._measuring import Measured

__all__ = [
    "NEW",
    "OLD",
    "GateRules",
    "Latency",
    "decide",
    "domain_report",
    "goes_too_far",
    "too_few",
]

_NOTHING_MS = 0.5  # less is the clock's and the scheduler's, and slows nobody down

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
        confidence: Of the two-sided interval of the gain; None: none is computed.
        resamples: How often pictures are drawn for it.
        sure: Whether the whole interval of the new domain's gain must lie above 0.
        class_tolerance: Average precision (IoU 0.5) that any one class may lose.
        class_boxes: Classes and cameras with fewer true boxes in a domain are not judged alone.
        camera_tolerance: mAP50 that any one camera may lose.
        max_slowdown: Largest latency as a multiple of the incumbent's; None: any.
        max_calibration_loss: How much the calibration error may rise; None: any.
        seed: Decides the resamples.
    """

    min_gain: float = 0.0
    tolerance: float = 0.02
    min_images: int = 10
    require_old: bool = True
    confidence: float | None = 0.9
    resamples: int = 400
    sure: bool = True
    class_tolerance: float = 0.1
    class_boxes: int = 20
    camera_tolerance: float = 0.1
    max_slowdown: float | None = 1.5
    max_calibration_loss: float | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Milliseconds for one picture through the engine that serves."""

    before: float
    after: float


def domain_report(
    name: str, before: Measured, after: Measured, rules: GateRules, *, labels: str = ""
) -> DomainReport:
    """Incumbent (`before`) and candidate (`after`) on one held-out set, by somebody's `labels`."""
    old, new = before.result, after.result
    cameras_before, cameras_after = before.per_stream(), after.per_stream()
    low = high = None
    if rules.confidence is not None:
        low, high = gain_interval(
            before.matches,
            after.matches,
            confidence=rules.confidence,
            resamples=rules.resamples,
            seed=rules.seed,
        )
    return DomainReport(
        name=name,
        labels=labels,
        images=new.images,
        boxes=new.boxes,
        map50_before=_fraction(old.map50),
        map50_after=_fraction(new.map50),
        map_before=_fraction(old.map),
        map_after=_fraction(new.map),
        per_class_before={label: _fraction(value) for label, value in old.per_class.items()},
        per_class_after={label: _fraction(value) for label, value in new.per_class.items()},
        per_class_boxes=after.boxes_of,
        per_stream_before={name: _fraction(each[0]) for name, each in cameras_before.items()},
        per_stream_after={name: _fraction(each[0]) for name, each in cameras_after.items()},
        per_stream_boxes={name: each[1] for name, each in cameras_after.items()},
        gain_low=low,
        gain_high=high,
        calibration_before=before.calibration,
        calibration_after=after.calibration,
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


def decide(
    domains: Sequence[DomainReport],
    rules: GateRules,
    *,
    latency: Latency | None = None,
    left_out: int = 0,
) -> GateReport:
    """Whether a candidate passes, with every reason why not.

    It passes when mAP50 on the new domain rises, by at least `min_gain` and by more than chance
    can explain; when mAP50 on the old domain falls by at most `tolerance`; and when no class of
    either, nor the calibration, nor the speed, is worse than its rule allows.

    Args:
        domains: What was measured.
        rules: What is asked for.
        latency: What was measured; None: nothing.
        left_out: Training pictures that were left out for looking like held-out ones.
    """
    by_name = {domain.name: domain for domain in domains}
    reasons: list[str] = []
    for name in (NEW, OLD):
        domain = by_name.get(name)
        lacking = too_few(name, domain.images if domain else 0, rules)
        if lacking is not None:
            reasons.append(lacking)
    if NEW in by_name:
        reasons += _gains_too_little(by_name[NEW], rules)
    if OLD in by_name:
        reasons += _forgets(by_name[OLD], rules)
    for domain in domains:
        reasons += _parts_lost(domain, rules)
        reasons += _calibration_lost(domain, rules)
    if latency is not None and rules.max_slowdown is not None:
        ratio = latency.after / latency.before
        if ratio > rules.max_slowdown and latency.after - latency.before > _NOTHING_MS:
            reasons.append(
                f"latency: {latency.before:.1f} -> {latency.after:.1f} ms per picture, "
                f"{ratio:.2f} times the incumbent's; {rules.max_slowdown:g} is allowed"
            )
    return GateReport(
        passed=not reasons,
        reasons=tuple(reasons),
        domains=tuple(domains),
        tolerance=rules.tolerance,
        min_gain=rules.min_gain,
        confidence=rules.confidence,
        latency_ms_before=None if latency is None else round(latency.before, 3),
        latency_ms_after=None if latency is None else round(latency.after, 3),
        left_out=left_out,
    )


def goes_too_far(report: GateReport, rules: GateRules) -> bool:
    """Whether a candidate gains, and only what it loses elsewhere speaks against it.

    Then a part of the way from the old weights to the new may do.
    """
    by_name = {domain.name: domain for domain in report.domains}
    if report.passed or NEW not in by_name:
        return False
    new, old = by_name[NEW], by_name.get(OLD)
    if new.map50_after - new.map50_before <= max(rules.min_gain, 0):
        return False
    forgets = old is not None and any(_forgets(old, rules))
    return forgets or any(reason for each in report.domains for reason in _parts_lost(each, rules))


def _gains_too_little(new: DomainReport, rules: GateRules) -> Iterator[str]:
    gain = new.map50_after - new.map50_before
    figures = f"new domain: mAP50 {new.map50_before:.3f} -> {new.map50_after:.3f} ({gain:+.3f})"
    if gain <= 0 or gain < rules.min_gain:
        yield f"{figures}, a gain of at least {max(rules.min_gain, 0):.3f} is needed"
    elif rules.sure and new.gain_low is not None and new.gain_low <= 0:
        yield (
            f"{figures} may be chance: {rules.confidence:.0%} interval {new.gain_low:+.3f} to "
            f"{new.gain_high:+.3f} on {new.images} pictures; more held-out pictures would tell"
        )


def _forgets(old: DomainReport, rules: GateRules) -> Iterator[str]:
    loss = old.map50_before - old.map50_after
    if loss > rules.tolerance:
        yield (
            f"old domain: mAP50 {old.map50_before:.3f} -> {old.map50_after:.3f} "
            f"({-loss:+.3f}), a loss of at most {rules.tolerance:.3f} is allowed"
        )


def _parts_lost(domain: DomainReport, rules: GateRules) -> Iterator[str]:
    """Classes and cameras that pay for what the others gain."""
    for kind, old, new, counts, allowed in (
        (
            "class",
            domain.per_class_before,
            domain.per_class_after,
            domain.per_class_boxes,
            rules.class_tolerance,
        ),
        (
            "camera",
            domain.per_stream_before,
            domain.per_stream_after,
            domain.per_stream_boxes,
            rules.camera_tolerance,
        ),
    ):
        for name, before in old.items():
            after, boxes = new.get(name, 0.0), counts.get(name, 0)
            if boxes >= rules.class_boxes and before - after > allowed:
                yield (
                    f"{domain.name} domain, {kind} {name} ({boxes} boxes): {before:.3f} -> "
                    f"{after:.3f} ({after - before:+.3f}), a loss of at most {allowed:.3f} "
                    "is allowed"
                )


def _calibration_lost(domain: DomainReport, rules: GateRules) -> Iterator[str]:
    before, after = domain.calibration_before, domain.calibration_after
    limit = rules.max_calibration_loss
    if limit is not None and before is not None and after is not None and after - before > limit:
        yield (
            f"{domain.name} domain: calibration error {before:.3f} -> {after:.3f} "
            f"({after - before:+.3f}), a rise of at most {limit:.3f} is allowed"
        )


def _fraction(value: float) -> float:
    # Sums of float32 areas end a rounding error above 1.
    return min(1.0, max(0.0, value))
