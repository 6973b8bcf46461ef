"""Trace context: the form, who continues it, and what OpenTelemetry sees of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector_examples import box, picture, truth
from collector_examples import detections as collector_detections
from collector_examples import frame as collector_frame
from edgebus.bus import Event
from edgebus.contracts import Message, Metrics, ModelRef, Topic, new_id, split_of
from edgebus.contracts.trace import begin_trace, continue_trace, trace_of
from edgebus.mqtt._decoder import Parser
from edgebus.mqtt._encoder import PublishEncoder
from edgebus.mqtt._packets import Publish
from edgebus.samples import SampleFiles, SampleStore, open_database
from edgebus.service import Service, ServiceSettings, Tracer, on
from edgebus.service.testing import ServiceHarness
from edgebus.serving import EngineSettings
from edgebus.workload import load_workload
from edgebus_camera import Camera, CameraSettings
from edgebus_collector import Collector, CollectorSettings
from edgebus_detection.messages import (
    CAMERA_FRAME,
    CAMERA_TRUTH,
    DETECTIONS,
    SAMPLES,
    Detections,
    Frame,
    FrameRecord,
    GroundTruth,
    Sample,
    SampleRecord,
)
from edgebus_detection.models.testing import tiny_bundle, tiny_picture
from edgebus_detection.vision import encode_jpeg
from edgebus_detector import Detector, DetectorSettings

EXAMPLE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
FORM = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def test_a_trace_goes_on_with_a_new_span() -> None:
    after = continue_trace(EXAMPLE)
    assert after is not None
    assert FORM.fullmatch(after)
    assert after != EXAMPLE
    assert (trace_of(after), after[-2:]) == ("4bf92f3577b34da6a3ce929d0e0e4736", "01")
    assert continue_trace(None) is None


def test_a_new_trace_is_named_after_its_first_message() -> None:
    identifier = new_id()
    assert trace_of(begin_trace(identifier)) == identifier.replace("-", "")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        EXAMPLE.upper(),
        EXAMPLE + "-more",
        EXAMPLE + "\n",
        "ff" + EXAMPLE[2:],
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
        7,
        ["00"],
    ],
)
def test_what_is_no_trace_costs_no_message(value: object) -> None:
    body = {"source": "a/b/c", "session": 1, "uptime_s": 1, "schema": "metrics/1"}
    made = Metrics.model_validate(body | {"traceparent": value})
    assert made.traceparent is None
    assert b"traceparent" not in made.encode()


def test_a_later_version_is_understood() -> None:
    later = "cc" + EXAMPLE[2:] + "-what-comes"
    assert Metrics(source="a/b/c", session=1, uptime_s=1, traceparent=later).traceparent == EXAMPLE


@given(value=st.text())
def test_no_text_raises(value: str) -> None:
    assert continue_trace(value) is None or FORM.fullmatch(value[:55])


@pytest.mark.parametrize("content_type", ["", "application/json", "x/" + "y" * 200])
@pytest.mark.parametrize("payload", [b"", b"x" * 300])
def test_it_is_a_user_property_of_mqtt_5(content_type: str, payload: bytes) -> None:
    for v5 in (True, False):
        head = PublishEncoder(v5=v5).head(
            "a/b",
            len(payload),
            first=0x32,
            packet_id=7,
            content_type=content_type,
            expiry_s=5,
            traceparent=EXAMPLE,
        )
        parser = Parser(v5=v5)
        [packet] = parser.feed(head + payload)
        assert isinstance(packet, Publish)
        assert (packet.topic, bytes(packet.payload)) == ("a/b", payload)
        found = packet.properties.user_properties
        assert found == ((("traceparent", EXAMPLE),) if v5 else ())
        if v5:
            assert packet.properties.content_type == (content_type or None)
            assert packet.properties.message_expiry_interval == 5


def frame(traceparent: str | None) -> Frame:
    now = datetime.now(UTC)
    record = FrameRecord(
        source="lab/pi-01/camera",
        camera="front",
        index=1,
        captured=now,
        time=now,
        width=64,
        height=48,
        traceparent=traceparent,
    )
    return Frame.build(encode_jpeg(tiny_picture(), quality=98), record)


async def test_a_camera_begins_a_trace_with_each_frame() -> None:
    settings = CameraSettings.model_validate(
        {"cameras": {"front": {"source": "scene", "fps": 20, "frames": 2}}}
    )
    async with ServiceHarness(Camera, settings) as edge:
        shown: Frame = (await edge.expect(CAMERA_FRAME)).payload
        told: GroundTruth = (await edge.expect(CAMERA_TRUTH)).payload
    record = shown.record
    assert trace_of(record.traceparent) == record.id.replace("-", "")
    assert told.frame == record.id
    assert trace_of(told.traceparent) == trace_of(record.traceparent)
    assert told.traceparent != record.traceparent


@pytest.mark.parametrize("traceparent", [EXAMPLE, None])
async def test_detections_continue_the_trace_of_their_frame(
    tmp_path: Path, traceparent: str | None
) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    settings = DetectorSettings(model="tiny", bundle=bundle.path, engine=EngineSettings(threads=1))
    async with ServiceHarness(Detector, settings) as edge:
        address = CAMERA_FRAME.at(edge.node("pi-01"), camera="front")
        await edge.publish(address, frame(traceparent))
        said: Detections = (await edge.expect(DETECTIONS)).payload
    assert said.traceparent is not None
    assert said.traceparent != traceparent
    if traceparent is not None:
        assert trace_of(said.traceparent) == trace_of(traceparent)


async def test_a_subscription_made_while_handling_is_not_of_that_messages_trace() -> None:
    class Later(Message, version=1):
        """What comes later."""

    first = Topic("{node}/{service}/first", Later, qos=1, doc="What comes first.")
    later = Topic("{node}/{service}/later", Later, qos=1, doc="What comes later.")
    answer = Topic("{node}/{service}/answer", Later, qos=1, doc="What follows of it.")

    class Follower(Service[ServiceSettings]):
        """Subscribes when the first message comes."""

        name = "follower"
        publishes = (answer,)

        @on(first)
        async def begin(self, event: Event[Later]) -> None:
            await self.bus.subscribe(later.any(base="edgebus", site="lab"), self.go_on)
            await self.publish(answer, Later())

        async def go_on(self, event: Event[Later]) -> None:
            await self.publish(answer, Later())

    async with ServiceHarness(Follower, also=(first, later)) as h:
        await h.publish(first.at(h.node("pi-02")), Later(traceparent=EXAMPLE))
        assert trace_of((await h.expect(answer)).payload.traceparent) == trace_of(EXAMPLE)
        await h.publish(later.at(h.node("pi-02")), Later())
        assert (await h.expect(answer)).payload.traceparent is None


async def test_a_sample_continues_the_trace_of_its_detections() -> None:
    index = next(n for n in range(400) if split_of("front", n) == "train")
    shown = collector_frame(index)
    begun = begin_trace(shown.record.id)
    shown = Frame.build(shown.jpeg, shown.record.model_copy(update={"traceparent": begun}))
    seen = collector_detections(shown).model_copy(update={"traceparent": continue_trace(begun)})
    settings = CollectorSettings(duplicate_distance=-1, receiver=None)
    async with ServiceHarness(Collector, settings) as edge:
        node = edge.node("pi-01")
        await edge.publish(CAMERA_TRUTH.at(node, camera="front"), truth(shown, box()))
        await edge.publish(CAMERA_FRAME.at(node, camera="front"), shown)
        await edge.publish(DETECTIONS.at(node, camera="front"), seen)
        sample: Sample = (await edge.expect(SAMPLES)).payload
    assert trace_of(sample.record.traceparent) == trace_of(begun)
    assert sample.record.traceparent not in (begun, seen.traceparent)


def test_a_job_names_the_traces_of_its_samples(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    store = SampleStore(
        open_database(tmp_path / "samples.db"),
        SampleFiles(tmp_path / "samples"),
        load_workload("detection"),
        max_samples=10,
        max_bytes=10**9,
    )
    ids = [new_id()]
    for number in range(3):
        record = SampleRecord(
            source="lab/pi-01/collector",
            traceparent=begin_trace(new_id()) if number else None,
            input=new_id(),
            stream="front",
            index=number,
            captured=now,
            width=160,
            height=120,
            split="train",
            policy="truth",
            reason="missed",
            score=1.0,
            model=ModelRef(name="street", version=1, digest="a" * 64),
            detections=(),
        )
        store.add(Sample.build(picture(number), record), received=now)
        ids.append(record.id)
    found = store.traces(ids)
    assert len(found) == 2
    assert all(FORM.fullmatch(text) for text in found)


def test_without_opentelemetry_a_step_has_a_trace_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    tracer = Tracer("detector")
    with tracer.step("detect", parent=EXAMPLE) as step:
        assert trace_of(step.traceparent) == trace_of(EXAMPLE)
    identifier = new_id()
    with tracer.step("send", identifier=identifier) as step:
        assert trace_of(step.traceparent) == identifier.replace("-", "")
    with tracer.step("send", parent="nonsense") as step:
        assert FORM.fullmatch(step.traceparent)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """OpenTelemetry, set up as `opentelemetry-instrument` does it, with its spans in memory."""
    trace = pytest.importorskip("opentelemetry.trace")
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # A process sets its provider once; a test must be able to take it away again.
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


def test_opentelemetry_sees_the_same_steps(spans: Any) -> None:
    camera, detector = Tracer("camera"), Tracer("detector")
    with camera.step("send", attributes={"camera": "front"}) as sent:
        pass
    with detector.step("detect", parent=sent.traceparent, links=[EXAMPLE, "no"]) as seen:
        pass
    first, second = spans.get_finished_spans()
    assert (first.name, second.name) == ("camera send", "detector detect")
    assert dict(first.attributes) == {"camera": "front"}
    assert first.parent is None
    assert second.parent.span_id == first.context.span_id
    assert second.context.trace_id == first.context.trace_id
    assert sent.traceparent.split("-")[1:3] == [
        f"{first.context.trace_id:032x}",
        f"{first.context.span_id:016x}",
    ]
    assert seen.traceparent.split("-")[2] == f"{second.context.span_id:016x}"
    assert [link.context.trace_id for link in second.links] == [int(trace_of(EXAMPLE) or "", 16)]


def test_an_error_is_noted_and_goes_on(spans: Any) -> None:
    def fail() -> None:
        with Tracer("detector").step("detect"):
            int("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    [span] = spans.get_finished_spans()
    assert not span.status.is_ok


async def test_spans_name_the_messages_that_they_are_about(spans: Any, tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    settings = DetectorSettings(model="tiny", bundle=bundle.path, engine=EngineSettings(threads=1))
    shown = frame(EXAMPLE)
    async with ServiceHarness(Detector, settings) as edge:
        await edge.publish(CAMERA_FRAME.at(edge.node("pi-01"), camera="front"), shown)
        await edge.expect(DETECTIONS)
    once = {"cameras": {"back": {"source": "scene", "fps": 20, "frames": 1}}}
    async with ServiceHarness(Camera, CameraSettings.model_validate(once)) as edge:
        sent: Frame = (await edge.expect(CAMERA_FRAME)).payload
    for name, operation, topic, message in (
        ("detector predict", "process", "edgebus/lab/pi-01/test/front/frame", shown.record.id),
        ("camera send", "send", "edgebus/lab/pi-01/camera/back/frame", sent.record.id),
    ):
        [span] = (span for span in spans.get_finished_spans() if span.name == name)
        assert {k: v for k, v in span.attributes.items() if k.startswith("messaging.")} == {
            "messaging.system": "mqtt",
            "messaging.operation.type": operation,
            "messaging.destination.name": topic,
            "messaging.message.id": message,
        }
