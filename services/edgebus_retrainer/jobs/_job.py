"""One job from start to end, as a plain function: label, train, measure, decide, write."""

from __future__ import annotations

from collections.abc import Sequence

from edgebus.artifacts import Bundle
from edgebus.contracts import GateReport
from edgebus.serving import EngineSettings
from edgebus_detection.datasets import Labelled
from edgebus_detection.labels import open_teacher
from edgebus_detection.models import TRAINABLE_HEADS, detection_spec
from edgebus_retrainer.gate import NEW, OLD, GateRules, Leak, goes_too_far, keep_apart, too_few
from edgebus_retrainer.jobs._candidates import Candidates
from edgebus_retrainer.jobs._card import CARD, make_card, write_card
from edgebus_retrainer.jobs._clock import JobClock, Report
from edgebus_retrainer.jobs._learning import learn
from edgebus_retrainer.material import Material, count_with_boxes, prepare
from edgebus_retrainer.spec import JobOutcome, JobSpec, StepDone

__all__ = ["UntrainableError", "run_job"]


class UntrainableError(ValueError):
    """The incumbent cannot be trained further.

    Attributes:
        model: Its name.
        reason: Why not.
    """

    def __init__(self, *, model: str, reason: str) -> None:
        super().__init__(f"model {model!r} cannot be trained: {reason}")
        self.model = model
        self.reason = reason


def run_job(spec: JobSpec, *, threads: int, report: Report) -> JobOutcome:
    """Train the incumbent further and decide whether the outcome may serve.

    Args:
        spec: The job.
        threads: CPU threads.
        report: Told of phases and steps.

    Raises:
        UntrainableError: The incumbent's graph or head cannot be trained.
        TeacherMissingError: Samples need a teacher and there is none.
        SourceError: A replay folder cannot be read.
        TrainingFailedError: The training diverged, or found no readable picture.
        ArtifactError: The incumbent, or the candidate, is no sound bundle.
        EngineError: The runtime refuses a model, or it gives NaN.
    """
    spec.folder.mkdir(parents=True, exist_ok=True)
    clock = JobClock(report)
    rules = _rules(spec)
    engine = EngineSettings(threads=threads)
    with clock.phase("preparing", f"{len(spec.train)} new samples"):
        base = Bundle.open(spec.base)
        material = _prepare(spec, base, engine, rules, report)
        lacking = _lacking(material.new_holdout, material.old_holdout, rules)
        distance = -1 if lacking else spec.gate.leak_distance
        apart = keep_apart(material, distance=distance)
    if lacking:
        gate = _unmeasured(lacking, rules)
        return _outcome(clock, material, "skipped", "; ".join(lacking), gate).model_copy(
            update={"lacking": _shortage(material, rules)}
        )
    leaky = [_leaky(leak, spec) for leak in apart.leaks if leak.share > spec.gate.max_leaking]
    if leaky:
        gate = _unmeasured(leaky, rules)
        return _outcome(clock, material, "refused", "; ".join(leaky), gate)
    material = apart.material
    if not material.new:
        return _outcome(clock, material, "refused", "no new sample can be used", None)
    with clock.phase("training"):
        learnt = learn(spec, base, material, threads=threads, report=report)
    tried = Candidates(spec, base, material, rules, engine, clock, left_out=apart.left_out)
    candidate = tried.measure(learnt.update, alpha=1.0)
    for alpha in spec.gate.interpolate:
        if not goes_too_far(candidate.gate, rules):
            break
        candidate = tried.measure(learnt.update, alpha=alpha)
    if spec.incumbent is not None and not candidate.gate.passed:
        # A camera's own model, and the shared one may have overtaken it.
        shared = tried.measure(learnt.update, alpha=0.0)
        candidate = shared if shared.gate.passed else candidate
    if candidate.gate.passed:
        with clock.phase("publishing"):
            bundle = tried.write(candidate)
        patch = bundle.index.patch
        outcome = _outcome(clock, material, "accepted", candidate.words, candidate.gate).model_copy(
            update={
                "bundle": bundle.path,
                "update_bytes": patch.size if patch is not None else len(bundle.weights.data),
            }
        )
    else:
        reason = "; ".join(candidate.gate.reasons)
        outcome = _outcome(clock, material, "refused", reason, candidate.gate)
    try:
        write_card(make_card(spec, base, material, learnt, outcome), spec.folder / CARD)
    except OSError as error:
        # What was learnt is worth more than what is told of it.
        unusable = (*outcome.unusable, f"the model card cannot be written: {error}")
        return outcome.model_copy(update={"unusable": unusable})
    return outcome


def _rules(spec: JobSpec) -> GateRules:
    gate = spec.gate
    return GateRules(
        min_gain=gate.min_gain,
        tolerance=gate.tolerance,
        min_images=gate.min_images,
        require_old=gate.require_old,
        confidence=gate.confidence,
        sure=gate.sure,
        class_tolerance=gate.class_tolerance,
        class_boxes=gate.class_boxes,
        camera_tolerance=gate.camera_tolerance,
        max_slowdown=gate.max_slowdown,
        max_calibration_loss=gate.max_calibration_loss,
        seed=spec.settings.seed,
    )


def _unmeasured(reasons: Sequence[str], rules: GateRules) -> GateReport:
    """The gate's no before anything was measured."""
    return GateReport(
        passed=False,
        reasons=tuple(reasons),
        tolerance=rules.tolerance,
        min_gain=rules.min_gain,
    )


def _leaky(leak: Leak, spec: JobSpec) -> str:
    hint = (
        "give another replay or replay_holdout folder"
        if leak.name == "replay"
        else "the cameras show the same picture again and again: raise the collectors' "
        "duplicate_distance and duplicate_memory, or wait for other pictures"
    )
    return f"leaky split: {leak.words(distance=spec.gate.leak_distance)}; {hint}"


def _prepare(
    spec: JobSpec, base: Bundle, engine: EngineSettings, rules: GateRules, report: Report
) -> Material:
    if not base.manifest.trainable:
        reason = base.manifest.trainable_reason or "its graph has parts that torch has no rule for"
        raise UntrainableError(model=base.manifest.name, reason=reason)
    kind = detection_spec(base.manifest).decoder.kind
    if kind not in TRAINABLE_HEADS:
        reason = (
            f"there is no loss for {kind!r} heads; use a model with one of "
            f"these: {', '.join(sorted(TRAINABLE_HEADS))}"
        )
        raise UntrainableError(model=base.manifest.name, reason=reason)
    return prepare(
        spec,
        base.manifest,
        teacher=open_teacher(spec.labels, cache=spec.label_cache, engine=engine),
        enough=lambda new, old: not _lacking(new, old, rules),
        on_picture=lambda done, total: report(StepDone(step=done, steps=total)),
    )


def _lacking(new: Sequence[Labelled], old: Sequence[Labelled], rules: GateRules) -> list[str]:
    """What is missing to measure a candidate; known before minutes of training are spent."""
    found = (
        too_few(NEW, count_with_boxes(new), rules),
        too_few(OLD, count_with_boxes(old), rules),
    )
    return [reason for reason in found if reason is not None]


def _shortage(material: Material, rules: GateRules) -> int:
    """Pictures with boxes that the emptier of the held-out sets lacks."""
    sets = ((NEW, material.new_holdout), (OLD, material.old_holdout))
    counts = ((name, count_with_boxes(pictures)) for name, pictures in sets)
    lacking = [rules.min_images - count for name, count in counts if too_few(name, count, rules)]
    return max(1, *lacking)


def _outcome(
    clock: JobClock, material: Material, outcome: str, reason: str, gate: GateReport | None
) -> JobOutcome:
    return JobOutcome.model_validate(
        {
            "outcome": outcome,
            "reason": reason,
            "gate": gate,
            "labels": material.labels,
            "samples": len(material.new),
            "replay": len(material.replay),
            "seconds": clock.seconds,
            "unusable": tuple(material.unusable),
            "waiting": material.waiting,
        }
    )
