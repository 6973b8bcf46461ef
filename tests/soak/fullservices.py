"""Services whose disk is full: they say so and why, go on, lose nothing that they took."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from edgebus.contracts import (
    CaptureCommand,
    ModelRef,
    ServiceState,
    new_id,
    topics,
    utc_now,
)
from edgebus.contracts.topics import CMD_CAPTURE
from edgebus.service.testing import ServiceHarness
from edgebus_collector import Collector, CollectorSettings
from edgebus_detection.messages import (
    CAMERA_FRAME,
    DETECTIONS,
    SAMPLES,
    Detections,
    Frame,
    FrameRecord,
    Sample,
    SampleRecord,
)
from edgebus_detection.models.testing import tiny_bundle
from edgebus_retrainer import Retrainer, RetrainerSettings
from tests.soak.field import Outcome
from tests.soak.ledger import Ledger

__all__ = ["MODEL", "FullDisk", "collector", "picture", "retrainer", "sample"]

MODEL = ModelRef(name="tiny", version=1, digest="a" * 64)
_COUNT = 12
_WIDTH, _HEIGHT = 160, 120
_PATIENCE_S = 60.0
_LOOKS, _LOOK_S = 600, 0.1
_SOURCE = "soak/pi-01/collector"


class FullDisk(Protocol):
    """A disk that can be full.

    Attributes:
        folder: On it.
    """

    folder: Path

    def fill(self) -> None:
        """Nothing more fits."""

    def make_room(self) -> None:
        """As before."""


async def collector(disk: FullDisk) -> Outcome:
    """Samples that are in the spool reach the receiver; those that found it full are counted."""
    ledger = Ledger(["collector"])
    outcome = Outcome(verdict=ledger.verdict(), faults=1)
    settings = CollectorSettings(policies={"confidence": {}}, receiver="retrainer")
    async with ServiceHarness(Collector, settings, data_dir=disk.folder / "edge") as h:
        camera = _Camera(h)
        spool = disk.folder / "edge" / "collector" / "spool"
        await camera.film(0)  # a camera has to be known before it can be asked
        for n in range(1, _COUNT + 1):
            if n == _COUNT // 2:
                disk.fill()
                await camera.capture(1000)
                said = await h.wait_for_state("degraded", timeout=_PATIENCE_S)
                outcome.notes.append(f"collector: {said.reason.split(': ')[0]}")
                disk.make_room()
            await camera.capture(n)
            # The next command must not be answered with this frame.
            for _ in range(_LOOKS):
                if len(list(spool.glob("*.sample"))) == n:
                    break
                await asyncio.sleep(_LOOK_S)
            else:
                outcome.expect(False, f"sample {n} is not in the spool")
            ledger.accept("collector", n)
        await h.wait_for_state("ready", timeout=_PATIENCE_S)
        # Only now is there somebody who takes samples: they came from the spool.
        receiver = h.node("gpu-01", "retrainer")
        alive = ServiceState(
            source=receiver.source,
            state="ready",
            session=1,
            instance=new_id(),
            since=utc_now(),
            version="1",
        )
        await h.publish(topics.SERVICE_STATE.at(receiver), alive)
        for _ in range(_COUNT):
            event = await h.expect(SAMPLES, timeout=_PATIENCE_S)
            ledger.handle("collector", event.payload.record.index)
    outcome.verdict = ledger.verdict()
    return outcome


async def retrainer(disk: FullDisk) -> Outcome:
    """A sample that cannot be stored is not acknowledged, and stored when there is room."""
    ledger = Ledger(["retrainer"])
    outcome = Outcome(verdict=ledger.verdict(), faults=1)
    tiny_bundle(disk.folder / "base")
    settings = RetrainerSettings.model_validate(
        {"bundle": disk.folder / "base", "model": MODEL.name, "trigger": {"min_samples": 10_000}}
    )
    async with ServiceHarness(
        Retrainer, settings, node="gpu-01", data_dir=disk.folder / "cloud"
    ) as h:
        address = SAMPLES.at(h.node("pi-01", "collector"))
        for n in range(_COUNT):
            if n == _COUNT // 2:
                disk.fill()
            await h.publish(address, sample(n))
            ledger.accept("retrainer", n)
            if n == _COUNT // 2:
                said = await h.wait_for_state("degraded", timeout=_PATIENCE_S)
                outcome.notes.append(f"retrainer: {said.reason.split(': ')[0]}")
        disk.make_room()
        await h.expect(
            topics.STORE_STATUS,
            timeout=_PATIENCE_S,
            where=lambda event: event.payload.samples == _COUNT,
        )
        assert isinstance(h.service, Retrainer)
        kept = [Sample.decode(one.path.read_bytes()) for one in h.service.samples.all(MODEL.name)]
        for n in sorted(one.record.index for one in kept):
            ledger.handle("retrainer", n)
    outcome.verdict = ledger.verdict()
    return outcome


def picture(seed: int) -> bytes:
    """A JPEG that is like no other."""
    noise = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    image = cv2.resize(noise, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_NEAREST)
    return bytes(cv2.imencode(".jpg", image)[1].tobytes())


def sample(n: int) -> Sample:
    """Sample `n`."""
    record = SampleRecord(
        source=_SOURCE,
        width=_WIDTH,
        height=_HEIGHT,
        input=new_id(),
        stream="front",
        index=n,
        captured=utc_now(),
        split="train",
        policy="truth",
        reason="missed a car",
        score=1.0,
        model=MODEL,
        detections=(),
    )
    return Sample.build(picture(n), record)


class _Camera:
    """A camera and a detector that saw nothing, for the collector under test."""

    def __init__(self, harness: ServiceHarness[Any]) -> None:
        self._h = harness

    async def capture(self, n: int) -> None:
        """Have frame `n` taken as a sample."""
        ask = CaptureCommand(source="lab/test/test", stream="front")
        await self._h.request(CMD_CAPTURE, ask, timeout=_PATIENCE_S)
        await self.film(n)

    async def film(self, n: int) -> None:
        """Send frame `n` and what was seen in it."""
        node = self._h.node("pi-01")
        record = FrameRecord(
            source="lab/pi-01/camera",
            camera="front",
            index=n,
            captured=utc_now(),
            width=_WIDTH,
            height=_HEIGHT,
        )
        seen = Detections(
            source="lab/pi-01/detector",
            frame=record.id,
            camera="front",
            index=n,
            width=_WIDTH,
            height=_HEIGHT,
            boxes=(),
            model=MODEL,
            captured=record.captured,
            sent=record.time,
            received=record.time,
            detected=record.time,
        )
        frame = Frame.build(picture(n), record)
        await self._h.publish(CAMERA_FRAME.at(node, camera="front"), frame)
        await self._h.publish(DETECTIONS.at(node, camera="front"), seen)
