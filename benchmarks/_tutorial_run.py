"""The tutorial's stories: what the cameras show, `edgebus up` on it, and what an operator says."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.real_video import read_labels

__all__ = ["ACCEPT", "STORIES", "Missed", "Story", "play"]

ACCEPT = 0.4
"""Boxes of the third model with a lower score are neither right nor wrong."""
_MODEL = "yolox_nano_416.onnx"
_TEACHER = "yolov8s_640_f16w.onnx"
_REPLAY = "datasets/coco128/images/train2017"
_SECOND = 720
"""First frame number of the car park: the room's 697 frames, to the next multiple of 80."""
_PERIOD = 240
"""Numbers of one pass of its 230 frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """An object that an operator sees and the model does not.

    Attributes:
        part: The line of the list.
        label: What it is.
        frames: Frames of the file that show it, one of which is told of.
    """

    part: str
    label: str
    frames: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A camera whose view changes.

    Attributes:
        name: Of the camera, and of its list.
        lines: Of the list: name and how often it is played.
        second: The first frame number of the changed view.
        links: Where the names of the lines lie in the test data.
        classes: What the camera is there for.
        options: Of `edgebus up`, beside the common ones.
        missed: What an operator tells while it runs.
    """

    name: str
    lines: tuple[tuple[str, int], ...]
    second: int
    links: dict[str, str]
    classes: tuple[str, ...]
    options: tuple[str, ...]
    missed: Missed | None = None


STORIES = {
    "door": Story(
        name="door",
        lines=(("room.mp4", 1), ("car-park.mp4", 60)),
        second=_SECOND,
        links={
            "room.mp4": "videos/one-by-one-person-detection.mp4",
            "car-park.mp4": "videos/person-bicycle-car-detection.mp4",
        },
        classes=("person", "bicycle", "car"),
        options=(
            *("--fps", "12", "--set", "edge-1.camera.cameras.door.stride=2"),
            *("--set", "until.after_inputs=240"),
        ),
        missed=Missed(part="car-park.mp4", label="bicycle", frames=(138, 144, 150)),
    ),
    "street": Story(
        name="street",
        lines=(("visible", 6), ("infrared", 150)),
        # Each pass of the 44 pictures begins at a multiple of 80.
        second=6 * 80,
        links={
            "visible": "datasets/llvip-night/images/visible",
            "infrared": "datasets/llvip-night/images/infrared",
        },
        classes=("person",),
        options=(
            *("--samples", "40", "--fps", "6", "--set", "until.after_inputs=176"),
            *("--set", "edge-1.camera.cameras.street.width=640"),
            # 40 held-out pictures are too few to be sure of a gain of some points.
            *("--set", "retrainer.gate.require_significant_gain=false"),
        ),
    ),
}


def write_list(story: Story, folder: Path, *, data: Path) -> Path:
    """The list that the camera plays, beside links to the recordings."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in story.links.items():
        if not (folder / name).exists():
            (folder / name).symlink_to(data / target)
    path = folder / f"{story.name}.txt"
    path.write_text("".join(f"{name}\n" * times for name, times in story.lines))
    return path


def play(story: Story, folder: Path, *, data: Path, timeout_s: float, port: int) -> None:
    """`edgebus up` as a user types it, recorded; and what an operator says."""
    source = write_list(story, folder, data=data)
    command = [sys.executable, "-m", "edgebus.cli", "up", "--plain", "--out", str(folder / "runs")]
    command += ["--source", str(source), "--model", str(data / "models" / _MODEL)]
    command += ["--teacher", str(data / "models" / _TEACHER), "--replay", str(data / _REPLAY)]
    command += ["--classes", ",".join(story.classes), *story.options]
    command += ["--set", f"until.timeout_s={timeout_s}", "--set", f"broker.port={port}"]
    record = [sys.executable, "-m", "edgebus.cli", "record", str(folder / "bus.mcap"), "--force"]
    record += ["--broker", f"mqtt://127.0.0.1:{port}"]
    record += ["-x", "edgebus/+/+/camera/+/frame", "-x", "edgebus/+/+/+/blocks/#"]
    record += ["-x", "edgebus/+/+/collector/samples/#"]
    output = folder / "output.txt"
    print(" ".join(command), flush=True)
    with output.open("w") as file, (folder / "record.txt").open("w") as log:
        processes = [subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)]
        up = processes[0]
        try:
            _wait_for(output, "ready", up)
            processes.append(subprocess.Popen(record, stdout=log, stderr=subprocess.STDOUT))
            if story.missed is not None:
                _tell(story.missed, story, folder, data=data, port=port)
            up.wait()
        finally:
            for process in processes:
                if process.poll() is None:
                    process.send_signal(signal.SIGINT)
                    process.wait(30)


def _wait_for(output: Path, words: str, up: subprocess.Popen[bytes]) -> None:
    while up.poll() is None and words not in output.read_text():
        time.sleep(0.2)


def _tell(missed: Missed, story: Story, folder: Path, *, data: Path, port: int) -> None:
    """Say on the bus that an object was missed, and draw its box with `edgebus samples label`.

    The box is the third model's: it stands for a person's eyes.
    """
    detection = _detection_of(missed, story, port=port)
    if detection is None:
        print("the operator saw nothing: the run had ended", flush=True)
        return
    said = {"camera": story.name, "frame": detection["frame"], "verdict": "missed"}
    said["label"] = missed.label
    where = ["-p", str(port), "-q", "1", "-t", "edgebus/lab/phone/operator/feedback"]
    subprocess.run(["mosquitto_pub", *where, "-m", json.dumps(said)], check=True)
    number = _file_frame(detection["index"])
    rows = read_labels((data / story.links[missed.part]).with_suffix(".teacher-yolov8m.txt"))
    boxes = [
        box for label, score, box in rows[number] if label in story.classes and score >= ACCEPT
    ]
    words = [f"{box.label} {box.x1:.0f} {box.y1:.0f} {box.x2:.0f} {box.y2:.0f}" for box in boxes]
    store = ["--data", str(folder / "runs" / "latest" / "data" / "cloud" / "retrainer")]
    samples = [sys.executable, "-m", "edgebus.cli", "samples"]
    for _ in range(30):
        query = [*samples, "list", *store, "--policy", "feedback", "--json"]
        listed = subprocess.run(query, capture_output=True, text=True, check=False).stdout
        if listed.startswith("{"):
            identifier = json.loads(listed.splitlines()[0])["id"]
            label = [*samples, "label", identifier, *" ".join(words).split(), *store]
            told = subprocess.run(
                [*label, "--who", "ann"], capture_output=True, text=True, check=True
            )
            print(f"feedback {said}\nlabel {words}\n{told.stdout}", flush=True)
            return
        time.sleep(0.5)
    raise RuntimeError(f"no sample came of what was said of frame {detection['frame']}")


def _detection_of(missed: Missed, story: Story, *, port: int) -> dict[str, Any] | None:
    """What the model says of one of the frames, as soon as it is said."""
    topic = f"edgebus/lab/+/detector/{story.name}/detections"
    command = ["mosquitto_sub", "-p", str(port), "-t", topic]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        for line in listener.stdout:
            detection: dict[str, Any] = json.loads(line)
            if detection["index"] >= _SECOND and _file_frame(detection["index"]) in missed.frames:
                listener.terminate()
                return detection
    return None


def _file_frame(index: int) -> int:
    """The frame of the car park's file that a frame number means."""
    return (index - _SECOND) % _PERIOD * 2
