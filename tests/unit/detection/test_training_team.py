"""Several processes that train together come to what one would."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

import training_together
from edgebus.training.finetune import DeviceError, Team, join_team
from edgebus.training.job_process import JobCrashedError, run_process
from edgebus.training.job_spec import Phase, StepDone
from edgebus.training.learning import CHECKPOINT
from retrainer_jobs import TRAIN, job, make_world
from training_together import run

SCRIPT = Path(training_together.__file__)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def test_two_processes_come_to_what_one_does(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    run(tmp_path / "one")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    subprocess.run(
        [sys.executable, *command, str(SCRIPT), str(tmp_path / "two")],
        check=True,
        timeout=110,
        env=environment,
    )
    one, first, second = (
        json.loads((tmp_path / name).read_text())
        for name in ("one/rank-0.json", "two/rank-0.json", "two/rank-1.json")
    )
    assert first == second  # they agree to the bit; the order of sums is what is not one's
    assert first["checkpoint"]
    np.testing.assert_allclose(first["losses"], one["losses"], rtol=1e-4)
    np.testing.assert_allclose(first["validation"], one["validation"], rtol=1e-4)
    for name, value in one["update"].items():
        np.testing.assert_allclose(first["update"][name], value, rtol=1e-3, atol=1e-5)


async def test_a_job_on_two_devices_that_is_killed_goes_on_and_leaves_no_process(world, tmp_path):
    settings = TRAIN.model_copy(update={"steps": 60, "checkpoint_steps": 10, "devices": 2})
    spec = job(world, tmp_path / "job", settings=settings)
    steps, details = [], []

    def workers():
        found = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
                if str(spec.folder / "spec.json") in process.cmdline():
                    found.append(process)
        return found

    async def on_event(event):
        if isinstance(event, Phase) and event.phase == "training":
            details.append(event.detail)
        if isinstance(event, StepDone) and event.loss is not None:
            steps.append(event.step)
            if len(steps) == 25:
                # torchrun, and what it started: the second of these dies.
                assert len(workers()) == 3
                victim = next(p for p in workers() if p.environ().get("RANK") == "1")
                os.kill(victim.pid, signal.SIGKILL)

    with pytest.raises(JobCrashedError):
        await run_process(spec, on_event=on_event)
    assert (spec.folder / CHECKPOINT).is_file()
    before = len(steps)
    assert 25 <= before < 60
    outcome = await run_process(spec, on_event=on_event)
    assert outcome.outcome in ("accepted", "refused"), outcome.reason
    assert any("2 x cpu" in detail for detail in details)
    assert steps[-1] == 60
    assert steps[before] in range(11, before + 2)  # it went on from a checkpoint
    _gone, alive = psutil.wait_procs(workers(), timeout=30)
    assert not alive


def test_shares_are_a_batch_together():
    shares = [Team(device=torch.device("cpu"), rank=r, size=3).share(range(8)) for r in range(3)]
    assert [len(share) for share in shares] == [3, 3, 2]
    assert sorted(row for share in shares for row in share) == list(range(8))


def test_a_batch_that_is_too_small_to_share_is_refused():
    with pytest.raises(DeviceError, match=r"a batch of 2 .* 3 devices; raise train\.batch"):
        Team(device=torch.device("cpu"), size=3).share(range(2))


@pytest.mark.parametrize(
    ("device", "words"),
    [("cuda", r"4 devices .* this host has 1; lower"), ("cuda:1", r"all given cuda:1; set")],
)
def test_devices_that_are_not_there_are_named(monkeypatch, device, words):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DeviceError, match=words), join_team(device):
        pass
