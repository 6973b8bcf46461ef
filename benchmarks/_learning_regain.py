"""What the loop regains of what a drift has cost, held against a full offline fine-tune.

The loop is the product's: its collector's selection with its policies and budget, its sample
store, and its job with labels, training, interpolation and gate; only bus and processes are left
out. A candidate that the gate refuses regains nothing. Offline means: every training frame of the
new domain with true labels, all weights, more steps, nothing kept in mind of the old domain, no
gate.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks._learning_worlds import World
from edgebus.artifacts import Bundle, derive_bundle
from edgebus.samples import SampleFiles, SampleStore, open_database
from edgebus.serving import EngineSettings
from edgebus.training.finetune import finetune
from edgebus.training.graph import TorchGraph
from edgebus.training.job import run_job
from edgebus.training.job_spec import JobSpec
from edgebus.training.settings import FinetuneSettings, TrainSettings
from edgebus.workload import load_workload
from edgebus_collector.selection import Choice, Selector
from edgebus_detection import Detection
from edgebus_detection.datasets import Labelled
from edgebus_detection.metrics.measuring import MAP, MAP50, measure
from edgebus_detection.models import DetectionModel, detection_spec, input_spec
from edgebus_detection.training import DetectionTraining
from edgebus_detection.training.yolox import LabelledImage, YoloxHead, YoloxObjective
from edgebus_detection.vision import Preprocessor

__all__ = ["ARMS", "TARGET_LOST", "TARGET_SHARE", "Outcome", "arms_of", "run_arm", "summarise"]

ARMS = ("true labels", "teacher", "offline")
"""The loop with true labels, with a teacher's on the same samples, and the offline fine-tune."""
TARGET_SHARE, TARGET_LOST = 0.95, 0.02

_EVER = datetime(1970, 1, 1, tzinfo=UTC)
_OFFLINE: Mapping[str, dict[str, Any]] = {
    "dusk": {"steps": 600, "learning_rate": 2e-3},
    "infrared": {"steps": 300, "learning_rate": 5e-5},
    "car park": {"steps": 300, "learning_rate": 2e-5},
}
"""Steps and peak learning rates of the offline fine-tune; for YOLOX-nano the rates that were best
of 2e-5, 5e-5 and 2e-4 on other halves of these pictures (200 to 300 steps)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One arm of one world.

    Attributes:
        outcome: The job's, or ``offline``.
        reason: In words.
        frames: Training frames of the new domain that there were.
        samples: How many of them were trained on.
        steps: Optimiser steps.
        seconds: Of the job.
        new, old: Per domain: pictures, boxes, mAP50 and mAP before and after.
    """

    script: str
    seed: int
    arm: str
    outcome: str
    reason: str
    frames: int
    samples: int
    steps: int
    seconds: float
    new: dict[str, float]
    old: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """All seeds of one script and arm.

    Attributes:
        gain: mAP50 gained on the new domain, mean of the seeds.
        share: That gain as a share of the offline fine-tune's; None where that gained nothing.
        share_each: The same, seed by seed.
        level: mAP50 afterwards as a share of the offline fine-tune's.
        lost: mAP50 lost on the old domain, mean of the seeds.
        lost_most: The most that a seed lost.
        before, after: mAP50 on the new domain, means.
        map_before, map_after: The same for COCO's mAP.
        share_map: As `share`, of COCO's mAP.
        accepted: How many candidates the gate let pass.
        seeds: How many there were.
    """

    script: str
    arm: str
    gain: float
    share: float | None
    share_each: tuple[float | None, ...]
    level: float
    lost: float
    lost_most: float
    before: float
    after: float
    map_before: float
    map_after: float
    share_map: float | None
    accepted: int
    seeds: int


def arms_of(world: str) -> tuple[str, ...]:
    """The arms of a script: no larger model knows the emulated street."""
    return tuple(arm for arm in ARMS if not (world == "dusk" and arm == "teacher"))


def run_arm(
    world: World,
    arm: str,
    *,
    seed: int,
    work: Path,
    train: Mapping[str, Any] | None = None,
) -> Outcome:
    """Let the loop, or the offline fine-tune, learn a world, and measure before and after.

    Args:
        world: The script.
        arm: One of `ARMS`.
        seed: Of the world and the training.
        work: Folder for this arm alone.
        train: Other settings of the training than the world's.
    """
    began = time.monotonic()
    base = world.base
    if arm == "offline":
        steps, update = _offline(world, seed=seed, changes=train or {})
        after = derive_bundle(base, update, out=work / "offline")
        outcome, reason, samples = "offline", "all weights, all frames, true labels", None
    else:
        spec = _job(world, arm, seed=seed, work=work, changes=train or {})
        done = run_job(spec, threads=1, report=lambda _: None)
        after = base if done.bundle is None else Bundle.open(done.bundle)
        outcome, reason, samples = done.outcome, done.reason, done.samples
        steps = spec.settings.steps
    seconds = time.monotonic() - began
    return Outcome(
        script=world.name,
        seed=seed,
        arm=arm,
        outcome=outcome,
        reason=reason,
        frames=len(world.train),
        samples=len(world.train) if samples is None else samples,
        steps=steps,
        seconds=round(seconds, 1),
        new=_compare(base, after, world.new),
        old=_compare(base, after, world.old),
    )


def summarise(outcomes: Iterable[Outcome]) -> list[Summary]:
    """One line per script and arm.

    Gains are added up over the seeds before they are divided: a seed with little to gain would
    otherwise make a ratio of two small numbers as loud as the others.
    """
    rows = list(outcomes)
    offline = {(row.script, row.seed): row for row in rows if row.arm == "offline"}
    found = []
    for script, arm in dict.fromkeys((row.script, row.arm) for row in rows):
        mine = [
            row
            for row in rows
            if (row.script, row.arm) == (script, arm) and (script, row.seed) in offline
        ]
        if not mine:
            continue
        theirs = [offline[script, row.seed] for row in mine]
        lost = [row.old["map50_before"] - row.old["map50_after"] for row in mine]
        found.append(
            Summary(
                script=script,
                arm=arm,
                gain=_mean(_gain(row, "map50") for row in mine),
                share=_share(mine, theirs, "map50"),
                share_each=tuple(
                    _share([row], [other], "map50") for row, other in zip(mine, theirs, strict=True)
                ),
                level=_mean(row.new["map50_after"] for row in mine)
                / _mean(row.new["map50_after"] for row in theirs),
                lost=_mean(lost),
                lost_most=max(lost),
                before=_mean(row.new["map50_before"] for row in mine),
                after=_mean(row.new["map50_after"] for row in mine),
                map_before=_mean(row.new["map_before"] for row in mine),
                map_after=_mean(row.new["map_after"] for row in mine),
                share_map=_share(mine, theirs, "map"),
                accepted=sum(row.outcome == "accepted" for row in mine),
                seeds=len(mine),
            )
        )
    return found


def _gain(row: Outcome, figure: str) -> float:
    return row.new[f"{figure}_after"] - row.new[f"{figure}_before"]


def _share(mine: Sequence[Outcome], theirs: Sequence[Outcome], figure: str) -> float | None:
    possible = sum(_gain(row, figure) for row in theirs)
    return sum(_gain(row, figure) for row in mine) / possible if possible > 0 else None


def _mean(values: Iterable[float]) -> float:
    rows = list(values)
    return sum(rows) / len(rows)


def _compare(before: Bundle, after: Bundle, pictures: Sequence[Labelled]) -> dict[str, float]:
    found: dict[str, float] = {"pictures": len(pictures)}
    for name, bundle in (("before", before), ("after", after)):
        model = DetectionModel.load(bundle, EngineSettings(threads=1))
        measured = measure(model, pictures, on_picture=lambda: None)
        found["boxes"] = measured.labels
        found[f"map50_{name}"] = round(measured.figures[MAP50], 4)
        found[f"map_{name}"] = round(measured.figures[MAP], 4)
    return found


def _job(world: World, arm: str, *, seed: int, work: Path, changes: Mapping[str, Any]) -> JobSpec:
    """What the retrainer would give its job after these frames."""
    settings = world.retrainer
    samples = SampleStore(
        open_database(work / "samples.db"),
        SampleFiles(work / "samples"),
        load_workload("detection"),
        max_samples=settings.store.max_samples,
        max_bytes=settings.store.max_bytes,
        everything_new=settings.new_domain == "everything",
    )
    truth = dict(zip((e.input.record.id for e in world.examples), world.labelled, strict=True))
    for choice in _choose(world):
        example = choice.example
        sample = Detection().sample(example, choice.facts() | {"source": "bench/edge/collector"})
        # Who labels may know more than the camera does; the choice was made without.
        known = sample.record.model_copy(update={"truth": truth[example.input.record.id]})
        samples.add(type(sample).build(example.input.jpeg, known), received=sample.record.captured)
    name = world.base.manifest.name
    since = samples.new_domain_since(name) or _EVER
    train, gate = _changed(settings.train, changes), settings.gate
    source = "teacher" if arm == "teacher" else "truth"
    options = DetectionTraining.model_validate(settings.options)
    labels = options.labels.model_copy(update={"source": source})
    options = options.model_copy(update={"labels": labels})
    return JobSpec(
        job=f"regain-{seed}",
        workload=settings.workload,
        base=world.base.path,
        folder=work / "job",
        version=world.base.manifest.version + 1,
        train=samples.fresh(name, since=since, limit=train.max_samples),
        replay_samples=samples.earlier(name, before=since, limit=train.max_replay),
        new_holdout=samples.holdout(name, since=since, limit=gate.max_items),
        old_holdout=samples.holdout(name, before=since, limit=gate.max_items),
        replay=settings.replay,
        replay_holdout=settings.replay_holdout,
        cache=work / "answers",
        settings=train,
        gate=gate,
        options=options.model_dump(mode="json"),
    )


def _changed(settings: TrainSettings, changes: Mapping[str, Any]) -> TrainSettings:
    return TrainSettings.model_validate(settings.model_dump() | dict(changes))


def _choose(world: World) -> Iterable[Choice]:
    """What the collector's selection takes, within its budget."""
    selector = Selector(world.collector)
    begin = world.examples[0].input.record.captured
    for example in world.examples:
        now = (example.input.record.captured - begin).total_seconds()
        decision = selector.decide(example, now=now)
        if isinstance(decision, Choice):
            yield decision


def _offline(world: World, *, seed: int, changes: Mapping[str, Any]) -> tuple[int, Any]:
    """All weights on all frames; returns the steps and what they changed."""
    base, settings = world.base, world.retrainer.train
    described, taken = detection_spec(base.manifest), input_spec(base.manifest)
    config: dict[str, Any] = {
        "batch": settings.batch,
        "replay_share": 0.0,
        "threads": 1,
        "seed": seed,
        **_OFFLINE[world.name],
        **changes,
    }
    graph = TorchGraph(base.graph_bytes(), base.tensors(), scope="all")
    result = finetune(
        graph,
        objective=YoloxObjective(
            head=YoloxHead(
                height=taken.height,
                width=taken.width,
                classes=len(described.classes),
                strides=described.decoder.strides,
            ),
            prepare=Preprocessor(taken).prepare,
            augmentation=DetectionTraining.model_validate(world.retrainer.options).augment,
        ),
        new=[LabelledImage(picture.key, picture.path, picture.truth) for picture in world.train],
        settings=FinetuneSettings(**config),
    )
    return result.steps, result.update
