"""One job from start to end, as a plain function: label, train, measure, decide, write."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edgebus.artifacts import TRAINABLE_HEADS, Bundle, TrainedOn, Update, derive_bundle
from edgebus.contracts import DomainReport, GateReport
from edgebus.inference import DetectionModel, EngineSettings, make_probe
from edgebus.vision import MapResult
from edgebus_retrainer.gate import (
    NEW,
    OLD,
    GateRules,
    decide,
    domain_report,
    forgets_too_much,
    too_few,
)
from edgebus_retrainer.labels import Labelled
from edgebus_retrainer.material import Material, count_with_boxes, prepare
from edgebus_retrainer.measuring import measure
from edgebus_retrainer.spec import JobEvent, JobOutcome, JobSpec, Phase, PhaseName, StepDone
from edgebus_retrainer.teacher import Teacher, open_model

__all__ = ["TrainingFailedError", "UntrainableError", "run_job"]

Report = Callable[[JobEvent], None]


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


class TrainingFailedError(RuntimeError):
    """The training itself went wrong; the cause is a `TrainingError`, which needs torch."""


@dataclass(slots=True)
class _Clock:
    """Reports phases and adds up their seconds."""

    report: Report
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: PhaseName, detail: str = "") -> Iterator[None]:
        self.report(Phase(phase=name, detail=detail))
        began = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - began
            self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 3)


def run_job(spec: JobSpec, *, threads: int, report: Report) -> JobOutcome:
    """Train the incumbent further and decide whether the outcome may serve.

    Args:
        spec: The job.
        threads: CPU threads.
        report: Told of phases and steps.

    Raises:
        UntrainableError: The incumbent's graph or head cannot be trained.
        TeacherMissingError: Samples need a teacher and there is none.
        FolderError: A replay folder cannot be read.
        TrainingFailedError: The training diverged, or found no readable picture.
        ArtifactError: The incumbent, or the candidate, is no sound bundle.
        EngineError: The runtime refuses a model, or it gives NaN.
    """
    clock = _Clock(report)
    rules = GateRules(
        min_gain=spec.gate.min_gain,
        tolerance=spec.gate.tolerance,
        min_images=spec.gate.min_images,
        require_old=spec.gate.require_old,
    )
    engine = EngineSettings(threads=threads)
    with clock.phase("preparing", f"{len(spec.train)} new samples"):
        base = Bundle.open(spec.base)
        material = _prepare(spec, base, engine, rules, report)
    lacking = _lacking(material.new_holdout, material.old_holdout, rules)
    if lacking:
        gate = GateReport(
            passed=False,
            reasons=tuple(lacking),
            tolerance=rules.tolerance,
            min_gain=rules.min_gain,
        )
        return _outcome(clock, material, "skipped", "; ".join(lacking), gate)
    if not material.new:
        return _outcome(clock, material, "refused", "no new sample can be used", None)
    with clock.phase("training"):
        update = _train(spec, base, material, threads, report)
    tried = _Candidates(spec, base, material, rules, engine, clock)
    candidate = tried.measure(update, alpha=1.0)
    for alpha in spec.gate.interpolate:
        if not forgets_too_much(candidate.gate):
            break
        candidate = tried.measure(update, alpha=alpha)
    if not candidate.gate.passed:
        reason = "; ".join(candidate.gate.reasons)
        return _outcome(clock, material, "refused", reason, candidate.gate)
    with clock.phase("publishing"):
        bundle = tried.write(candidate)
    outcome = _outcome(clock, material, "accepted", candidate.words, candidate.gate)
    patch = bundle.index.patch
    return outcome.model_copy(
        update={
            "bundle": bundle.path,
            "update_bytes": patch.size if patch is not None else len(bundle.weights.data),
        }
    )


def _prepare(
    spec: JobSpec, base: Bundle, engine: EngineSettings, rules: GateRules, report: Report
) -> Material:
    if not base.manifest.trainable:
        reason = base.manifest.trainable_reason or "its graph has parts that torch has no rule for"
        raise UntrainableError(model=base.manifest.name, reason=reason)
    if base.manifest.decoder.kind not in TRAINABLE_HEADS:
        reason = (
            f"there is no loss for {base.manifest.decoder.kind!r} heads; use a model with one of "
            f"these: {', '.join(sorted(TRAINABLE_HEADS))}"
        )
        raise UntrainableError(model=base.manifest.name, reason=reason)
    teacher = None
    if spec.labels.teacher is not None and spec.labels.source != "truth":
        model = open_model(
            spec.labels.teacher, imports=spec.label_cache / "models", settings=engine
        )
        teacher = Teacher(model, threshold=spec.labels.reject, cache=spec.label_cache)
    return prepare(
        spec,
        base.manifest,
        teacher=None if teacher is None else lambda jpeg, key: teacher.label(jpeg, key=key),
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


def _train(spec: JobSpec, base: Bundle, material: Material, threads: int, report: Report) -> Update:
    # torch takes seconds to import and is of no use to the service itself.
    from edgebus.inference.graph import TorchGraph
    from edgebus.vision import Preprocessor
    from edgebus_retrainer.training import (
        AugmentSettings,
        FinetuneSettings,
        LabelledImage,
        TrainingError,
        YoloxHead,
        finetune,
        pick_device,
    )

    manifest, settings = base.manifest, spec.settings
    device = str(pick_device(settings.device))
    report(Phase(phase="training", detail=f"{settings.scope} on {device}, {threads} threads"))

    def pictures(labelled: tuple[Labelled, ...]) -> list[LabelledImage]:
        return [
            LabelledImage(
                name=picture.key,
                source=picture.path,
                boxes=picture.truth.boxes,
                labels=picture.truth.labels,
                ignore=picture.truth.ignore,
            )
            for picture in labelled
        ]

    try:
        result = finetune(
            TorchGraph(base.graph_bytes(), base.tensors(), scope=settings.scope),
            head=YoloxHead(
                height=manifest.input.height,
                width=manifest.input.width,
                classes=len(manifest.classes),
                strides=manifest.decoder.strides,
            ),
            prepare=Preprocessor(manifest.input).prepare,
            new=pictures(material.new),
            replay=pictures(material.replay),
            settings=FinetuneSettings(
                steps=settings.steps,
                batch=settings.batch,
                replay_share=settings.replay_share if material.replay else 0.0,
                learning_rate=settings.learning_rate,
                threads=threads,
                seed=settings.seed,
                augment=AugmentSettings(**settings.augment.model_dump()),
            ),
            device=device,
            on_step=lambda step: report(
                StepDone(step=step.step, steps=step.steps, loss=round(step.loss, 5))
            ),
        )
    except TrainingError as error:
        raise TrainingFailedError(str(error)) from error
    material.unusable.extend(f"picture {name} cannot be decoded" for name in result.unreadable)
    return result.update


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    update: Update
    alpha: float
    weights: str
    gate: GateReport

    @property
    def words(self) -> str:
        """What was gained and lost."""
        parts = [
            f"{domain.name} domain mAP50 {domain.map50_before:.3f} -> {domain.map50_after:.3f}"
            for domain in self.gate.domains
        ]
        if self.alpha < 1:
            parts.append(f"{self.alpha:g} of the way from the old weights to the new")
        return "gate passed: " + ", ".join(parts)


@dataclass(slots=True)
class _Candidates:
    """Writes candidates and measures them against the incumbent."""

    spec: JobSpec
    base: Bundle
    material: Material
    rules: GateRules
    engine: EngineSettings
    clock: _Clock
    before: dict[str, MapResult] | None = None

    def measure(self, update: Update, *, alpha: float) -> _Candidate:
        """A candidate part of the way, measured as the bundle that it is on disk."""
        if alpha < 1:
            from edgebus.inference.graph import interpolate

            update = interpolate(self.base.tensors(), update, alpha)
        with self.clock.phase("evaluating", f"{alpha:g} of the way"):
            draft = self.spec.folder / f"draft-{alpha:g}"
            shutil.rmtree(draft, ignore_errors=True)
            written = derive_bundle(self.base, update, version=self.spec.version, out=draft)
            if self.before is None:
                self.before = self._measure(self.base)
            after = self._measure(Bundle.open(draft))
            shutil.rmtree(draft)
            reports: list[DomainReport] = [
                domain_report(name, self.before[name], after[name], labels=self._labels(name))
                for name in after
            ]
            return _Candidate(
                update=update,
                alpha=alpha,
                weights=written.index.file("weights.safetensors").digest,
                gate=decide(reports, self.rules),
            )

    def write(self, candidate: _Candidate) -> Bundle:
        """The bundle that may serve: the weights that were measured, and where they come from."""
        spec = self.spec
        metrics = {
            f"{name}_{domain.name}": value
            for domain in candidate.gate.domains
            for name, value in (("map50", domain.map50_after), ("map", domain.map_after))
        }
        out = spec.folder / "candidate"
        shutil.rmtree(out, ignore_errors=True)
        bundle = derive_bundle(
            self.base,
            candidate.update,
            version=spec.version,
            metrics=metrics,
            trained_on=TrainedOn(
                samples=len(self.material.new),
                replay=len(self.material.replay),
                digest=_digest(self.material.new),
                datasets=tuple(sorted({p.provenance for p in self.material.replay})),
                job=spec.job,
            ),
            origin=candidate.words,
            out=out,
            probe=make_probe,
        )
        found = bundle.index.file("weights.safetensors").digest
        if found != candidate.weights:
            msg = f"weights {found[:12]} were written, {candidate.weights[:12]} were measured"
            raise RuntimeError(msg)
        return bundle

    def _labels(self, name: str) -> str:
        return ", ".join(sorted({picture.provenance for picture in self._sets[name]}))

    @property
    def _sets(self) -> dict[str, tuple[Labelled, ...]]:
        return {NEW: self.material.new_holdout, OLD: self.material.old_holdout}

    def _measure(self, bundle: Bundle) -> dict[str, MapResult]:
        model = DetectionModel.load(bundle, self.engine)
        sets = self._sets
        total = sum(len(pictures) for pictures in sets.values())
        done = 0

        def count() -> None:
            nonlocal done
            done += 1
            self.clock.report(StepDone(step=done, steps=total))

        return {
            name: measure(model, pictures, on_picture=count)
            for name, pictures in sets.items()
            if count_with_boxes(pictures)
        }


def _outcome(
    clock: _Clock, material: Material, outcome: str, reason: str, gate: GateReport | None
) -> JobOutcome:
    return JobOutcome.model_validate(
        {
            "outcome": outcome,
            "reason": reason,
            "gate": gate,
            "samples": len(material.new),
            "replay": len(material.replay),
            "seconds": clock.seconds,
            "unusable": tuple(material.unusable),
        }
    )


def _digest(pictures: tuple[Labelled, ...]) -> str:
    """SHA-256 of the sorted digests of the samples' files, which are their names."""
    names = sorted(Path(picture.path).stem for picture in pictures)
    return hashlib.sha256("\n".join(names).encode()).hexdigest()
