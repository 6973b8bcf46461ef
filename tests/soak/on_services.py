"""Attacks on whole services: hostile payloads on every topic that they listen to.

A case is one message. After each round the service must still answer as it should, and its state
must not say otherwise.
"""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import structlog

from edgebus.bus import MemoryBroker
from edgebus.contracts import (
    Address,
    Command,
    CommandTopic,
    Identity,
    Message,
    RawBytes,
    Topic,
    topics,
    utc_now,
)
from edgebus.contracts.registry import all_topics
from edgebus.contracts.topics import CMD_CAPTURE
from edgebus.service import Service, ServiceSettings
from edgebus.service.testing import ServiceHarness
from edgebus.serving import EngineSettings
from edgebus_collector import Collector, CollectorSettings
from edgebus_detection.messages import (
    CAMERA_FRAME,
    DETECTIONS,
    Frame,
    FrameRecord,
    JpegPayload,
    Sample,
    SampleRecord,
)
from edgebus_detection.models.testing import tiny_bundle, tiny_picture
from edgebus_detection.vision import encode_jpeg
from edgebus_detector import Detector, DetectorSettings
from edgebus_distributor import Distributor, DistributorSettings
from edgebus_retrainer import Retrainer, RetrainerSettings
from edgebus_telemetry import Telemetry, TelemetrySettings
from tests.soak.making import Maker
from tests.soak.mutating import mutated_bytes, mutated_json
from tests.soak.target import Target, scratch_folder

__all__ = ["service_targets"]

_ROUND = 60
_ALL = tuple(all_topics().values())
_PICTURE = encode_jpeg(tiny_picture(), quality=60)
_PICTURES: dict[type[Any], tuple[type[JpegPayload[Any]], type[Any]]] = {
    Frame: (Frame, FrameRecord),
    Sample: (Sample, SampleRecord),
}


class _Bytes:
    """Any bytes as a payload."""

    def __init__(self, data: bytes, content_type: str) -> None:
        self.content_type = content_type
        self._data = data

    def encode(self) -> bytes:
        return self._data


def service_targets() -> list[Target]:
    """The services that read what others say; a camera reads nothing."""
    # What handlers complain of, a hundred thousand times, is the point here and no news.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    bundle = tiny_bundle(scratch_folder() / "tiny").path
    assert bundle is not None
    one = EngineSettings(threads=1)
    retrainer = {"bundle": bundle, "trigger": {"min_samples": None}}
    subjects = [
        _Subject(Detector, DetectorSettings(bundle=bundle, engine=one), _answers_a_frame),
        _Subject(Collector, CollectorSettings(), _answers(CMD_CAPTURE)),
        _Subject(
            Distributor,
            DistributorSettings(publish=(bundle,), fetch_timeout_s=0.2),
            _answers(topics.CMD_MODELS),
        ),
        _Subject(
            Retrainer,
            RetrainerSettings.model_validate(retrainer),
            _answers(topics.CMD_RETRAIN),
        ),
        _Subject(Telemetry, TelemetrySettings(), _is_ready),
    ]
    return [
        Target(f"service {subject.kind.name}", _service(subject), share=0.3, cases=_ROUND)
        for subject in subjects
    ]


Harness = ServiceHarness[Any]


@dataclass(frozen=True, slots=True)
class _Subject:
    """A service under attack.

    Attributes:
        kind: Its class.
        settings: Its settings.
        works: Awaits something that it only does when it works.
    """

    kind: type[Service[Any]]
    settings: ServiceSettings
    works: Callable[[Harness], Awaitable[None]]


def _service(subject: _Subject) -> Callable[[Random], int]:
    def attack(random: Random) -> int:
        return asyncio.run(_round(random, subject))

    return attack


async def _round(random: Random, subject: _Subject) -> int:
    """One life under attack, and a second one that finds what the first left.

    That is files, and whatever the broker retains.
    """
    broker = MemoryBroker()
    with tempfile.TemporaryDirectory() as folder:

        def life() -> Harness:
            return ServiceHarness(
                subject.kind, subject.settings, data_dir=Path(folder), broker=broker, drain_s=20.0
            )

        async with life() as harness:
            heard = _heard(harness.service)
            for _ in range(_ROUND):
                topic, address = _address(random, heard, harness.identity)
                payload = _Bytes(_payload(random, topic), topic.payload.content_type)
                await harness.publish(address, payload)
            await subject.works(harness)
            stats = harness.service.bus.stats.subscriptions
            handled = sum(item.handled for item in stats.values())
        async with life() as harness:
            await subject.works(harness)
    return min(handled, _ROUND)


async def _answers_a_frame(harness: Harness) -> None:
    record = FrameRecord(
        source="lab/pi-01/camera",
        camera="front",
        index=0,
        captured=utc_now(),
        width=64,
        height=48,
    )
    address = CAMERA_FRAME.at(harness.node("pi-01"), camera="probe")
    await harness.publish(address, Frame.build(_PICTURE, record))
    await harness.expect(DETECTIONS, 30.0, where=lambda event: event.payload.frame == record.id)


def _answers(topic: CommandTopic[Any, Any]) -> Callable[[Harness], Awaitable[None]]:
    async def works(harness: Harness) -> None:
        command = topic.payload.model_validate({"source": "lab/test/test", "stream": "none"})
        await harness.request(topic, command, timeout=30.0)

    return works


async def _is_ready(harness: Harness) -> None:
    await harness.wait_for_state("ready", "degraded")


def _heard(service: Service[Any]) -> list[Topic[Any]]:
    """The topics that a service listens to, those of its artifacts included."""
    declared = {item.topic for _, item in service.declarations if hasattr(item, "topic")}
    hidden = {topics.BLOCK_REQUEST, topics.BLOCK, CAMERA_FRAME}
    return [topic for topic in _ALL if topic in declared | hidden]


def _address(
    random: Random, heard: list[Topic[Any]], identity: Identity
) -> tuple[Topic[Any], Address[Any]]:
    topic = random.choice(heard)
    names = {
        "site": identity.site,
        "node": random.choice((identity.node, "pi-02")),
        "service": random.choice(("retrainer", "detector", "other")),
        "camera": random.choice(("front", "back")),
        "model": random.choice(("tiny", "other")),
        "channel": "stable",
        "digest": "0" * 64,
        "index": random.choice(("0", "x", "9" * 90)),
    }
    given = {key: names.get(key, "x") for key in topic.names if key != "base"}
    address = topic.at(identity, **given)
    asked = issubclass(topic.payload, Command) or topic is topics.BLOCK_REQUEST
    if not asked and address.name.startswith(f"{identity.prefix}/"):
        # Below its own prefix a service is only asked; brokers let nobody else publish there.
        address = topic.at(identity, **given | {"node": "pi-02"})
    return topic, address


def _payload(random: Random, topic: Topic[Any]) -> bytes:
    kind = topic.payload
    maker = Maker(random)
    how = random.random()
    if kind in _PICTURES:
        picture_type, record_type = _PICTURES[kind]
        record = maker.model(record_type, width=64, height=48)
        whole = picture_type.build(_PICTURE, record).encode()
        return whole if how < 0.3 else mutated_bytes(random, whole)
    if issubclass(kind, RawBytes):
        return random.randbytes(random.choice((0, 1, 100)))
    assert issubclass(kind, Message)
    wire = maker.model(kind, **_likely(random, kind)).encode()
    if how < 0.4:
        return wire
    if how < 0.8:
        return mutated_json(random, json.loads(wire))
    return mutated_bytes(random, wire)


def _likely(random: Random, kind: type[Message]) -> dict[str, Any]:
    """Values that get a message past the first check, to where more can go wrong."""
    given: dict[str, Any] = {}
    for name, value in (("camera", "front"), ("channel", "stable"), ("time", utc_now())):
        if name in kind.model_fields and random.random() < 0.8:
            given[name] = value
    return given
