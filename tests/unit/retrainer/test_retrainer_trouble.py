"""Bad input to a job: refused, left out or stopped with a reason; the incumbent stays."""

import json
import subprocess
import sys

import cv2
import numpy as np
import psutil
import pytest

from edgebus.artifacts import Bundle
from edgebus.training.job import run_job
from edgebus.training.job_spec import JobOutcome, read_event
from edgebus.training.learning import CHECKPOINT
from edgebus_detection.messages import Box
from retrainer_jobs import TRAIN, files, job, make_world
from retrainer_samples import DUSK, sample, write_day


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def run(spec):
    return run_job(spec, threads=1, report=lambda _: None)


_LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
command = [sys.executable, "-m", "edgebus.training.worker", sys.argv[2]]
os.execv(sys.executable, command)
"""


def work(spec, *, largest):
    """A real job process that may write files of so many bytes, as on a disk that is full."""
    spec.folder.mkdir(parents=True, exist_ok=True)
    path = spec.folder / "spec.json"
    path.write_text(spec.model_dump_json())
    with subprocess.Popen(
        [sys.executable, "-c", _LIMITED, str(largest), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={
            "PYTHONPATH": ":".join(p for p in sys.path if p),
            "OMP_NUM_THREADS": "1",
            # Under the limit Python would leave cut .pyc files in the tree, for everybody.
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    ) as process:
        # Its standard input stays open: it ends with its parent.
        lines = process.stdout.read().splitlines()
    return [read_event(line) for line in lines]


def test_a_disk_that_is_full_in_mid_training_is_said_and_the_incumbent_stays(world, tmp_path):
    before = Bundle.open(world / "base").digest
    settings = TRAIN.model_copy(update={"steps": 40, "checkpoint_steps": 10})
    events = work(job(world, tmp_path / "job", settings=settings), largest=2048)
    outcome = events[-1]
    assert isinstance(outcome, JobOutcome)
    assert outcome.outcome == "failed"
    assert "the disk is full: [Errno 27] File too large" in outcome.reason
    assert f"make room where {tmp_path / 'job'} lies" in outcome.reason
    assert not (tmp_path / "job" / CHECKPOINT).exists()
    assert not list((tmp_path / "job").glob("**/*.part"))
    assert Bundle.open(world / "base").digest == before


def test_pictures_that_vanish_during_a_job_are_left_out_and_named(world, tmp_path):
    spec = job(world, tmp_path)
    seen = []

    def report(event):
        # After they were labelled, before they are drawn.
        if getattr(event, "phase", None) == "training" and not seen:
            seen.append(event)
            spec.train[0].path.unlink()
            spec.train[1].path.write_bytes(b"\xff\xd8 torn")

    try:
        outcome = run_job(spec, threads=1, report=report)
    finally:
        dusk = [sample(index, light=DUSK) for index in range(2)]
        for file, each in zip(spec.train, dusk, strict=False):
            file.path.write_bytes(each.jpeg)
    assert outcome.outcome == "accepted"
    assert sorted(outcome.unusable) == sorted(
        f"{file.id} cannot be decoded" for file in spec.train[:2]
    )


def test_boxes_that_cannot_be_and_classes_that_are_not_known_teach_nothing(world, tmp_path):
    folder = tmp_path / "odd"
    write_day(folder, 40)
    path = folder / "annotations.json"
    document = json.loads(path.read_text())
    document["categories"].append({"id": 7, "name": "unicorn"})
    odd = [[-9, -9, 4, 4], [0, 0, 0, 9], [float("nan"), 0, 8, 8], [500, 500, 8, 8], [1, 1, -5, 3]]
    document["annotations"] += [
        {"id": 900 + at, "image_id": 0, "category_id": 0, "bbox": box} for at, box in enumerate(odd)
    ]
    document["annotations"].append(
        {"id": 990, "image_id": 1, "category_id": 7, "bbox": [8, 8, 16, 16]}
    )
    document["annotations"].append(
        {"id": 991, "image_id": 1, "category_id": 55, "bbox": [8, 8, 16, 16]}
    )
    path.write_text(json.dumps(document))
    strange = Box(label="dragon", x1=1, y1=1, x2=30, y2=30)
    dusk = [sample(index, light=DUSK) for index in range(24)]
    dusk[0] = sample(0, light=DUSK, boxes=(*dusk[0].record.truth, strange))
    spec = job(
        world,
        tmp_path / "job",
        train=files(world, dusk),
        replay=folder,
        replay_holdout=world / "day",
    )
    outcome = run(spec)
    assert outcome.outcome == "accepted", outcome.reason
    assert len(outcome.unusable) == 6
    assert all("annotations.json, annotation 9" in text for text in outcome.unusable)
    bundle = Bundle.open(outcome.bundle)
    assert all(np.isfinite(value).all() for value in bundle.tensors().values())


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path):
    # Pictures of 7 MB when decoded: a cache of them would be seen at once.
    from edgebus.training.finetune import alone, finetune
    from edgebus.training.graph import TorchGraph
    from edgebus_detection.training.yolox import LabelledImage
    from training_scenes import SETTINGS, SIDE, Same, network, objective

    def prepare(image):
        small = cv2.resize(image, (SIDE, SIDE))
        return (small.astype(np.float32).transpose(2, 0, 1)[None] - 114) / 64, Same()

    for number in range(4):
        picture = np.full((1200, 1920, 3), 40 * number, np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.jpg"), picture)
    images = [
        LabelledImage(name=str(number), source=tmp_path / f"{number % 4}.jpg")
        for number in range(60)
    ]

    def peak(count, steps):
        seen = []
        finetune(
            TorchGraph(network()),
            objective=objective(prepare=prepare),
            new=images[:count],
            settings=SETTINGS.model_copy(update={"steps": steps, "batch": 4}),
            team=alone("cpu"),
            on_step=lambda _: seen.append(psutil.Process().memory_info().rss),
        )
        return max(seen)

    few = peak(4, 6)
    many = peak(60, 15)  # each picture once: 400 MB if they were kept
    assert many - few < 120e6
