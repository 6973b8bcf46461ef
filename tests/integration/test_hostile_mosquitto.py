"""Bad input among good, on a real broker, to a real process that is killed in between."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgebus.bus import Bus, BusSettings, Event
from edgebus.contracts import (
    Address,
    DeadLetter,
    Identity,
    ModelRef,
    ServiceState,
    StoreStatus,
    split_of,
    topics,
)
from edgebus_detection.messages import SAMPLES, Box, Sample, SampleRecord
from edgebus_detection.models.testing import tiny_bundle, tiny_picture
from edgebus_detection.vision import encode_jpeg
from program import EDGEBUS, clean_environment

SITE = "hostile"
PATIENCE_S = 60.0
START = datetime(2026, 5, 4, 12, tzinfo=UTC)


class Anything:
    """Any bytes where a message should be."""

    content_type = "image/jpeg"

    def __init__(self, data: bytes) -> None:
        self._data = data

    def encode(self) -> bytes:
        return self._data


def sample(index: int) -> Sample:
    """A sample that no other is alike."""
    picture = tiny_picture(red=(index % 6, index // 6 % 3))
    record = SampleRecord(
        source=f"{SITE}/pi-01/collector",
        input=f"frame-{index}",
        stream="front",
        index=index,
        captured=START + timedelta(seconds=index),
        width=64,
        height=48,
        split=split_of("front", index),
        policy="truth",
        reason="1 of 1 missed (car)",
        score=1.0,
        model=ModelRef(name="tiny", version=1, digest="a" * 64),
        detections=(),
        truth=(Box(label="car", x1=0, y1=0, x2=8, y2=8),),
    )
    return Sample.build(encode_jpeg(picture, quality=80 + index % 20), record)


def spoilt(number: int) -> bytes:
    """Bytes that are no sample; each number its own way."""
    good = sample(number).jpeg
    ways: tuple[Callable[[bytes], bytes], ...] = (
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[2:],
        lambda data: data.replace(b'"score":1.0', b'"score":NaN'),
        lambda data: data.replace(b'"x2":8.0', b'"x2":9e9'),
        lambda data: data.replace(b'"index":', b'"index":-'),
        lambda data: data.replace(b"sample/1", b"sample/9"),
        lambda data: b'{"not": "a picture"}',
        lambda data: os.urandom(500),
    )
    return ways[number % len(ways)](good)


class Retrainer:
    """`edgebus run retrainer` as a process."""

    def __init__(self, url: str, folder: Path, bundle: Path) -> None:
        settings = {
            "broker.url": url,
            "site": SITE,
            "node": "gpu-01",
            "data_dir": folder,
            "retrainer.bundle": bundle,
            "retrainer.tick_s": 0.2,
            "retrainer.trigger": json.dumps({"min_samples": None}),
        }
        self._words = [word for k, v in settings.items() for word in ("--set", f"{k}={v}")]
        self._log = folder.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*EDGEBUS, "run", "retrainer", *self._words],
                env=clean_environment(OMP_NUM_THREADS="1"),
                stdout=log,
                stderr=log,
            )

    def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(timeout=30)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None


@pytest.fixture
def retrainer(mosquitto: Any, tmp_path: Path) -> Iterator[Retrainer]:
    bundle = tiny_bundle(tmp_path / "tiny").path
    assert bundle is not None
    (tmp_path / "data").mkdir()
    made = Retrainer(mosquitto.url, tmp_path / "data", bundle)
    yield made
    if made.alive:
        made.end()


class Ear:
    """The last of each kind of news from the retrainer."""

    def __init__(self) -> None:
        self.letters: list[DeadLetter] = []
        self.states: list[ServiceState] = []
        self.store: StoreStatus | None = None
        self._news = asyncio.Condition()

    async def hear(self, event: Event[Any]) -> None:
        async with self._news:
            payload = event.payload
            if isinstance(payload, DeadLetter):
                self.letters.append(payload)
            elif isinstance(payload, ServiceState):
                self.states.append(payload)
            else:
                self.store = payload
            self._news.notify_all()

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S), self._news:
            await self._news.wait_for(what)


@asynccontextmanager
async def listening(mosquitto: Any) -> AsyncIterator[tuple[Bus, Ear]]:
    identity = Identity(site=SITE, node="pi-01", service="test")
    settings = BusSettings(ephemeral=True)
    ear = Ear()
    async with Bus(mosquitto.transport(), identity=identity, settings=settings) as bus:
        mine = {"site": SITE, "node": "gpu-01"}
        await bus.subscribe(topics.DEAD_LETTER.any(**mine, service="retrainer"), ear.hear)
        await bus.subscribe(topics.SERVICE_STATE.any(**mine, service="retrainer"), ear.hear)
        await bus.subscribe(topics.STORE_STATUS.any(**mine), ear.hear)
        yield bus, ear


async def test_no_good_sample_is_lost_among_bad_ones(mosquitto: Any, retrainer: Retrainer) -> None:
    good, bad = 60, 45
    collector = Identity(site=SITE, node="pi-01", service="collector")
    where: Address[Any] = SAMPLES.at(collector)
    async with listening(mosquitto) as (bus, ear):
        retrainer.start()
        await ear.until(lambda: any(state.state == "ready" for state in ear.states))
        for number in range(good):
            await bus.publish(where, sample(number))
            if number < bad:
                await bus.publish(where, Anything(spoilt(number)))  # type: ignore[arg-type]
            if number == good // 2:
                # Whatever it has not acknowledged comes again: good and bad.
                retrainer.end(signal.SIGKILL)
                retrainer.start()
        await ear.until(lambda: ear.store is not None and ear.store.samples == good)
        await ear.until(lambda: len(ear.letters) >= bad)
        # A letter for each, and never one for a good sample; a redelivery may make a second one.
        assert {letter.reason for letter in ear.letters} == {"invalid"}
        assert {letter.size for letter in ear.letters} >= {0, len(b'{"not": "a picture"}')}
        assert all(letter.expected == "sample/1" for letter in ear.letters)
        assert ear.store is not None
        assert ear.store.samples == good
        assert ear.states[-1].state == "ready"
        assert retrainer.alive
        assert await asyncio.to_thread(retrainer.end, signal.SIGTERM) == 0
