"""One job from start to end, as a plain function: label, train, measure, decide, write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgebus.artifacts import Bundle
from edgebus.contracts import GateReport
from edgebus.training.candidates import CandidateTrials
from edgebus.training.gate import NEW, OLD, forgets_too_much, too_few
from edgebus.training.job_spec import JobClock, JobOutcome, JobSpec, Report, StepDone
from edgebus.training.learning import learn
from edgebus.training.settings import GateSettings
from edgebus.training.trainer import (
    Leak,
    Material,
    Trainer,
    TrainingItem,
    count_labelled,
)
from edgebus.workload import UntrainableError, load_workload

CARD = "card"
"""Folder in a job's folder with the candidate's model card."""


def open_trainer(spec: JobSpec, *, threads: int) -> Trainer[Any]:
    """The workload's trainer of a job.

    Raises:
        ArtifactError: The base is no sound bundle.
        WorkloadUnknownError: The workload is not installed.
    """
    return load_workload(spec.workload).trainer(spec, Bundle.open(spec.base), threads=threads)


def run_job(spec: JobSpec, *, threads: int, report: Report) -> JobOutcome:
    """Train the incumbent further and decide whether the outcome may serve.

    Args:
        spec: The job.
        threads: CPU threads.
        report: Gets phases and steps.

    Raises:
        UntrainableError: The incumbent's graph or head cannot be trained.
        ValueError: The workload cannot prepare the material.
        TrainingFailedError: The training diverged, or found nothing readable.
        ArtifactError: The incumbent, or the candidate, is no sound bundle.
        EngineError: The runtime refuses a model, or it gives NaN.
    """
    spec.folder.mkdir(parents=True, exist_ok=True)
    clock = JobClock(report)
    gate = spec.gate
    with clock.phase("preparing", f"{len(spec.train)} new samples"):
        trainer = open_trainer(spec, threads=threads)
        material = _prepare(trainer, report)
        lacking = _lacking(material.new_holdout, material.old_holdout, gate)
        checked = None if lacking else trainer.remove_leaks(material)
    if checked is None:
        outcome = _outcome(clock, material, "skipped", "; ".join(lacking), _no(lacking, gate))
        return outcome.model_copy(update={"lacking": _shortage(material, gate)})
    leaky = [_leaky(leak, trainer) for leak in checked.leaks if leak.share > gate.max_leaking]
    if leaky:
        return _outcome(clock, material, "refused", "; ".join(leaky), _no(leaky, gate))
    material = checked.material
    if not material.new:
        return _outcome(clock, material, "refused", "no new sample can be used", None)
    with clock.phase("training"):
        learnt = learn(trainer, material, report=report)
    trials = CandidateTrials(trainer, material, clock, left_out=checked.left_out)
    candidate = trials.measure(learnt.update, alpha=1.0)
    for alpha in gate.interpolate:
        if not forgets_too_much(candidate.gate, gate):
            break
        candidate = trials.measure(learnt.update, alpha=alpha)
    if spec.incumbent is not None and not candidate.gate.passed:
        # A stream's own model, and the shared one may have overtaken it.
        shared = trials.measure(learnt.update, alpha=0.0)
        candidate = shared if shared.gate.passed else candidate
    if candidate.gate.passed:
        with clock.phase("publishing"):
            bundle = trials.write(candidate)
        patch = bundle.index.patch
        outcome = _outcome(clock, material, "accepted", candidate.summary, candidate.gate)
        outcome = outcome.model_copy(
            update={
                "bundle": bundle.path,
                "update_bytes": patch.size if patch is not None else len(bundle.weights.data),
            }
        )
    else:
        reason = "; ".join(candidate.gate.reasons)
        outcome = _outcome(clock, material, "refused", reason, candidate.gate)
    try:
        trainer.write_card(material, learnt, outcome, spec.folder / CARD)
    except OSError as error:
        # What was learnt is worth more than its description.
        unusable = (*outcome.unusable, f"the model card cannot be written: {error}")
        return outcome.model_copy(update={"unusable": unusable})
    return outcome


def _no(reasons: Sequence[str], gate: GateSettings) -> GateReport:
    """A refusal before anything was measured."""
    return GateReport(
        passed=False, reasons=tuple(reasons), tolerance=gate.tolerance, min_gain=gate.min_gain
    )


def _leaky(leak: Leak, trainer: Trainer[Any]) -> str:
    hint = (
        "give another replay or replay_holdout folder"
        if leak.name == "replay"
        else trainer.leak_hint(leak)
    )
    return f"leaky split: {leak.summary}; {hint}"


def _prepare(trainer: Trainer[Any], report: Report) -> Material[Any]:
    manifest, gate = trainer.base.manifest, trainer.spec.gate
    if not manifest.trainable:
        reason = manifest.trainable_reason or "its graph has parts that torch has no rule for"
        raise UntrainableError(model=manifest.name, reason=reason)
    trainer.check()
    return trainer.prepare(
        enough=lambda new, old: not _lacking(new, old, gate),
        on_item=lambda done, total: report(StepDone(step=done, steps=total)),
    )


def _lacking(
    new: Sequence[TrainingItem], old: Sequence[TrainingItem], gate: GateSettings
) -> list[str]:
    """Reasons why a candidate could not be measured; known before minutes of training are spent."""
    found = (too_few(NEW, count_labelled(new), gate), too_few(OLD, count_labelled(old), gate))
    return [reason for reason in found if reason is not None]


def _shortage(material: Material[Any], gate: GateSettings) -> int:
    """Items with labels that the emptier of the held-out sets lacks."""
    sets = ((NEW, material.new_holdout), (OLD, material.old_holdout))
    counts = ((name, count_labelled(items)) for name, items in sets)
    lacking = [gate.min_items - count for name, count in counts if too_few(name, count, gate)]
    return max(1, *lacking)


def _outcome(
    clock: JobClock, material: Material[Any], outcome: str, reason: str, gate: GateReport | None
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
