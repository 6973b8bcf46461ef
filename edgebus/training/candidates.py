"""Candidates of a job: written, measured against the incumbent, and written again to serve."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic

from edgebus.artifacts import Bundle, TrainedOn, Update, derive_bundle
from edgebus.contracts import GateReport
from edgebus.serving import Model, make_probe
from edgebus.training.gate import (
    NEW,
    OLD,
    Latency,
    Measured,
    decide,
    domain_report,
    latency_of,
)
from edgebus.training.job_spec import JobClock, StepDone
from edgebus.training.trainer import ItemT, Material, Trainer, count_labelled


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCandidate:
    """New weights, measured.

    Attributes:
        update: What changes in the incumbent's weights.
        alpha: How far between the old weights and the new it lies.
        weights: Digest of its weights.
        gate: The gate's report.
    """

    update: Update
    alpha: float
    weights: str
    gate: GateReport

    @property
    def summary(self) -> str:
        """Gains and losses in a line."""
        parts = [
            f"{domain.name} domain {domain.deciding} {domain.decision.before:.3f} -> "
            f"{domain.decision.after:.3f}"
            for domain in self.gate.domains
        ]
        if self.alpha == 0:
            parts.append("the shared model as it is")
        elif self.alpha < 1:
            parts.append(f"{self.alpha:g} of the way from the old weights to the new")
        return "gate passed: " + ", ".join(parts)


@dataclass(slots=True)
class CandidateTrials(Generic[ItemT]):
    """Writes candidates of a job and measures them against the incumbent.

    Attributes:
        trainer: The workload's trainer of the job.
        material: What was trained on and is measured on.
        clock: Gets the phases.
        left_out: Training items that were left out for looking like held-out ones.
    """

    trainer: Trainer[ItemT]
    material: Material[ItemT]
    clock: JobClock
    left_out: int = 0
    _incumbent: Model | None = None
    _before: dict[str, Measured] = field(default_factory=dict)

    def measure(self, update: Update, *, alpha: float) -> MeasuredCandidate:
        """A candidate part of the way, measured as the bundle that it is on disk."""
        trainer = self.trainer
        spec, base = trainer.spec, trainer.base
        if alpha == 0:
            update = Update()
        elif alpha < 1:
            from edgebus.training.graph import interpolate

            update = interpolate(base.tensors(), update, alpha)
        with self.clock.phase("evaluating", f"{alpha:g} of the way"):
            draft = spec.folder / f"draft-{alpha:g}"
            shutil.rmtree(draft, ignore_errors=True)
            written = derive_bundle(base, update, name=spec.model, version=spec.version, out=draft)
            if self._incumbent is None:
                serving = base if spec.incumbent is None else Bundle.open(spec.incumbent)
                self._incumbent = trainer.load(serving)
                self._before = self._measure(self._incumbent)
            model = trainer.load(Bundle.open(draft))
            after = self._measure(model)
            latency = self._latency(self._incumbent, model)
            shutil.rmtree(draft)
            reports = [
                domain_report(
                    name,
                    self._before[name],
                    after[name],
                    spec.gate,
                    seed=spec.settings.seed,
                    labelled_by=", ".join(sorted({i.provenance for i in self._sets[name]})),
                )
                for name in after
            ]
            return MeasuredCandidate(
                update=update,
                alpha=alpha,
                weights=written.index.file("weights.safetensors").digest,
                gate=decide(reports, spec.gate, latency=latency, left_out=self.left_out),
            )

    def write(self, candidate: MeasuredCandidate) -> Bundle:
        """The bundle that may serve: the weights that were measured, and where they come from."""
        spec, material = self.trainer.spec, self.material
        out = spec.folder / "candidate"
        shutil.rmtree(out, ignore_errors=True)
        bundle = derive_bundle(
            self.trainer.base,
            candidate.update,
            name=spec.model,
            version=spec.version,
            metrics={
                f"{figure}_{domain.name}": change.after
                for domain in candidate.gate.domains
                for figure, change in domain.figures.items()
            },
            trained_on=TrainedOn(
                samples=len(material.new),
                replay=len(material.replay),
                digest=_digest(material.new),
                datasets=tuple(sorted({item.provenance for item in material.replay})),
                job=spec.job,
            ),
            origin=candidate.summary,
            out=out,
            probe=make_probe,
        )
        found = bundle.index.file("weights.safetensors").digest
        if found != candidate.weights:
            msg = f"weights {found[:12]} were written, {candidate.weights[:12]} were measured"
            raise RuntimeError(msg)
        return bundle

    @property
    def _sets(self) -> dict[str, tuple[ItemT, ...]]:
        return {NEW: self.material.new_holdout, OLD: self.material.old_holdout}

    def _latency(self, incumbent: Model, model: Model) -> Latency | None:
        example: Any = self.trainer.example(self.material.new_holdout)
        if example is None:
            return None
        return latency_of(partial(incumbent.predict, example), partial(model.predict, example))

    def _measure(self, model: Model) -> dict[str, Measured]:
        sets = self._sets
        total = sum(len(items) for items in sets.values())
        done = 0

        def count() -> None:
            nonlocal done
            done += 1
            self.clock.report(StepDone(step=done, steps=total))

        return {
            name: self.trainer.measure(model, items, on_item=count)
            for name, items in sets.items()
            if count_labelled(items)
        }


def _digest(items: tuple[ItemT, ...]) -> str:
    """SHA-256 of the sorted digests of the samples' files, which are their names."""
    names = sorted(item.path.stem for item in items)
    return hashlib.sha256("\n".join(names).encode()).hexdigest()
