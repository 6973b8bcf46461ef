"""The path of a frame through a recording."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edgebus.bus import RawMessage
from edgebus.cli.app import app
from edgebus.contracts import (
    BundleRef,
    Candidate,
    GateReport,
    Identity,
    ModelRef,
    ModelStatus,
    Release,
    TrainingResult,
    new_id,
    topics,
)
from edgebus.contracts.trace import begin_trace, continue_trace
from edgebus.inspect.path import Hop, InputNotFoundError, follow
from edgebus.recording import Recording, RecordingWriter
from edgebus_detection import Detection
from edgebus_detection.messages import (
    CAMERA_FRAME,
    CAMERA_TRUTH,
    DETECTIONS,
    SAMPLES,
    Frame,
    FrameRecord,
    GroundTruth,
    Sample,
    SampleRecord,
)
from recording_examples import CAMERA, DETECTOR, MODEL, detections, frame, later, message

COLLECTOR = Identity(site="lab", node="pi-01", service="collector")
RETRAINER = Identity(site="lab", node="gpu", service="retrainer")
DISTRIBUTOR = Identity(site="lab", node="gpu", service="distributor")
NEW = ModelRef(name="street", version=2, digest="b" * 64)
BUNDLE = BundleRef(model=NEW, provider=RETRAINER.source, index_size=10, size=100)


class Story:
    """A frame that is learnt from, another one that is not, and what is said meanwhile."""

    def __init__(self, *, traced: bool = True) -> None:
        self.frames = [self._traced(frame(n, at=n), traced=traced) for n in range(2)]
        self.messages: list[RawMessage] = []
        for number, one in enumerate(self.frames):
            record = one.record
            after = continue_trace(record.traceparent)
            self._say(CAMERA_FRAME.at(CAMERA, camera="front").name, one, number)
            truth = GroundTruth(
                time=later(number + 0.001),
                source=CAMERA.source,
                traceparent=after,
                frame=record.id,
                camera="front",
                index=record.index,
                captured=record.captured,
                width=64,
                height=48,
                boxes=(),
                condition="dusk",
            )
            self._say(CAMERA_TRUTH.at(CAMERA, camera="front").name, truth, number)
            seen = detections(record, at=number + 0.08).model_copy(update={"traceparent": after})
            self._say(DETECTIONS.at(DETECTOR, camera="front").name, seen, number + 0.08)
        self.sample = self._sample()
        self._say(SAMPLES.at(COLLECTOR).name, self.sample, 0.2)
        if traced:
            self._learn()

    def _traced(self, one: Frame, *, traced: bool) -> Frame:
        if not traced:
            return one
        record = one.record.model_copy(update={"traceparent": begin_trace(one.record.id)})
        return Frame.build(one.jpeg, record)

    def _sample(self) -> Sample:
        record: FrameRecord = self.frames[0].record
        made = SampleRecord(
            time=later(0.2),
            source=COLLECTOR.source,
            traceparent=continue_trace(record.traceparent),
            input=record.id,
            stream="front",
            index=record.index,
            captured=record.captured,
            width=64,
            height=48,
            split="train",
            policy="truth",
            reason="2 missed",
            score=1.0,
            model=MODEL,
            detections=(),
        )
        return Sample.build(self.frames[0].jpeg, made)

    def _learn(self) -> None:
        job = new_id()
        other = begin_trace(new_id())
        for number, traces in enumerate([(other,), (other, self.sample.record.traceparent or "")]):
            result = TrainingResult(
                time=later(90 + number),
                source=RETRAINER.source,
                traceparent=begin_trace(new_id()),
                traces=traces,
                job=job,
                model=MODEL,
                candidate=NEW,
                outcome="accepted",
                reason="gate passed",
                trigger="count",
                samples=2,
                replay=2,
                started=later(60),
            )
            self._say(topics.TRAINING_RESULT.at(RETRAINER, job=job).name, result, 90 + number)
        trace = continue_trace(result.traceparent)
        candidate = Candidate(
            time=later(92),
            source=RETRAINER.source,
            traceparent=trace,
            bundle=BUNDLE,
            job=job,
            gate=GateReport(passed=True),
        )
        self._say(topics.CANDIDATE.at(RETRAINER, model="street").name, candidate, 92)
        release = Release(
            time=later(93),
            source=DISTRIBUTOR.source,
            traceparent=continue_trace(trace),
            channel="stable",
            bundle=BUNDLE,
            sequence=2,
        )
        where = topics.RELEASE.at(DISTRIBUTOR, model="street", channel="stable").name
        self._say(where, release, 93)
        self._say(where, release, 93)  # retained, after a reconnect
        states: list[Any] = ["downloading", "downloading", "updated"]
        for number, state in enumerate(states):
            status = ModelStatus(
                time=later(94 + number),
                source=DETECTOR.source,
                traceparent=continue_trace(trace),
                model="street",
                serving=NEW if state == "updated" else MODEL,
                state=state,
                sequence=2,
            )
            self._say(topics.MODEL_STATUS.at(DETECTOR).name, status, 94 + number)

    def _say(self, topic: str, payload: Any, at: float) -> None:
        self.messages.append(message(topic, payload.encode(), at=at))

    def record(self, path: Path) -> Recording:
        writer = RecordingWriter(path)
        for item in self.messages:
            writer.add(item)
        writer.finish()
        return Recording(path)


def shape(hop: Hop) -> Any:
    return (hop.kind, [shape(after) for after in hop.next]) if hop.next else hop.kind


def test_the_whole_way_to_the_edge_that_serves_the_new_model(tmp_path: Path) -> None:
    story = Story()
    found = follow(story.record(tmp_path / "a.mcap"), story.frames[0].record.id)
    statuses = ["modelstatus", "modelstatus"]
    way = ("training", [("candidate", [("release", statuses)])])
    assert shape(found) == ("frame", ["truth", ("detections", [("sample", [way])])])
    assert found.next[1].next[0].next[0].time // 10**9 == int(later(91).timestamp())


def test_a_frame_that_nobody_learnt_from_ends_with_its_detections(tmp_path: Path) -> None:
    story = Story()
    found = follow(story.record(tmp_path / "a.mcap"), story.frames[1].record.id)
    assert shape(found) == ("frame", ["truth", "detections"])


def test_without_traces_the_frame_s_id_leads_as_far_as_the_sample(tmp_path: Path) -> None:
    story = Story(traced=False)
    found = follow(story.record(tmp_path / "a.mcap"), story.frames[0].record.id)
    assert shape(found) == ("frame", ["truth", ("detections", ["sample"])])


def test_a_frame_is_found_by_either_end_of_its_id(tmp_path: Path) -> None:
    story = Story()
    recording = story.record(tmp_path / "a.mcap")
    identifier = story.frames[0].record.id
    assert follow(recording, identifier[-10:].upper()).body["id"] == identifier
    for wanted in ("", "nothing", identifier[:4]):
        with pytest.raises(InputNotFoundError):
            follow(recording, wanted)


def test_it_is_printed_as_a_tree_with_times(tmp_path: Path) -> None:
    story = Story()
    path = tmp_path / "a.mcap"
    story.record(path)
    path.write_bytes(path.read_bytes()[:-20])
    done = CliRunner().invoke(app, ["trace", story.frames[0].record.id, "--recording", str(path)])
    assert done.exit_code == 0
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    assert len(lines) == 9
    assert "front #0, 64 x 48" in lines[0]
    assert "+90.0 ms" in lines[2]
    assert "1 boxes by street v1" in lines[2]
    assert "train, truth: 2 missed" in lines[3]
    assert "+1:31.010" in lines[4]
    assert "street v2 to stable, sequence 2" in lines[6]
    assert lines[8].strip().endswith("updated, serves street v2")
    assert "is not whole" in done.stderr


def test_a_workload_that_fails_to_phrase_a_message_costs_its_words_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strange(self: Detection, kind: str, body: dict[str, Any]) -> str:
        raise KeyError(kind)

    monkeypatch.setattr(Detection, "phrase", strange)
    story = Story()
    path = tmp_path / "a.mcap"
    story.record(path)
    done = CliRunner().invoke(app, ["trace", story.frames[0].record.id, "--recording", str(path)])
    assert done.exit_code == 0
    assert "street v2 to stable, sequence 2" in done.stdout
