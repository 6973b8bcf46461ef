"""Guides, followed as a reader would: in a fresh environment, to the end that they promise."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import numpy as np
import pytest

from edgebus_detection.vision import encode_jpeg
from guides import ROOT, Reader, snippets_of
from retrainer_folder import DataFolder

pytestmark = pytest.mark.timeout(400)


def test_a_service_is_written_tested_and_counts(
    follow: Callable[[str], Reader], free_port: int
) -> None:
    reader = follow("write-a-service.md")
    reader.words = {"18830": str(free_port)}
    reader.ready = {"street": "broker mqtt", "service": '"ready"'}
    printed = list(reader.follow().values())
    assert "person-counter 1.0.0" in printed[0]
    assert "{camera}/persons" in printed[0]
    assert "1 passed" in printed[1]
    assert "min_score" in (reader.folder / "schemas/settings.json").read_text()
    assert "2 passed" in printed[-1]
    assert "warning" not in printed[-1].lower()
    reader.seen("watch", r"person-counter/front/persons .*camera=front persons=[1-9]")


def test_a_bus_is_recorded_replayed_and_traced(
    follow: Callable[[str], Reader], free_port: int
) -> None:
    reader = follow("record-and-replay.md")

    reader.words = {
        "18840": str(free_port),
        "'.[otel]'": f"'{ROOT}[otel]'",  # the page's other commands need no checkout
        "FRAME": lambda: re.findall(r"\bframe=([0-9a-f-]{36})", reader.screen)[-1],
        "LETTER": lambda: re.findall(r"\b[0-9a-f]{8}\b", reader.type("edgebus deadletter list"))[0],
    }
    reader.ready = {"street": "detector: ready", "traced": '"name": "camera '}
    reader.follow()
    for shown in (
        r"drift.mcap: [1-9]\d+ messages on \d+ channels",
        r"night.mcap: [1-9]\d+ messages",
        r"[1-9]\d+ messages published, .* left out",
        r"\{camera\}/detections +\d+ ",
        r"detections .* boxes by street v1",
        r"lab/pi-01/detector +edgebus/lab/pi-01/camera/front/frame +invalid",
        r"frame.jpg: 10 bytes",
        # None where the replayed one has not come back yet.
        r"[01] dead letters discarded",
        r"nothing since before breaks services",
    ):
        assert re.search(shown, reader.screen), f"{shown} is not in\n{reader.screen}"
    assert (reader.folder / "frame.jpg").read_text() == "no picture"
    reader.seen("traced", '"service.name": "camera"')


def test_samples_are_looked_at_labelled_and_exchanged(follow: Callable[[str], Reader]) -> None:
    reader = follow("samples.md")
    store = DataFolder(reader.folder / "retrainer")
    jpeg = encode_jpeg(np.full((240, 320, 3), 90, np.uint8))
    samples = [
        # The second one is labelled: an import of tasks that nobody touched is refused.
        store.add(index, jpeg=jpeg, size=(320, 240), truth=index == 1, policy=policy)
        for index, policy in enumerate(("confidence", "novelty"))
    ]
    reader.words = {
        "/var/lib/edgebus/retrainer": str(store.path),
        "39f8998": samples[0].record.id[-7:],
    }
    (boxes,) = (snippet for snippet in snippets_of(reader.page) if snippet.language == "json")
    (reader.folder / "boxes.json").write_text(boxes.text)
    for command in reader.commands("edgebus samples"):
        reader.type(command)
    assert samples[0].record.id[-7:] in reader.screen
    for name in ("sample.html", "sheet.jpg", "to-label/tasks.json"):
        assert (reader.folder / name).stat().st_size > 100


def test_a_workload_is_written_and_its_loop_closes(follow: Callable[[str], Reader]) -> None:
    """It is the proof that neither the framework nor a service knows what a model is about."""
    reader = follow("write-a-workload.md")
    printed = list(reader.follow().values())
    run_folder = (reader.folder / "runs" / "latest").resolve()
    summary = json.loads((run_folder / "summary.json").read_text())
    assert summary["closed"], summary["outcome"]
    assert summary["model"]["last_version"] > summary["model"]["first_version"] == 1
    accepted = [job for job in summary["trainings"] if job["outcome"] == "accepted"]
    (domain,) = accepted[-1]["gate"]["domains"]
    error = domain["figures"]["mse"]
    assert error["after"] < 0.7 * error["before"]
    (node,) = summary["nodes"]
    assert (node["edge"], node["converged"]) == ("pump-1/server", True)
    assert (run_folder / "report.html").stat().st_size > 5_000
    # Its messages are first class.
    topics = " ".join(printed[1].split())
    assert "{base}/{site}/{node}/{service}/{stream}/estimate" in topics
    schema = json.loads((reader.folder / "schemas" / "reading-1.json").read_text())
    assert "values" in schema["properties"]


def test_the_workload_is_as_short_as_the_page_says() -> None:
    page = ROOT / "docs" / "guides" / "write-a-workload.md"
    (flow,) = (snippet for snippet in snippets_of(page) if snippet.title == "flow.py")
    assert sum(bool(line.strip()) for line in flow.text.splitlines()) <= 66
