"""What `edgebus up` shows of a workload that brings no view of its own."""

from __future__ import annotations

import asyncio
import io
from datetime import timedelta
from pathlib import Path

import pytest
from rich.console import Console

import lab_story
from edgebus.bus import Bus
from edgebus.bus.memory import MemoryBroker, MemoryTransport
from edgebus.contracts import (
    BundleRef,
    Change,
    DomainReport,
    Drift,
    GateReport,
    Identity,
    Metrics,
    ModelRef,
    ModelStatus,
    Release,
    SampleRecord,
    ServiceState,
    TrainingResult,
    topics,
)
from edgebus.lab import Lab, check_end, load_lab
from edgebus.lab.cli import load_topology, make_command
from edgebus.lab.view import RunView
from edgebus.topology import Topology, TopologyError
from edgebus.workload import Workload, WorkloadUnknownError, load_workload
from edgebus_detection.messages import CAMERA_FRAME, DETECTIONS, SAMPLES, Frame, Sample
from lab_story import at, picture

OLD = ModelRef(name="load", version=1, digest="1" * 64, engine="test")
NEW = ModelRef(name="load", version=2, digest="2" * 64, engine="test")
TOPOLOGY = Topology.parse(
    {"nodes": {"home": {"server": {}}}, "until": {"loop": "closed", "timeout_s": 60}},
    source="test",
)


def serves(model: ModelRef, seconds: float, state: str = "idle") -> ModelStatus:
    return ModelStatus(
        time=at(seconds),
        source="demo/home/server",
        serving=model,
        since=at(seconds),
        state=state,  # type: ignore[arg-type]
        received_bytes=4_000 if model is NEW else 0,
    )


def alive(service: str) -> ServiceState:
    return ServiceState(
        time=at(0),
        source=f"demo/home/{service}",
        state="ready",
        session=1,
        instance="a",
        since=at(0),
        version="0",
    )


def sample(index: int) -> SampleRecord:
    return SampleRecord(
        time=at(5),
        source="demo/home/collector",
        stream="meter",
        input=f"i{index}",
        index=index,
        captured=at(4),
        split="train",
        policy="error",
        reason="far off",
        score=1.0,
        model=OLD,
    )


def learn(lab: Lab) -> None:
    """A sample, a job, a release; the edge does not serve it yet."""
    state = lab.state
    first = sample(1)
    for record in (first, sample(2), first):
        state.on_sample("home", record, size=100)
    domain = DomainReport(
        name="new",
        labelled_by="truth",
        items=30,
        labels=30,
        deciding="error",
        figures={"bias": Change(before=0.5, after=0.1), "error": Change(before=0.9, after=0.4)},
        groups={"season": {"winter": Change(before=0.95, after=0.3)}},
        lower_is_better=("error", "bias"),
    )
    state.on_result(
        TrainingResult(
            time=at(20),
            source="demo/cloud/retrainer",
            job="job-1",
            model=OLD,
            candidate=NEW,
            outcome="accepted",
            reason="error .9 to .4",
            trigger="count",
            samples=2,
            replay=0,
            gate=GateReport(passed=True, domains=(domain,)),
            started=at(10),
        )
    )
    bundle = BundleRef(
        model=NEW, provider="demo/cloud/distributor", index_size=1, size=1, parent=OLD.digest
    )
    state.on_release(
        Release(
            time=at(21),
            source="demo/cloud/distributor",
            channel="stable",
            bundle=bundle,
            sequence=2,
        )
    )


def text_of(lab: Lab, seconds: float) -> str:
    console = Console(width=80, file=io.StringIO())
    streams = lab.draw_streams(at(seconds))
    elapsed = timedelta(seconds=seconds)
    console.print(RunView(state=lab.state, streams=streams, title="own", elapsed=elapsed))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_loop_closes_without_a_line_of_the_workload(tmp_path: Path) -> None:
    lab = Lab()
    end = check_end(lab.state, TOPOLOGY, elapsed_s=0)
    assert (end.over, end.outcome) == (False, "waiting for a service that reports its model")
    assert "waiting for the first service" in text_of(lab, 0)
    lab.state.on_model_status("home", "server", serves(OLD, 1))
    end = check_end(lab.state, TOPOLOGY, elapsed_s=1)
    assert end.outcome == "0 collected"
    lab.state.on_state("home", "collector", alive("collector"))
    learn(lab)
    end = check_end(lab.state, TOPOLOGY, elapsed_s=21)
    assert end.outcome == "version 2 is released, but home/server is idle"
    lab.state.on_model_status("home", "server", serves(NEW, 22, "updated"))
    end = check_end(lab.state, TOPOLOGY, elapsed_s=22)
    assert (end.over, end.closed) == (True, True)

    view = text_of(lab, 30)
    assert "✓ converge" in view
    assert "load v2" in view
    assert any(line.split() == ["home/collector", "ready"] for line in view.splitlines())
    assert list(lab.list_streams(at(30))) == ["home/server: load v2, updated"]

    lab.finish(name="own", started=at(0), finished=at(30), closed=True, outcome=end.outcome)
    assert lab.summary.model is not None
    assert (lab.summary.model.first_version, lab.summary.model.last_version) == (1, 2)
    assert lab.summary.bytes.up == 300
    assert lab.summary.seconds.stages == pytest.approx(
        {"training": 10, "releasing": 1, "delivering": 1, "measuring": 8}
    )
    report, *files = lab.write(tmp_path)
    assert {file.name for file in files} >= {"summary.json", "events.csv", "rounds.csv"}
    html = report.read_text()
    assert "error .9 to .4" in html
    assert "0.900 &rarr; 0.400" in html
    assert "winter" in html
    assert "mAP50" not in html
    console = Console(width=110, file=io.StringIO())
    console.print(lab.table())
    assert isinstance(console.file, io.StringIO)
    table = console.file.getvalue()
    assert "1 of 1 on the last release" in table
    assert "what the streams show now, labels: truth" in table
    assert "winter" in table


def test_drift_that_a_collector_notices_begins_the_loop(tmp_path: Path) -> None:
    lab = Lab()
    drift = Drift(
        time=at(8),
        source="demo/home/collector",
        stream="meter",
        statistic="load",
        method="adwin",
        before=1.0,
        after=2.5,
        count=30,
        input="i9",
        index=9,
        since=at(6),
        model=OLD,
    )
    assert " drift  " not in text_of(lab, 7)  # nobody watches
    lab.state.on_drift(drift)
    assert "1 noticed: home/meter load 1 to 2.5 (v1)" in text_of(lab, 8)
    lab.state.on_drift(drift.model_copy(update={"returned": True, "since": at(20)}))
    assert lab.state.drift_at == at(6)
    told = [
        ("home/meter", "drift noticed: load from 1 to 2.5, since 2 s"),
        ("home/meter", "drift is over: load from 1 to 2.5, since 0 s"),
    ]
    assert [(event.source, event.text) for event in lab.state.events] == told
    view = text_of(lab, 9)
    assert "● drift" in view
    assert "1 noticed, over" in view
    # What was told on the bus is in the view, the table, the history, the figures and the report.
    lab.finish(name="own", started=at(0), finished=at(30), closed=False, outcome="stopped")
    report = lab.write(tmp_path)[0].read_text()
    history = (tmp_path / "events.csv").read_text()
    for _, text in told:
        for place in (view, history, report):
            assert text in place
    assert [(drift.stream, drift.returned) for drift in lab.summary.drifts] == [
        ("home/meter", False),
        ("home/meter", True),
    ]
    assert "1 noticed; home/meter: load 1 to 2.5, 2 s after it began" in table_of(lab)
    assert "nobody told when" in report


def test_the_report_holds_the_model_card_and_the_course_of_the_training(tmp_path: Path) -> None:
    lab = Lab()
    learn(lab)
    lab.finish(name="own", started=at(0), finished=at(30), closed=False, outcome="stopped")
    assert "Model card" not in lab.write(tmp_path)[0].read_text()
    card = tmp_path / "data" / "cloud" / "retrainer" / "cards" / "load-v2"
    card.mkdir(parents=True)
    (card / "card.md").write_text("# load v2\n\n<b>accepted</b>, in Zürich\n", encoding="utf-8")
    (card / "curves.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    page = lab.write(tmp_path)[0].read_text(encoding="utf-8")
    assert "Model card of load-v2" in page
    assert "&lt;b&gt;accepted&lt;/b&gt;, in Zürich" in page
    assert 'href="data/cloud/retrainer/cards/load-v2/card.md"' in page
    assert page.count("data:image/svg+xml;base64,") == 1


def test_where_drift_is_watched_and_none_comes_the_report_says_so(tmp_path: Path) -> None:
    for gauges, words in (({"drift.streams": 0.0}, "none noticed"), ({}, "")):
        lab = Lab()
        lab.state.on_metrics(
            Metrics(time=at(1), source="demo/home/collector", session=1, uptime_s=1, gauges=gauges)
        )
        lab.finish(name="own", started=at(0), finished=at(30), closed=False, outcome="stopped")
        assert lab.summary.drift_watched == bool(words)
        assert ("none noticed" in table_of(lab)) == bool(words)
        assert ("Watched for, and none noticed." in lab.write(tmp_path)[0].read_text()) == bool(
            words
        )


def table_of(lab: Lab) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(lab.table())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


async def test_it_observes_whatever_a_workload_publishes(tmp_path: Path) -> None:
    broker, lab = MemoryBroker(), Lab(load_workload("detection"))
    server = Identity(site="demo", node="home", service="detector")
    collector = Identity(site="demo", node="home", service="collector")
    camera = Identity(site="demo", node="home", service="camera")
    watcher = Identity(site="demo", node="pc", service="observer")
    async with (
        Bus(MemoryTransport(broker), identity=camera) as filming,
        Bus(MemoryTransport(broker), identity=server) as serving,
        Bus(MemoryTransport(broker), identity=collector) as collecting,
        Bus(MemoryTransport(broker), identity=watcher) as watching,
    ):
        await lab.observe(watching, site="demo")
        status = serves(OLD, 1).model_copy(update={"source": server.source})
        await serving.publish(topics.MODEL_STATUS.at(server), status)
        hard = Sample.build(picture("north", 3), lab_story.sample("north", 3, node="home"))
        await collecting.publish(SAMPLES.at(collector), hard)
        frame = Frame.build(picture("north", 3), lab_story.record("north", 3, node="home"))
        await filming.publish(CAMERA_FRAME.at(camera, camera="north"), frame)
        for index, model in ((3, OLD), (4, OLD), (5, NEW)):
            answer = lab_story.answer("north", index, node="home", model=model)
            await serving.publish(DETECTIONS.at(server, camera="north"), answer)
        async with asyncio.timeout(5):
            while not (lab.state.samples and lab.state.streams["home/north"].answered == 3):
                await asyncio.sleep(0.005)
    assert lab.state.edges["home/detector"].now.serving == OLD
    assert lab.state.samples == {"home/north": 1}
    assert lab.state.sample_bytes["home/north"] > 1000
    stream = lab.state.streams["home/north"]
    assert (stream.total, stream.first_version, stream.version) == (1, 1, 2)
    assert stream.answered_later == 1
    assert "waiting for" not in check_end(lab.state, TOPOLOGY, elapsed_s=1).outcome
    assert "home/north" in text_of(lab, 1)
    assert next(iter(lab.list_streams(at(1)))).startswith("home/north: ")
    lab.finish(name="own", started=at(0), finished=at(1), closed=False, outcome="stopped")
    (found,) = lab.summary.streams
    assert (found.stream, found.inputs, found.answered, found.samples) == ("home/north", 1, 3, 1)
    assert '<td class="left">home/north</td>' in lab.write(tmp_path)[0].read_text()


def test_a_workload_names_its_lab_and_gets_the_framework_s_without() -> None:
    assert load_lab().assets is not None
    assert Workload.lab == "edgebus.lab:Lab"
    with pytest.raises(WorkloadUnknownError, match="detection"):
        load_lab("detectoin")


def test_options_come_from_the_workload() -> None:
    generic = {parameter.name for parameter in make_command(Lab()).params}
    assert generic == {"topology", "workload", "out", "seconds", "plain", "settings"}
    assert generic < {parameter.name for parameter in make_command(load_lab("detection")).params}


def test_without_a_demo_a_topology_is_asked_for() -> None:
    with pytest.raises(TopologyError, match="no demo; give a topology file"):
        load_topology(None, Lab())
