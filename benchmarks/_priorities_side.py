"""One side of `priorities.py`, a process: ``python -m benchmarks._priorities_side …``.

Every side answers commands; the benchmark asks one. When it is told to, a sender sends a bundle and
frames through the same `Bus`, and a receiver takes them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import onnx

from benchmarks._bus_job import frame
from edgebus.artifacts import (
    Bundle,
    EngineRequirements,
    Store,
    TensorSpec,
    write_bundle,
)
from edgebus.artifacts.graph import declare_external
from edgebus.artifacts.tensors import TensorFile, dump_tensors
from edgebus.bus import BrokerSettings, Bus, BusSettings, Event, Latest
from edgebus.contracts import BundleRef, Command, CommandTopic, Identity, Reply
from edgebus.mqtt import MqttTransport
from edgebus.transfer import ArtifactFetcher, ArtifactProvider, reference
from edgebus_detection.messages import CAMERA_FRAME, Frame
from edgebus_detection.models import detection_manifest
from edgebus_detection.models.testing import tiny_onnx, tiny_tensors
from edgebus_detection.vision import DecoderSpec, InputSpec

__all__ = ["ASK", "Ask", "identity_of", "make_bundle"]

FRAMES_PER_S = 60


class Ask(Command, version=1, name="bench-ask"):
    """A command that takes no work."""


ASK = CommandTopic("{node}/{service}/cmd/ask", Ask, reply=Reply, durable=False, doc="Bench.")


def identity_of(name: str) -> Identity:
    """Of a side."""
    return Identity(site="bench", node=name, service="side")


def make_bundle(folder: Path, *, size: int) -> Bundle:
    """A bundle of about `size` bytes: a tiny model and random ballast."""
    model = tiny_onnx()
    ballast = np.random.default_rng(1).random(size // 4, np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(ballast, "ballast"))
    weights = dump_tensors(tiny_tensors() | {"ballast": ballast})
    declare_external(model, TensorFile.parse(weights, file="weights.safetensors"))
    manifest = detection_manifest(
        name="ballast",
        version=1,
        picture=InputSpec(name="images", height=48, width=64),
        outputs=(TensorSpec(name="output", shape=(1, 48, 7)),),
        decoder=DecoderSpec(kind="yolox", strides=(8,), score_threshold=0.3),
        classes=("person", "car"),
        engine=EngineRequirements(opset=13, ir_version=8),
    )
    graph = model.SerializeToString(deterministic=True)
    return write_bundle(folder, manifest=manifest, graph=graph, weights=weights)


class Side:
    """One process: its bus, and the load that it takes part in."""

    def __init__(self, bus: Bus, *, folder: Path) -> None:
        self._bus = bus
        self._folder = folder
        self._frames = 0

    async def answer(self, event: Event[Ask]) -> None:
        """Answer a command."""
        source = self._bus.identity.source
        await self._bus.reply(event, Reply(source=source, request=event.payload.id, ok=True))

    async def see(self, event: Event[Frame]) -> None:
        """Take a frame."""
        self._frames += 1

    async def run(self, *, peer: str | None) -> None:
        """Until the parent goes; without a peer whom it receives from it is a sender."""
        await self._bus.subscribe(ASK.any(node=self._bus.identity.node), self.answer)
        if peer is not None:
            frames = CAMERA_FRAME.any(node=peer)
            await self._bus.subscribe(frames, self.see, policy=Latest())
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        await (self._send(reader) if peer is None else self._receive(reader))

    async def _send(self, reader: asyncio.StreamReader) -> None:
        store = Store(self._folder)
        provider = ArtifactProvider(self._bus, self._bus.identity, store)
        serving = asyncio.create_task(provider.run())
        [digest] = store.bundles()
        ref = reference(store, digest, provider=self._bus.identity)
        _say("ready", ref=ref.model_dump_json())
        while await reader.readline():  # "load" begins, "rest" ends
            filming = asyncio.create_task(self._film())
            await reader.readline()
            filming.cancel()
            await asyncio.gather(filming, return_exceptions=True)
        serving.cancel()

    async def _film(self) -> None:
        address = CAMERA_FRAME.at(self._bus.identity, camera="front")
        begun, n = time.monotonic(), 0
        while True:
            await self._bus.publish(address, frame(n))
            n += 1
            await asyncio.sleep(max(0.0, begun + n / FRAMES_PER_S - time.monotonic()))

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        _say("ready")
        while line := await reader.readline():  # how many times, and the reference
            times, data = line.split(b" ", 1)
            ref = BundleRef.model_validate_json(data)
            self._frames, begun = 0, time.monotonic()
            for _ in range(int(times)):
                fetcher = ArtifactFetcher(self._bus, self._bus.identity, Store(self._folder))
                await fetcher.fetch(ref)
                await asyncio.to_thread(shutil.rmtree, self._folder)
            took = time.monotonic() - begun
            _say("done", seconds=took / int(times), frames_per_s=self._frames / took)


def _say(word: str, **data: object) -> None:
    sys.stdout.write(json.dumps({"word": word, **data}) + "\n")
    sys.stdout.flush()


async def main() -> None:
    """Run one side."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("port", type=int)
    parser.add_argument("folder", type=Path, help="the store: of a sender filled, else made")
    parser.add_argument("--peer", help="whom it receives from; without, it sends")
    arguments = parser.parse_args()
    transport = MqttTransport(BrokerSettings(url=f"mqtt://127.0.0.1:{arguments.port}"))
    async with Bus(transport, identity=identity_of(arguments.name), settings=BusSettings()) as bus:
        await Side(bus, folder=arguments.folder).run(peer=arguments.peer)


if __name__ == "__main__":
    asyncio.run(main())
