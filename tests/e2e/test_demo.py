"""The demo, once, with every service and the broker killed on the way (kill -9).

One run costs minutes, so all tests here look at the same one.
"""

from __future__ import annotations

import csv
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import psutil
import pytest

from edgebus.contracts import Message
from edgebus.contracts.registry import topic_of
from edgebus_detection.lab.summary import DetectionSummary
from edgebus_detection.messages import CAMERA_FRAME, Frame, JpegPayload

pytestmark = pytest.mark.timeout(1200)

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 1000.0


@dataclass
class Demo:
    """One run of `edgebus up`, and what a stranger saw on its broker."""

    folder: Path = Path()
    code: int | None = None
    lines: list[str] = field(default_factory=list)
    killed: dict[str, int] = field(default_factory=dict)
    heard: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def summary(self) -> DetectionSummary:
        return DetectionSummary.model_validate_json((self.folder / "summary.json").read_text())

    def kill(self, name: str) -> None:
        """Kill the process that the supervisor started last under this name."""
        if name == "broker":
            pids = running("nats-server", str(self.folder / "broker" / "broker.conf"))
        else:
            log = (self.folder / "logs" / "supervisor.log").read_text()
            pids = [int(pid) for pid in re.findall(rf"started {name} pid (\d+)", log)[-1:]]
        assert len(pids) == 1, (name, pids)
        os.kill(pids[0], signal.SIGKILL)
        self.killed[name] = pids[0]


def running(*words: str) -> list[int]:
    """Processes whose command line holds all of these words."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if all(word in " ".join(process.info["cmdline"] or ()) for word in words)
    ]


class Subscriber:
    """`mosquitto_sub`, which knows nothing of EdgeBus."""

    def __init__(self, demo: Demo, port: str) -> None:
        self._demo = demo
        self._process = subprocess.Popen(
            [
                "mosquitto_sub",
                "-h",
                "127.0.0.1",
                "-p",
                port,
                "-V",
                "mqttv311",
                "-t",
                "#",
                "-F",
                "%t %x",
                "-W",
                "12",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            topic, _, payload = line.rstrip("\n").partition(" ")
            self._demo.heard.append((topic, bytes.fromhex(payload)))

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._thread.join()


@dataclass
class Step:
    """When a line of the run matches, do something a little later."""

    pattern: str
    delay_s: float
    target: str


# Each service and the broker, at a moment at which it matters to it.
STEPS = [
    Step(r"edge-2/south: .*AP50", 0.0, "broker"),
    Step(r"edge-2/south: .*AP50", 8.0, "edge-1/detector"),
    Step(r"edge-2/south: .*AP50", 10.0, "cloud/telemetry"),
    Step(r"dusk begins", 6.0, "edge-2/camera"),
    Step(r"dusk begins", 12.0, "edge-1/collector"),
    Step(r"training: training", 5.0, "cloud/retrainer"),
    Step(r"street version 2 to channel", 0.0, "cloud/distributor"),
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    if shutil.which("mosquitto_sub") is None:
        pytest.fail("mosquitto_sub is not installed: apt-get install mosquitto-clients")
    out = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-m", "edgebus.cli", "up", "--out", str(out), "--plain"]
    command += ["--set", "until.timeout_s=900"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        cwd=out,
    )
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line.rstrip("\n"))
        lines.put(None)

    reader = threading.Thread(target=read)
    reader.start()
    found = Demo()
    try:
        _drive(found, lines)
        found.code = process.wait(60)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        reader.join()
    return found


def _drive(demo: Demo, lines: queue.Queue[str | None]) -> None:
    """Follow the run, listen from outside twice, and kill as planned."""
    due: list[tuple[float, str]] = []
    open_steps = list(STEPS)
    subscribers: list[Subscriber] = []
    port = ""
    deadline = time.monotonic() + LIMIT_S
    try:
        while time.monotonic() < deadline:
            try:
                line = lines.get(timeout=0.2)
            except queue.Empty:
                line = ""
            if line is None:
                return
            if line:
                demo.lines.append(line)
            if match := re.match(r"run folder (.*)", line):
                demo.folder = Path(match[1])
            if match := re.match(r"broker mqtt://.*:(\d+)", line):
                port = match[1]
            # By day while all is well, and when the new version serves.
            first = "version 1 serves" in line and not subscribers
            if first or ("version 2 serves on" in line and len(subscribers) == 1):
                subscribers.append(Subscriber(demo, port))
            for step in list(open_steps):
                if re.search(step.pattern, line):
                    due.append((time.monotonic() + step.delay_s, step.target))
                    open_steps.remove(step)
            for when, target in sorted(due):
                if time.monotonic() >= when:
                    demo.kill(target)
                    due.remove((when, target))
        pytest.fail("the demo does not end:\n" + "\n".join(demo.lines[-40:]))
    finally:
        for subscriber in subscribers:
            subscriber.close()


def test_the_loop_closes_although_everything_was_killed_once(demo: Demo) -> None:
    said = "\n".join(demo.lines[-60:])
    assert set(demo.killed) == {step.target for step in STEPS}, said
    assert demo.code == 0, said
    summary = demo.summary
    assert summary.closed
    assert summary.edges.total == summary.edges.converged == 2
    assert {edge.version for edge in summary.nodes} == {2}
    # Each killed service came back as a new process.
    assert summary.restarts >= len(STEPS) - 1


def test_accuracy_comes_back(demo: Demo) -> None:
    # Undisturbed, about .95 and .85; with everything killed, samples and minutes differ.
    for figures, least in ((demo.summary.map50, 0.8), (demo.summary.map, 0.7)):
        assert figures.before_drift is not None
        assert figures.after_drift is not None
        assert figures.before_drift - figures.after_drift > 0.3
        assert figures.recovered is not None
        assert figures.recovered >= least


def test_no_frame_fails_and_none_is_torn(demo: Demo) -> None:
    frames = demo.summary.frames
    assert (frames.failed, frames.torn) == (0, 0)
    # Those that nobody could answer are few: seconds of restarts in minutes of run.
    assert frames.answered > 0.85 * frames.total
    assert demo.summary.dead_letters == 0


def test_the_summary_fits_its_published_schema(demo: Demo) -> None:
    published = json.loads((ROOT / "schemas" / "summary.json").read_text())
    assert published == json.loads(json.dumps(DetectionSummary.json_schema()))
    tree = json.loads((demo.folder / "summary.json").read_text())
    jsonschema.validate(tree, published)
    assert tree["bytes"]["up"] > 0
    assert 0 < tree["bytes"]["down"] < 3 * tree["model"]["bundle_bytes"]


def test_a_stranger_reads_everything_with_the_published_schemas(demo: Demo) -> None:
    seen: set[str] = set()
    for topic, payload in demo.heard:
        known = topic_of(topic)
        assert known is not None, f"undocumented topic {topic}"
        if not payload or not issubclass(known.payload, Message):
            continue
        tree = json.loads(payload)
        name = tree["schema"].replace("/", "-")
        schema = json.loads((ROOT / "schemas" / f"{name}.json").read_text())
        jsonschema.validate(tree, schema)
        seen.add(tree["schema"])
    assert {"detections/1", "truth/1", "state/1", "metrics/1", "modelstatus/1"} <= seen
    assert {"release/1", "rollout/1", "training/1", "candidate/1", "store/1"} <= seen


def test_frames_open_in_any_image_viewer(demo: Demo) -> None:
    frames = [payload for topic, payload in demo.heard if CAMERA_FRAME.parse(topic) is not None]
    assert len(frames) > 50
    for jpeg in frames[::10]:
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        assert image.shape == (240, 320, 3)
        frame: JpegPayload[object] = Frame.decode(jpeg)  # type: ignore[assignment]
        assert frame.jpeg == jpeg


def test_both_nodes_lie_on_one_clock_and_in_order(demo: Demo) -> None:
    with (demo.folder / "csv" / "detections.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    times: dict[str, list[datetime]] = {"edge-1": [], "edge-2": []}
    for row in rows:
        stamps = [row[name] for name in ("captured", "sent", "received", "detected", "heard")]
        assert all(stamp.endswith("Z") for stamp in stamps)
        assert stamps == sorted(stamps), row
        times[row["node"]].append(datetime.fromisoformat(row["captured"]))
    assert min(map(len, times.values())) > 500
    # Frame for frame, the two nodes are at most one frame apart: both began at the same moment.
    first, second = times.values()
    near = [min(abs((a - b).total_seconds()) for b in second[-400:]) for a in first[-200:]]
    assert sorted(near)[len(near) // 2] < 0.125


def test_the_report_opens_in_a_browser_without_a_network(demo: Demo, tmp_path: Path) -> None:
    picture = tmp_path / "report.png"
    browser = [
        *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}"),
        *("--window-size=1100,1600", f"--screenshot={picture}"),
        (demo.folder / "report.html").absolute().as_uri(),
    ]
    subprocess.run(browser, check=True, capture_output=True, timeout=60)
    shown = cv2.imread(str(picture))
    assert shown is not None
    # Plots and pictures of the street are there: a page of text alone has next to no colour.
    spread = shown.max(axis=2).astype(int) - shown.min(axis=2)
    assert (spread > 40).mean() > 0.03


def test_the_report_stands_alone(demo: Demo) -> None:
    page = (demo.folder / "report.html").read_text()
    assert "the loop closed" in page
    # Before and after of two cameras, and what the new model still gets wrong.
    assert page.count("data:image/jpeg;base64,") > 6
    # Accuracy, signals, precision, confusions and rounds, each for a screen and for a phone.
    assert page.count("data:image/png;base64,") == 2 * 5
    assert page.count("data:image/svg+xml;base64,") >= 1  # the loss of each job that was accepted
    assert not re.search(r"""src(set)?=["'](?!data:)""", page)
    # Links lead to files of the run, which the page does not need: the model cards.
    links = re.findall(r"""href=["'](.+?)["']""", page)
    assert links
    assert all((demo.folder / link).is_file() for link in links)
    assert "<script" not in page


def test_the_dusk_is_noticed_by_the_drift_detector(demo: Demo) -> None:
    noticed = {drift.stream: drift for drift in demo.summary.drifts if not drift.returned}
    assert set(noticed) == {"edge-1/north", "edge-2/south"}
    for drift in noticed.values():
        late = (drift.noticed - demo.summary.started).total_seconds()
        assert late > 30
        assert drift.after < drift.before
    history = (demo.folder / "events.csv").read_text()
    page = (demo.folder / "report.html").read_text()
    assert history.count("drift noticed") == page.count("drift noticed: ")


def test_before_and_after_are_one_frame(demo: Demo) -> None:
    for camera in ("edge-1-north", "edge-2-south"):
        old, new = (
            cv2.imread(str(demo.folder / "pictures" / f"{camera}-{phase}.jpg"))
            for phase in ("after-drift", "after-loop")
        )
        assert old is not None
        assert new is not None
        # All but the boxes and their labels.
        assert (abs(old.astype(int) - new).max(axis=2) < 40).mean() > 0.85


def test_nothing_is_left_running(demo: Demo) -> None:
    assert running(str(demo.folder)) == []
