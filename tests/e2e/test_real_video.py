"""`edgebus up` on a real recording: samples, a teacher's labels, a job, the gate's decision.

A few steps do not make a better model; `benchmarks/real_video.py` measures a whole loop.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edgebus_detection.lab.summary import DetectionSummary
from guides import Reader

pytestmark = pytest.mark.timeout(300)

# A first job may come before anything was seen on a held-out frame; the next one knows more.
DECIDED = re.compile(r"cloud/retrainer: job \w+ (accepted|failed|refused: (?!too few))")

DATA = os.environ.get("EDGEBUS_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="EDGEBUS_DATA is not set: no recordings here")


def up(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "edgebus.cli", "up", "--plain", "--out", str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
    )


def lines_until(process: subprocess.Popen[str], found: re.Pattern[str], *, limit_s: float) -> str:
    """Everything printed, up to the first match; then the run is asked to stop and does."""
    assert process.stdout is not None
    late = threading.Timer(limit_s, process.kill)
    late.start()
    lines: list[str] = []
    asked = False
    try:
        for line in process.stdout:
            lines.append(line)
            if not asked and found.search(line):
                asked = True
                process.send_signal(signal.SIGINT)
    finally:
        late.cancel()
    process.wait()
    assert asked, "".join(lines)
    return "".join(lines)


@needs_data
def test_a_recording_is_collected_labelled_learnt_and_judged(
    follow: Callable[[str], Reader],
) -> None:
    data = Path(DATA or "").resolve()
    reader = follow("real-video.md")
    # A camera of this name holds out the bicycle that comes by after 12 seconds.
    video = reader.folder / "car-park-0.mp4"
    video.symlink_to(data / "videos" / "person-bicycle-car-detection.mp4")
    reader.words = {"person-bicycle-car-detection.mp4": video.name}
    models = data / "models"
    (reader.folder / "yolox_nano_416.onnx").symlink_to(models / "yolox_nano_416.onnx")
    (reader.folder / "yolov8s.onnx").symlink_to(models / "yolov8n_640_f16w.onnx")
    (reader.folder / "coco128").symlink_to(data / "datasets" / "coco128")
    settings = {
        "retrainer.trigger.cooldown_samples": 10,
        "retrainer.train.steps": 3,
        "retrainer.train.batch": 4,
        "retrainer.train.threads": 1,
        "retrainer.options.labels.min_boxes": 1,
        "retrainer.gate.min_items": 1,
        "retrainer.options.min_measured_boxes": 1,
    }
    (command,) = reader.commands("edgebus up --source person-bicycle-car-detection.mp4")
    command += " --samples 40"
    command += "".join(f" --set {key}={value}" for key, value in settings.items())
    reader.variables = {**reader.variables, "OMP_NUM_THREADS": "1"}
    output = reader.run_until(command, DECIDED.pattern, within_s=240)

    assert "model yolox_nano_416 v1: yolox head, 416 x 416" in output
    assert "teacher yolov8s v1: yolov8 head, 640 x 640" in output
    run = (reader.folder / "runs" / "latest").resolve()
    summary = DetectionSummary.model_validate_json((run / "summary.json").read_text())
    assert summary.frames.answered > 50
    assert (summary.frames.failed, summary.frames.torn) == (0, 0)
    assert summary.bytes.up > 10_000
    job = summary.judged
    assert job is not None
    assert job.outcome in {"accepted", "refused"}
    assert job.samples >= 40
    assert job.replay > 50
    assert job.gate is not None
    new, old = job.gate.domains
    assert (new.name, new.labelled_by) == ("new", "teacher")
    assert set(new.groups["class"]) <= {"person", "bicycle", "car"}
    assert (old.name, old.labelled_by) == ("old", "train2017")
    assert old.labels > 100
    # Nobody said on the bus what is really there: the table and the report tell of the gate.
    assert "what the streams show now, labels: teacher" in output
    assert "What the gate measured" in (run / "report.html").read_text()


@needs_data
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--source", "nope.mp4"), "--source nope.mp4: no such file or folder"),
        (("--source", "0", "--model", "README.md"), "is no ONNX file, or is cut off"),
        (("--source", "0", "--classes", "persons"), "did you mean person?"),
    ],
)
def test_a_mistake_costs_one_line_and_leaves_no_folder(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    data = Path(DATA or "").resolve()
    (tmp_path / "README.md").write_text("no model")
    model = () if "--model" in arguments else ("--model", str(data / "models/yolox_nano_416.onnx"))
    with up(tmp_path / "runs", *(_here(tmp_path, word) for word in arguments), *model) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode in {1, 2}
    assert words in output
    assert "Traceback" not in output
    assert not (tmp_path / "runs").exists()


def _here(folder: Path, word: str) -> str:
    return str(folder / word) if (folder / word).is_file() else word


@needs_data
def test_a_model_without_a_loss_serves_and_collects(tmp_path: Path) -> None:
    data = Path(DATA or "").resolve()
    process = up(
        tmp_path / "runs",
        *("--source", str(data / "videos" / "person-bicycle-car-detection.mp4")),
        *("--model", str(data / "models" / "fastestdet_352.onnx")),
        *("--teacher", str(data / "models" / "yolov8n_640_f16w.onnx")),
    )
    output = lines_until(process, re.compile(r"fps, .* v1, .*[1-9]\d* samples"), limit_s=120)
    assert "samples are collected all the same: fastestdet_352 cannot be trained" in output
    assert "no loss for fastestdet heads" in output
    run = tmp_path / "runs" / "latest"
    summary = DetectionSummary.model_validate_json((run / "summary.json").read_text())
    assert summary.frames.answered > 0
    assert summary.bytes.up > 0
    store = run / "data" / "cloud" / "retrainer"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "edgebus.cli", "samples", "export", "--include", "all"),
            *("--data", str(store), "--out", str(tmp_path / "export")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "export").rglob("*.jpg"))


@needs_data
def test_a_file_that_is_no_video_ends_the_run_at_once(tmp_path: Path) -> None:
    data = Path(DATA or "").resolve()
    broken = tmp_path / "broken.mp4"
    broken.write_bytes((data / "videos" / "person-bicycle-car-detection.mp4").read_bytes()[:5000])
    with up(
        tmp_path / "runs",
        *("--source", str(broken), "--model", str(data / "models" / "yolox_nano_416.onnx")),
        *("--teacher", str(data / "models" / "yolov8n_640_f16w.onnx")),
    ) as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "edge-1/camera cannot start" in output
    assert "OpenCV cannot decode it as a video (5000 bytes)" in output
    assert "Traceback" not in output
