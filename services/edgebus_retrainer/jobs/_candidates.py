"""Candidates of a job: written, measured against the incumbent, and written again to serve."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2

from edgebus.artifacts import Bundle, TrainedOn, Update, derive_bundle
from edgebus.contracts import DomainReport, GateReport
from edgebus.serving import EngineSettings, make_probe
from edgebus_detection.datasets import Labelled
from edgebus_detection.models import DetectionModel
from edgebus_retrainer.gate import (
    NEW,
    OLD,
    GateRules,
    Latency,
    Measured,
    decide,
    domain_report,
    measure,
    milliseconds,
)
from edgebus_retrainer.jobs._clock import JobClock
from edgebus_retrainer.material import Material, count_with_boxes
from edgebus_retrainer.spec import JobSpec, StepDone

__all__ = ["Candidate", "Candidates"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to go, measured.

    Attributes:
        update: What changes in the incumbent's weights.
        alpha: How far between the old weights and the new it lies.
        weights: Digest of its weights.
        gate: What the gate says.
    """

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
        if self.alpha == 0:
            parts.append("the shared model as it is")
        elif self.alpha < 1:
            parts.append(f"{self.alpha:g} of the way from the old weights to the new")
        return "gate passed: " + ", ".join(parts)


@dataclass(slots=True)
class Candidates:
    """Writes candidates and measures them against the incumbent."""

    spec: JobSpec
    base: Bundle
    material: Material
    rules: GateRules
    engine: EngineSettings
    clock: JobClock
    left_out: int = 0
    incumbent: DetectionModel | None = None
    before: dict[str, Measured] = field(default_factory=dict)

    def measure(self, update: Update, *, alpha: float) -> Candidate:
        """A candidate part of the way, measured as the bundle that it is on disk."""
        if alpha == 0:
            update = Update()
        elif alpha < 1:
            from edgebus.training.graph import interpolate

            update = interpolate(self.base.tensors(), update, alpha)
        with self.clock.phase("evaluating", f"{alpha:g} of the way"):
            draft = self.spec.folder / f"draft-{alpha:g}"
            shutil.rmtree(draft, ignore_errors=True)
            spec = self.spec
            written = derive_bundle(
                self.base, update, name=spec.model, version=spec.version, out=draft
            )
            if self.incumbent is None:
                serving = self.base if spec.incumbent is None else Bundle.open(spec.incumbent)
                self.incumbent = DetectionModel.load(serving, self.engine)
                self.before = self._measure(self.incumbent)
            model = DetectionModel.load(Bundle.open(draft), self.engine)
            after = self._measure(model)
            latency = self._latency(self.incumbent, model)
            shutil.rmtree(draft)
            reports: list[DomainReport] = [
                domain_report(
                    name, self.before[name], after[name], self.rules, labels=self._labels(name)
                )
                for name in after
            ]
            return Candidate(
                update=update,
                alpha=alpha,
                weights=written.index.file("weights.safetensors").digest,
                gate=decide(reports, self.rules, latency=latency, left_out=self.left_out),
            )

    def write(self, candidate: Candidate) -> Bundle:
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
            name=spec.model,
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

    def _latency(self, incumbent: DetectionModel, model: DetectionModel) -> Latency | None:
        """Both on the first held-out picture that can be read."""
        for picture in self.material.new_holdout:
            image: Any = cv2.imread(str(picture.path), cv2.IMREAD_COLOR)
            if image is not None:
                before, after = milliseconds(incumbent, model, image)
                return Latency(before=before, after=after)
        return None

    def _measure(self, model: DetectionModel) -> dict[str, Measured]:
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


def _digest(pictures: tuple[Labelled, ...]) -> str:
    """SHA-256 of the sorted digests of the samples' files, which are their names."""
    names = sorted(Path(picture.path).stem for picture in pictures)
    return hashlib.sha256("\n".join(names).encode()).hexdigest()
