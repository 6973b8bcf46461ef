"""Bad input at the services' own doors: a dead letter or a clear error, and they serve on."""

from __future__ import annotations

import asyncio
import gc
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collector_examples import MODEL, box, detections, frame, truth
from edgebus.artifacts import Store
from edgebus.artifacts.index import BundleIndex, FileEntry, sha256
from edgebus.artifacts.tensors import dump_tensors
from edgebus.bus import Event
from edgebus.bus._delivery import Delivery
from edgebus.contracts import (
    Address,
    BundleRef,
    Candidate,
    CaptureCommand,
    DeadLetter,
    GateReport,
    ModelListCommand,
    ModelRef,
    Release,
    Reply,
    ServiceState,
    split_of,
    topics,
    utc_now,
)
from edgebus.contracts.topics import CMD_CAPTURE
from edgebus.service import Service, ServiceSettings, command
from edgebus.service.testing import ServiceHarness
from edgebus.serving import EngineSettings
from edgebus.transfer import ArtifactProvider
from edgebus_collector import Collector, CollectorSettings
from edgebus_detection.messages import CAMERA_FRAME, CAMERA_TRUTH, DETECTIONS, SAMPLES
from edgebus_detection.models.testing import tiny_bundle
from edgebus_detector import Detector, DetectorSettings
from edgebus_distributor import Distributor, DistributorSettings
from edgebus_retrainer import Retrainer, RetrainerSettings
from edgebus_telemetry import Telemetry, TelemetrySettings
from retrainer_samples import sample

TRAIN = [index for index in range(400) if split_of("front", index) == "train"]
Harness = ServiceHarness[Any]


class Anything:
    """Any bytes where a message should be."""

    def __init__(self, data: bytes, content_type: str = "application/json") -> None:
        self.content_type = content_type
        self._data = data

    def encode(self) -> bytes:
        return self._data


async def throw(h: Harness, address: Address[Any], data: bytes) -> DeadLetter:
    """Publish bytes; the one dead letter that comes of them, with those bytes behind it."""
    await h.bus.publish(address, Anything(data))  # type: ignore[arg-type]
    # The harness hears everything too, and makes letters of its own.
    mine = f"{h.identity.prefix}/deadletter/"
    letter: Event[DeadLetter] = await h.expect(
        topics.DEAD_LETTER, where=lambda event: event.topic.startswith(mine)
    )
    if data:  # zero bytes behind a letter clear what was there before
        body = await h.expect(
            topics.DEAD_LETTER_PAYLOAD, where=lambda event: event.topic == letter.topic + "/payload"
        )
        assert body.payload.data == data
    assert letter.payload.topic == address.name
    return letter.payload


def changed(message: Any, **fields: Any) -> bytes:
    """A message's JSON with other values; Python's writer says NaN where JSON cannot."""
    return json.dumps(json.loads(message.encode()) | fields).encode()


def bad_boxes() -> dict[str, tuple[dict[str, Any], str]]:
    good = json.loads(box().model_dump_json(exclude_none=True))
    return {
        "outside": (good | {"x2": 9000.0}, "outside its frame"),
        "nan": (good | {"score": float("nan")}, "finite"),
        "infinite": (good | {"x2": float("inf")}, "finite"),
        "negative": (good | {"x1": -4.0}, "greater than or equal to 0"),
        "no area": (good | {"x2": good["x1"]}, "no area"),
        "no name": (good | {"label": ""}, "at least 1 character"),
    }


@pytest.mark.parametrize("kind", bad_boxes())
async def test_collector_and_boxes_that_cannot_be(kind: str) -> None:
    spoilt, words = bad_boxes()[kind]
    of = frame(TRAIN[0])
    async with ServiceHarness(
        Collector, CollectorSettings(duplicate_distance=-1, receiver=None)
    ) as h:
        where = CAMERA_TRUTH.at(h.node("pi-01"), camera="front")
        letter = await throw(h, where, changed(truth(of), boxes=[spoilt]))
        assert (letter.reason, letter.expected) == ("invalid", "truth/1")
        assert words in letter.error
        seen = DETECTIONS.at(h.node("pi-01"), camera="front")
        letter = await throw(h, seen, changed(detections(of, model=MODEL), boxes=[spoilt]))
        assert letter.expected == "detections/1"
        await collects_on(h)


async def collects_on(h: Harness) -> None:
    of = frame(TRAIN[5])
    await h.publish(CAMERA_TRUTH.at(h.node("pi-01"), camera="front"), truth(of, box()))
    await h.publish(CAMERA_FRAME.at(h.node("pi-01"), camera="front"), of)
    await h.publish(DETECTIONS.at(h.node("pi-01"), camera="front"), detections(of, model=MODEL))
    assert (await h.expect(SAMPLES)).payload.record.input == of.record.id


@pytest.mark.parametrize("data", [b"", b"hello", frame(0).jpeg[:-20], b"\xff\xd8\xff\xd9"])
async def test_collector_and_pictures_that_are_none(data: bytes) -> None:
    async with ServiceHarness(
        Collector, CollectorSettings(duplicate_distance=-1, receiver=None)
    ) as h:
        where = CAMERA_FRAME.at(h.node("pi-01"), camera="front")
        letter = await throw(h, where, data)
        assert (letter.reason, letter.size) == ("invalid", len(data))
        await collects_on(h)


async def test_collector_and_a_class_that_the_model_cannot_know() -> None:
    config = CollectorSettings(
        duplicate_distance=-1,
        receiver=None,
        holdout_share=0,
        policies={"truth": {"classes": ["car", "person"]}},
    )
    async with ServiceHarness(Collector, config) as h:
        odd, both = frame(TRAIN[0]), frame(TRAIN[1])
        for of, true in ((odd, (box("zebra"),)), (both, (box("zebra"), box("car")))):
            where = CAMERA_TRUTH.at(h.node("pi-01"), camera="front")
            await h.publish(where, truth(of, *true))
            await h.publish(CAMERA_FRAME.at(h.node("pi-01"), camera="front"), of)
            seen = DETECTIONS.at(h.node("pi-01"), camera="front")
            await h.publish(seen, detections(of, model=MODEL))
        record = (await h.expect(SAMPLES)).payload.record
        assert record.input == both.record.id
        assert record.reason == "1 of 1 missed (car)"
        assert {item.label for item in record.truth} == {"zebra", "car"}  # nothing is hidden


async def test_detector_and_a_camera_whose_name_is_no_topic_level(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "tiny")
    config = DetectorSettings(bundle=bundle.path, engine=EngineSettings(threads=1), scope="site")
    async with ServiceHarness(Detector, config) as h:
        # A broker takes it, and so does a filter; only an answer could not be said there.
        where = CAMERA_FRAME.at(h.node("pi-01", "camera"), camera="front")
        odd = Address(name=where.name.replace("/front/", "/my camera/"), topic=where.topic)
        letter = await throw(h, odd, frame(0).jpeg)
        assert letter.reason == "failed"
        assert "holds white space" in letter.error
        await h.publish(where, frame(1))
        assert (await h.expect(DETECTIONS)).payload.index == 1


def release(digest: str, **changes: Any) -> Release:
    fields = {"index_size": 999, "size": 10**6, "provider": "lab/cloud/distributor"} | changes
    return Release(
        source="lab/cloud/distributor",
        channel="stable",
        bundle=BundleRef(model=ModelRef(name="tiny", version=2, digest=digest), **fields),
        sequence=1,
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"index_size": 2**60}, "index_size"),
        ({"size": 2**60}, "size"),
        ({"digest": "0" * 63}, "64 lower-case"),
        ({"digest": "../../etc/passwd"}, "64 lower-case"),
        ({"version": 0}, "greater than or equal to 1"),
        ({"sequence": 10**30}, "less than or equal to"),
    ],
)
async def test_detector_and_a_release_that_cannot_be(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    bundle = tiny_bundle(tmp_path / "tiny")
    config = DetectorSettings(bundle=bundle.path, engine=EngineSettings(threads=1))
    async with ServiceHarness(Detector, config) as h:
        where = topics.RELEASE.at(h.node("cloud", "distributor"), model="tiny", channel="stable")
        tree = json.loads(release("a" * 64).encode())
        for key, value in changes.items():
            for part in (tree, tree["bundle"], tree["bundle"]["model"]):
                if key in part:
                    part[key] = value
        letter = await throw(h, where, json.dumps(tree).encode())
        assert words in letter.error
        seen = CAMERA_FRAME.at(h.node("pi-01"), camera="front")
        await h.publish(seen, frame(1))
        answer = (await h.expect(DETECTIONS)).payload
        assert (answer.index, answer.model.version) == (1, 1)


@pytest.mark.parametrize("provider", ["nobody", "a/+/c", "../../etc"])
async def test_detector_and_a_release_that_nobody_can_provide(
    provider: str, tmp_path: Path
) -> None:
    bundle = tiny_bundle(tmp_path / "tiny")
    config = DetectorSettings(bundle=bundle.path, engine=EngineSettings(threads=1))
    async with ServiceHarness(Detector, config) as h:
        where = topics.RELEASE.at(h.node("cloud", "distributor"), model="tiny", channel="stable")
        data = (
            release("a" * 64)
            .encode()
            .replace(b'"provider":"lab/cloud/distributor"', f'"provider":"{provider}"'.encode())
        )
        letter = await throw(h, where, data)
        assert letter.error.startswith("bundle.provider: ")
        await h.publish(CAMERA_FRAME.at(h.node("pi-01"), camera="front"), frame(1))
        assert (await h.expect(DETECTIONS)).payload.model.version == 1


def not_a_number(files: dict[str, bytes]) -> None:
    weights = bytearray(files["weights.safetensors"])
    weights[-4:] = struct.pack("<f", float("nan"))
    files["weights.safetensors"] = bytes(weights)


def another_shape(files: dict[str, bytes]) -> None:
    manifest = json.loads(files["manifest.json"])
    manifest["graphs"][0]["inputs"][0]["shape"][2] = 96
    files["manifest.json"] = json.dumps(manifest).encode()


def fewer_weights(files: dict[str, bytes]) -> None:
    files["weights.safetensors"] = dump_tensors({"conv.bias": np.zeros(7, np.float32)})


def another_graph(files: dict[str, bytes]) -> None:
    files["graph.onnx"] = files["graph.onnx"].replace(b"conv.weight", b"conv.weighs")


def another_version(files: dict[str, bytes]) -> None:
    files["manifest.json"] = files["manifest.json"].replace(b'"version": 2', b'"version": 3')


def a_failing_probe(files: dict[str, bytes]) -> None:
    probe = bytearray(files["probe.safetensors"])
    probe[-4:] = struct.pack("<f", 1e9)
    files["probe.safetensors"] = bytes(probe)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (not_a_number, "NaN"),
        (another_shape, "describes input images"),
        (fewer_weights, "is missing; the graph needs it"),
        (another_graph, "the graph needs it"),
        (another_version, "version 3, not tiny version 2"),
        (a_failing_probe, "probe"),
    ],
)
async def test_detector_and_a_bundle_that_was_made_to_harm(
    spoil: Callable[[dict[str, bytes]], None], words: str, tmp_path: Path
) -> None:
    """Every digest is right, the blocks come over the bus, and it still never serves."""
    first = tiny_bundle(tmp_path / "v1")
    files = dict(tiny_bundle(tmp_path / "v2", version=2, gain=0.3).files)
    spoil(files)
    index = BundleIndex(files=tuple(FileEntry.of(name, data) for name, data in files.items()))
    store = Store(tmp_path / "cloud")
    for data in (*files.values(), index.encode()):
        store.put(data)
    config = DetectorSettings(bundle=first.path, engine=EngineSettings(threads=1))
    async with ServiceHarness(Detector, config) as h:
        cloud = h.node("cloud", "distributor")
        provider = asyncio.create_task(ArtifactProvider(h.bus, cloud, store).run())
        where = topics.RELEASE.at(cloud, model="tiny", channel="stable")
        told = release(sha256(index.encode()), index_size=len(index.encode()), size=index.size)
        await h.publish(where, told)
        status = await h.expect(
            topics.MODEL_STATUS, where=lambda event: event.payload.state == "failed"
        )
        assert words in status.payload.error
        assert status.payload.serving.version == 1
        await h.publish(CAMERA_FRAME.at(h.node("pi-01"), camera="front"), frame(1))
        assert (await h.expect(DETECTIONS)).payload.model.version == 1
        provider.cancel()
        await asyncio.gather(provider, return_exceptions=True)


async def test_distributor_and_a_candidate_that_claims_too_much(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "tiny")
    config = DistributorSettings(publish=(bundle.path,), fetch_timeout_s=0.3)
    async with ServiceHarness(Distributor, config, data_dir=tmp_path / "data") as h:
        where = topics.CANDIDATE.at(h.node("gpu", "retrainer"), model="tiny")
        good = Candidate(
            source="lab/gpu/retrainer",
            bundle=release("b" * 64, size=2**52, parent=bundle.digest).bundle,
            job="j",
            gate=GateReport(passed=True),
        )
        letter = await throw(h, where, changed(good, gate={"passed": "perhaps"}))
        assert "gate.passed" in letter.error
        await h.publish(where, good)
        for _ in range(2):  # it goes on saying what it has, also while it waits for the candidate
            command = ModelListCommand(source="lab/test/test")
            reply = await h.request(topics.CMD_MODELS, command)
            assert [entry.bundle.model.version for entry in reply.models] == [1]


async def test_retrainer_and_samples_that_are_none(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "tiny")
    config = RetrainerSettings.model_validate(
        {"bundle": bundle.path, "trigger": {"min_samples": None}, "tick_s": 0.05}
    )
    async with ServiceHarness(Retrainer, config, data_dir=tmp_path / "data") as h:
        where = SAMPLES.at(h.node("pi-01", "collector"))
        good = [sample(index) for index in TRAIN[:4]]
        bad = [b"", b"{}", good[0].jpeg[:300], good[0].jpeg[:-2], good[0].jpeg[2:]]
        for index, data in enumerate(bad):
            letter = await throw(h, where, data)
            assert (letter.reason, letter.expected) == ("invalid", "sample/1")
            if index < len(good):
                await h.publish(where, good[index])
        # A class that the model does not have is kept: its boxes become regions to ignore.
        await h.publish(where, sample(TRAIN[4], boxes=(box("zebra"),)))
        status = await h.expect(
            topics.STORE_STATUS, where=lambda event: event.payload.samples == len(good) + 1
        )
        assert status.payload.untrained == len(good) + 1
    # What was accepted is there after a restart.
    async with ServiceHarness(Retrainer, config, data_dir=tmp_path / "data") as h:
        status = await h.expect(topics.STORE_STATUS)
        assert status.payload.samples == len(good) + 1


async def test_telemetry_and_numbers_that_are_none(tmp_path: Path) -> None:
    config = TelemetrySettings(flush_s=0.05)
    async with ServiceHarness(Telemetry, config, data_dir=tmp_path) as h:
        of = frame(TRAIN[0])
        good = detections(of, box(score=0.5), model=MODEL)
        where = DETECTIONS.at(h.node("pi-01"), camera="front")
        letter = await throw(h, where, changed(good, stages={"inference_ms": float("nan")}))
        assert "stages.inference_ms" in letter.error
        letter = await throw(h, where, changed(good, captured="yesterday"))
        assert "captured" in letter.error
        await h.publish(where, good)
        state = topics.SERVICE_STATE.at(h.node("pi-02"), service="camera")
        said = ServiceState(
            source="lab/pi-02/camera",
            state="ready",
            session=1,
            instance='a,b\n"c"',
            since=utc_now(),
            version="1",
            reason="=HYPERLINK(1)\r\n",
        )
        await h.publish(state, said)
    rows = (tmp_path / "telemetry" / "csv" / "detections.csv").read_text().splitlines()
    assert len(rows) == 2


class Idle(Service[ServiceSettings]):
    """A service that only lives."""

    name = "idle"


async def test_a_broken_state_in_its_own_name_takes_nobody_down() -> None:
    async with ServiceHarness(Idle, ServiceSettings()) as h:
        letter = await throw(h, topics.SERVICE_STATE.at(h.identity), b'{"state": "ready"}')
        assert letter.expected == "state/1"
        assert (await h.wait_for_state("ready")).state == "ready"


class Counting(Service[ServiceSettings]):
    """Counts how often it was told."""

    name = "collector"
    told = 0

    @command(CMD_CAPTURE)
    async def capture(self, event: Event[CaptureCommand]) -> Reply:
        """Do it."""
        self.told += 1
        return Reply(source=self.identity.source, request=event.payload.id, ok=True)


@pytest.mark.parametrize("reply_to", ["", "#", "edgebus/lab/pi-01/camera/state", "x" * 900])
async def test_a_command_that_cannot_be_answered_is_not_obeyed(reply_to: str) -> None:
    async with ServiceHarness(Counting, ServiceSettings()) as h:
        bad = CaptureCommand(source="lab/test/test", stream="front", reply_to=reply_to)
        letter = await throw(h, CMD_CAPTURE.at(h.identity), bad.encode())
        assert (letter.reason, letter.attempts) == ("failed", 1)
        assert "is not below" in letter.error
        good = CaptureCommand(source="lab/test/test", stream="front")
        assert (await h.request(CMD_CAPTURE, good)).ok
        assert h.service.told == 1


async def test_bad_messages_leave_nothing_in_memory() -> None:
    """A name that a validator of ours refuses was kept for ever once, with its whole message."""
    async with ServiceHarness(Idle, ServiceSettings()) as h:
        bus = h.service.bus
        heard: list[Event[Any]] = []

        async def hear(event: Event[Any]) -> None:
            heard.append(event)

        await bus.subscribe(DETECTIONS.any(), hear)
        where = DETECTIONS.at(h.node("pi-02"), camera="front")
        bad = changed(detections(frame(0), model=MODEL), camera="no/name")
        letter = await throw(h, where, bad)
        assert "holds '/'" in letter.error
        for _ in range(50):
            await h.bus.publish(where, Anything(bad))  # type: ignore[arg-type]
        good = detections(frame(1), model=MODEL)
        await h.publish(where, good)
        await h.expect(DETECTIONS, where=lambda event: event.payload.id == good.id)
        while not heard:
            await asyncio.sleep(0)
        heard.clear()
        h._seen.clear()
        gc.collect()
        kept = [item for item in gc.get_objects() if isinstance(item, Delivery)]
        assert [item for item in kept if b"no/name" in item.message.payload] == []
