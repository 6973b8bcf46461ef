"""A job of a workload that knows no picture: a line through points, trained and judged."""

import asyncio
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from pydantic import ValidationError

import edgebus.workload
from edgebus.artifacts import (
    Bundle,
    EngineRequirements,
    GraphSpec,
    Manifest,
    TensorSpec,
    write_bundle,
)
from edgebus.artifacts.graph import declare_external
from edgebus.artifacts.tensors import TensorFile, dump_tensors
from edgebus.contracts import ModelRef, SampleRecord, StoredSample, Topic, split_of, topics, utc_now
from edgebus.service.testing import ServiceHarness
from edgebus.training import job_runner
from edgebus.training.array_trainer import ArrayTrainer
from edgebus.training.job import run_job
from edgebus.training.job_spec import JobSpec
from edgebus.training.settings import GateSettings, TrainSettings
from edgebus.workload import UntrainableError, Workload, load_workload
from edgebus_retrainer import Retrainer, RetrainerSettings

MODEL = ModelRef(name="line", version=1, digest="a" * 64)


class LineSample(SampleRecord, version=1):
    x: tuple[float, float]
    y: float | None = None


class LineTrainer(ArrayTrainer):
    def read(self, sample):
        record = LineSample.decode(sample.path.read_bytes())
        if record.y is None:
            return None
        return np.array(record.x), np.array([record.y], np.float32), record.stream


class Line(Workload):
    name: ClassVar[str] = "line"
    samples = Topic("{node}/{service}/samples/line", LineSample, qos=1, doc="A sample of a line.")
    sample_suffix: ClassVar[str] = ".json"

    def count_truths(self, record):
        return None if record.y is None else 1

    def trainer(self, spec, base, *, threads):
        return LineTrainer(spec, base, threads=threads)


@pytest.fixture(autouse=True)
def _installed(monkeypatch):
    point = SimpleNamespace(name="line", load=lambda: Line)
    monkeypatch.setattr(edgebus.workload, "entry_points", lambda group: [point])
    monkeypatch.setattr(
        edgebus.workload, "entry_point", lambda _group, name: point if name == point.name else None
    )
    load_workload.cache_clear()
    yield
    load_workload.cache_clear()


def bundle(folder):
    """y = slope * x: both slopes are 1 at first."""
    tensors = {"slope": np.ones((2, 1), np.float32), "offset": np.zeros(1, np.float32)}
    weights = dump_tensors(tensors)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "slope", "offset"], ["y"])],
        "line",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [onnx.numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    declare_external(model, TensorFile.parse(weights, file="weights.safetensors"))
    manifest = Manifest(
        name="line",
        version=1,
        task="line",
        graphs=(
            GraphSpec(
                inputs=(TensorSpec(name="x", shape=(None, 2)),),
                outputs=(TensorSpec(name="y", shape=(None, 1)),),
            ),
        ),
        engine=EngineRequirements(opset=13, ir_version=8, operators=("Gemm",)),
    )
    return write_bundle(folder, manifest=manifest, graph=model.SerializeToString(), weights=weights)


def samples(folder, count, *, slope, first=0, truth=True):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(first)
    found = []
    for index in range(first, first + count):
        x = rng.uniform(-1, 1, 2)
        record = LineSample(
            source="lab/pi-01/collector",
            stream="north" if index % 2 else "south",
            input=f"i{index}",
            index=index,
            captured=utc_now(),
            split=split_of("north", index),
            policy="error",
            reason="far off",
            score=1.0,
            model=MODEL,
            x=(float(x[0]), float(x[1])),
            y=float(slope * x.sum()) if truth else None,
        )
        path = folder / f"{index}.json"
        path.write_bytes(record.encode())
        found.append(StoredSample(id=record.id, path=path))
    return tuple(found)


def job(folder, **changes):
    base = bundle(folder / "base")
    fields = {
        "job": "job-1",
        "workload": "line",
        "base": base.path,
        "folder": folder / "job",
        "version": 2,
        "train": samples(folder / "s", 40, slope=3.0),
        "new_holdout": samples(folder / "s", 20, slope=3.0, first=100),
        "cache": folder / "cache",
        "settings": TrainSettings(scope="all", steps=150, learning_rate=0.05, threads=1, nice=0),
        "gate": GateSettings(require_old=False, group_min_labels=5),
    }
    return JobSpec(**(fields | changes))


def test_a_line_is_learnt_and_judged(tmp_path):
    outcome = run_job(job(tmp_path), threads=1, report=lambda _: None)
    assert outcome.outcome == "accepted", outcome.reason
    (new,) = outcome.gate.domains
    assert (new.deciding, new.lower_is_better, new.items) == ("mse", ("mse",), 20)
    assert new.decision.after < 0.05 * new.decision.before
    assert new.gain_low > 0
    assert sorted(new.groups["stream"]) == ["north", "south"]
    made = Bundle.open(outcome.bundle)
    np.testing.assert_allclose(made.tensors()["slope"], 3.0, atol=0.2)
    assert made.manifest.metrics["mse_new"] == new.decision.after
    assert outcome.labels.inputs == {"truth": 60}


def test_one_that_forgets_is_refused_though_less_is_better(tmp_path):
    # The old domain is the line that the model already has.
    old = samples(tmp_path / "s", 20, slope=1.0, first=200)
    spec = job(tmp_path, old_holdout=old, gate=GateSettings(interpolate=()))
    outcome = run_job(spec, threads=1, report=lambda _: None)
    assert outcome.outcome == "refused"
    assert "old domain: mse 0.000 -> " in outcome.reason


def test_samples_without_a_target_wait_and_broken_ones_are_named(tmp_path):
    waiting = samples(tmp_path / "s", 3, slope=3.0, first=300, truth=False)
    broken = samples(tmp_path / "s", 1, slope=3.0, first=400)
    broken[0].path.write_bytes(b"{}")
    train = (*samples(tmp_path / "s", 40, slope=3.0), *waiting, *broken)
    outcome = run_job(job(tmp_path, train=train), threads=1, report=lambda _: None)
    assert outcome.outcome == "accepted", outcome.reason
    assert outcome.waiting == tuple(each.id for each in waiting)
    assert broken[0].id in outcome.unusable[0]


def test_a_replay_folder_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="'line' reads no replay folder"):
        run_job(job(tmp_path, replay=tmp_path), threads=1, report=lambda _: None)


def test_a_workload_without_a_trainer_trains_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Line, "trainer", Workload.trainer)
    with pytest.raises(UntrainableError, match="workload 'line' has no trainer"):
        run_job(job(tmp_path), threads=1, report=lambda _: None)


async def test_the_retrainer_of_a_line_makes_a_candidate(tmp_path, monkeypatch):
    async def run_here(spec, *, on_event):
        spec.folder.mkdir(parents=True)
        return await asyncio.to_thread(run_job, spec, threads=1, report=lambda _: None)

    monkeypatch.setattr(job_runner, "run_process", run_here)
    settings = RetrainerSettings(
        workload="line",
        bundle=bundle(tmp_path / "base").path,
        new_domain="everything",
        trigger={"min_samples": 30},
        train={"scope": "all", "steps": 150, "learning_rate": 0.05, "threads": 1},
        gate={"require_old": False, "min_items": 8},
        tick_s=0.05,
    )
    async with ServiceHarness(Retrainer, settings, node="gpu", data_dir=tmp_path / "data") as h:
        for sample in samples(tmp_path / "s", 60, slope=3.0):
            await h.publish(
                Line.samples.at(h.node("pi-01", "collector")),
                LineSample.decode(sample.path.read_bytes()),
            )
        result = (await h.expect(topics.TRAINING_RESULT, timeout=60)).payload
        assert result.outcome == "accepted", result.reason
        candidate = (await h.expect(topics.CANDIDATE)).payload
        assert candidate.bundle.model == result.candidate
        assert candidate.gate.domains[0].gain > 0


def test_options_that_a_workload_does_not_have_are_refused(tmp_path):
    with pytest.raises(ValidationError, match="options of workload line: labels"):
        RetrainerSettings(workload="line", model="line", options={"labels": {}})
    with pytest.raises(ValidationError, match="no workload 'circle'"):
        RetrainerSettings(workload="circle", model="line")
