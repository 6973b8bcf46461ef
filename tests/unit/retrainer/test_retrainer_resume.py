"""A job that is killed in mid-training ends as if nothing had been."""

import os
import signal

import psutil
import pytest

from edgebus.artifacts import Bundle
from edgebus.training.job import run_job
from edgebus.training.job_process import JobCrashedError, run_process
from edgebus.training.job_spec import StepDone
from edgebus.training.learning import CHECKPOINT
from retrainer_jobs import GATE, TRAIN, job, make_world

LONG = TRAIN.model_copy(update={"steps": 300, "checkpoint_steps": 20})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


async def attempt(spec, *, kill_at=None):
    """A real job process; returns its outcome and the steps that were told of."""
    steps = []

    async def on_event(event):
        if isinstance(event, StepDone) and event.loss is not None:
            steps.append((event.step, event.loss))
            if event.step == kill_at:
                (worker,) = [
                    child
                    for child in psutil.Process().children()
                    if str(spec.folder / "spec.json") in child.cmdline()
                ]
                os.kill(worker.pid, signal.SIGKILL)

    try:
        return await run_process(spec, on_event=on_event), steps
    except JobCrashedError:
        return None, steps


def weights(outcome):
    return Bundle.open(outcome.bundle).index.file("weights.safetensors").digest


async def test_a_job_that_is_killed_in_mid_training_ends_as_if_nothing_had_been(world, tmp_path):
    whole, steps = await attempt(job(world, tmp_path / "whole", settings=LONG))
    assert whole.outcome == "accepted", whole.reason
    assert [step for step, _ in steps] == list(range(1, 301))

    spec = job(world, tmp_path / "killed", settings=LONG)
    nothing, first = await attempt(spec, kill_at=60)
    assert nothing is None
    assert 60 <= first[-1][0] < 300
    assert (spec.folder / CHECKPOINT).is_file()
    outcome, second = await attempt(spec)
    assert 20 < second[0][0] <= first[-1][0] + 1
    assert outcome.outcome == "accepted"
    assert weights(outcome) == weights(whole)
    assert dict(second) == {step: loss for step, loss in steps if step >= second[0][0]}
    assert outcome.gate.domains == whole.gate.domains
    assert outcome.unusable == ()


def test_a_damaged_checkpoint_is_said_and_the_job_starts_over(world, tmp_path):
    few = TRAIN.model_copy(update={"steps": 60, "checkpoint_steps": 20})
    loose = GATE.model_copy(update={"tolerance": 1.0})
    whole = run_job(
        job(world, tmp_path / "a", settings=few, gate=loose), threads=1, report=lambda _: None
    )
    spec = job(world, tmp_path / "b", settings=few, gate=loose)
    spec.folder.mkdir()
    (spec.folder / CHECKPOINT).write_bytes(b"\x08\0\0\0\0\0\0\0{broken}")
    outcome = run_job(spec, threads=1, report=lambda _: None)
    (text,) = outcome.unusable
    assert "checkpoint.safetensors is damaged" in text
    assert "training starts over" in text
    assert weights(outcome) == weights(whole)
