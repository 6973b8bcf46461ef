"""The guide to workloads, followed as a reader would: its package installed, its loop closed.

It is the proof that neither the framework nor a service knows what a model is about.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_docs import snippets_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "write-a-workload.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page, its package installed beside them, its commands typed."""
    folder = tmp_path_factory.mktemp("flow")
    for snippet in snippets_of(PAGE):
        if snippet.title:
            (folder / snippet.title).write_text(snippet.text)
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    run(folder, *pip, "--target", "site", ".")
    run(folder, "make_model.py")
    return folder


def run(folder: Path, *arguments: str) -> str:
    path = os.pathsep.join([str(folder / "site"), *(entry for entry in sys.path if entry)])
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(400)
def test_the_loop_of_sixty_lines_closes(folder: Path) -> None:
    run(folder, "-m", "edgebus.cli", "up", "flow.yaml", "--plain", "--out", "runs")
    run_folder = (folder / "runs" / "latest").resolve()
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


def test_its_messages_are_first_class(folder: Path) -> None:
    topics = run(folder, "-m", "edgebus.cli", "topics", "list")
    assert "{base}/{site}/{node}/{service}/{stream}/estimate" in " ".join(topics.split())
    run(folder, "-m", "edgebus.cli", "schema", "export", "schemas")
    schema = json.loads((folder / "schemas" / "reading-1.json").read_text())
    assert "values" in schema["properties"]


def test_the_workload_is_as_short_as_the_page_says() -> None:
    (flow,) = (snippet for snippet in snippets_of(PAGE) if snippet.title == "flow.py")
    assert sum(bool(line.strip()) for line in flow.text.splitlines()) <= 66
