"""What a run waits for, why a job starts, and whose samples wait."""

from __future__ import annotations

import hashlib
import io
from datetime import timedelta

from rich.console import Console

from edgebus.contracts import Metrics, ModelRef, ModelStatus, Release, StoreStatus, TrainingProgress
from edgebus.contracts.models import BundleRef
from edgebus.lab import Lab, check_end
from edgebus.lab.view import RunView, Standstill
from edgebus.topology import Topology
from lab_story import at, born, status

TOPOLOGY = Topology.parse(
    {"nodes": {"edge-1": {"detector": {}}}, "until": {"loop": "closed", "timeout_s": 60}},
    source="test",
)


def store(**facts: object) -> StoreStatus:
    counts = {"samples": 98, "train": 98, "holdout": 0, "bytes": 1000, "untrained": 98}
    waits = {"trigger": "waits for untrained samples: 98 of 150", "needed": 150}
    return StoreStatus.model_validate(
        {"source": "demo/cloud/retrainer", **counts, **waits, **facts}
    )


def watching(**facts: object) -> Lab:
    lab = Lab()
    lab.state.on_model_status("edge-1", "detector", status(0))
    lab.state.on_store(store(**facts))
    return lab


def test_a_wait_says_for_what_since_when_and_until_when() -> None:
    lab = watching(due=at(180))
    waits = check_end(lab.state, TOPOLOGY, elapsed_s=5).waits
    assert "the retrainer waits for untrained samples: 98 of 150" in waits
    assert f"or until {at(180).astimezone():%H:%M:%S}, when any are enough" in waits
    standstill = Standstill()
    first = standstill.text(waits, at(0))
    assert first == waits  # it moved just now
    later = standstill.text(waits, at(77))
    assert later == f"{waits} (since {at(0).astimezone():%H:%M:%S}, 77 s)"
    assert standstill.text("something else", at(78)) == "something else"
    assert standstill.text("", at(200)) == ""


def test_the_view_shows_what_it_waits_for() -> None:
    lab = watching()
    console = Console(width=60, file=io.StringIO())
    view = RunView(
        state=lab.state,
        streams="",
        title="own",
        elapsed=timedelta(seconds=77),
        waits="98 of 150 samples (since 10:00:00, 77 s)",
    )
    console.print(view)
    assert isinstance(console.file, io.StringIO)
    assert "waits     98 of 150 samples (since 10:00:00, 77 s)" in console.file.getvalue()


def test_a_job_says_why_it_started() -> None:
    lab = watching()
    lab.state.on_progress(
        TrainingProgress(
            source="demo/cloud/retrainer",
            job="job-1",
            model=ModelRef(name="street", version=1, digest="1" * 64),
            why="98 untrained samples 180 s after the last job; any are enough after 180 s",
            phase="preparing",
            step=0,
            steps=0,
            seconds=0,
        )
    )
    last = lab.state.events[-1]
    assert last.text == (
        "job job-1 starts from version 1: 98 untrained samples 180 s after the last job; any are "
        "enough after 180 s"
    )


def test_samples_that_nobody_takes_are_counted_where_they_wait() -> None:
    lab = Lab()
    lab.state.on_model_status("edge-1", "detector", status(0))
    lab.state.on_state("edge-1", "collector", born(0))
    figures = {"source": "demo/edge-1/collector", "session": 1, "uptime_s": 5.0}
    lab.state.on_metrics(Metrics.model_validate({**figures, "gauges": {"spool.samples": 83}}))
    waits = check_end(lab.state, TOPOLOGY, elapsed_s=5).waits
    assert waits == "0 samples collected, 83 more wait on the edges; no retrainer has reported yet"
    lab.state.on_metrics(Metrics.model_validate({**figures, "gauges": {"spool.samples": 0}}))
    assert lab.state.collected == "0 samples collected"


def test_each_edge_counts_against_the_release_of_its_own_model() -> None:
    """Two models: the distributor counts their releases apart, and the numbers are the same."""
    lab = Lab()
    refs = {
        (name, version): ModelRef(
            name=name,
            version=version,
            digest=hashlib.sha256(f"{name}{version}".encode()).hexdigest(),
        )
        for name in ("car", "cat")
        for version in (5, 6)
    }
    edges = {"edge-1": "car", "edge-2": "car", "edge-3": "cat"}
    for node, name in edges.items():
        lab.state.on_model_status(node, "detector", serves(node, refs[name, 5], 0))

    def release(name: str, version: int, sequence: int, seconds: float) -> None:
        bundle = BundleRef(
            model=refs[name, version], provider="demo/cloud/distributor", index_size=1, size=1
        )
        lab.state.on_release(
            Release(
                time=at(seconds),
                source="demo/cloud/distributor",
                channel="stable",
                bundle=bundle,
                sequence=sequence,
            )
        )

    release("car", 5, 1, 1)
    release("cat", 5, 1, 2)
    assert lab.state.later_version is None
    assert all(lab.state.converged(edge) for edge in lab.state.edges.values())
    release("car", 6, 2, 10)
    assert lab.state.later_version == 6
    done = {name: lab.state.converged(edge) for name, edge in lab.state.edges.items()}
    assert done == {"edge-1/detector": False, "edge-2/detector": False, "edge-3/detector": True}
    for node in ("edge-1", "edge-2"):
        lab.state.on_model_status(node, "detector", serves(node, refs["car", 6], 12))
    assert all(lab.state.converged(edge) for edge in lab.state.edges.values())


def serves(node: str, model: ModelRef, seconds: float) -> ModelStatus:
    return ModelStatus(
        time=at(seconds),
        source=f"demo/{node}/detector",
        model=model.name,
        serving=model,
        since=at(seconds),
        state="idle",
    )
