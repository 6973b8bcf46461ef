"""The collector service: joins, decides, spools and sends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import cv2

from edgebus.bus import DropOldest, Event, MessageTooLargeError, PublishRefusedError
from edgebus.contracts import (
    CaptureCommand,
    Detections,
    Frame,
    GroundTruth,
    PayloadError,
    Reply,
    Sample,
    ServiceState,
    topics,
)
from edgebus.service import CommandRefusedError, Service, command, every, on
from edgebus_collector.budget import Budget
from edgebus_collector.examples import Example
from edgebus_collector.hashing import NearDuplicates, PictureUnreadableError
from edgebus_collector.joining import Joiner
from edgebus_collector.policies import PolicyChain, make_policies
from edgebus_collector.selection import Choice, Selector, Suppressed, make_sample
from edgebus_collector.settings import CollectorSettings
from edgebus_collector.spool import Spool, SpoolFullError

__all__ = ["Collector"]

_FRAMES = DropOldest(messages=32, bytes=32 * 2**20)
_REFUSED_REST_S = 30.0


def _receiver_of(service: Collector) -> dict[str, str]:
    return {"service": service.settings.receiver or service.name}


class Collector(Service[CollectorSettings]):
    """Collects what the model got wrong, and a fair share of held-out frames to measure on."""

    name = "collector"

    async def start(self) -> None:
        """Make the policies and take up what the last run could not send."""
        settings = self.settings
        cv2.setNumThreads(1)
        chain = PolicyChain(make_policies(settings.policies), combination=settings.combine)
        self._joiner = Joiner(frames=settings.buffer.frames, size=settings.buffer.bytes)
        self._selector = Selector(
            chain=chain,
            budget=Budget(
                samples_per_minute=settings.budget.samples_per_minute,
                bytes_per_hour=settings.budget.bytes_per_hour,
                holdout_share=settings.budget.holdout_share,
            ),
            duplicates=NearDuplicates(
                distance=settings.duplicate_distance, memory=settings.duplicate_memory
            ),
            holdout_share=settings.holdout_share,
            audit_share=settings.audit_share,
        )
        self._spool = await asyncio.to_thread(
            Spool,
            self.data_dir / "spool",
            max_samples=settings.spool.max_samples,
            max_bytes=settings.spool.max_bytes,
            overflow=settings.spool.overflow,
        )
        # The spool is used from threads, one at a time.
        self._disk = asyncio.Lock()
        self._work = asyncio.Event()
        self._trouble = ""
        self._alive: set[str] = set()
        self._receiver = asyncio.Event()
        if settings.receiver is None:
            self._receiver.set()
        self._work.set()
        self.log.info("collecting", policies=chain.names, spooled=len(self._spool))
        self.spawn(self._send(), name="send samples")

    @on(topics.CAMERA_TRUTH, scope="node")
    async def on_truth(self, event: Event[GroundTruth]) -> None:
        """What is really in a frame."""
        await self._judge(self._joiner.add_truth(event.payload))

    @on(topics.CAMERA_FRAME, scope="node", policy=_FRAMES)
    async def on_frame(self, event: Event[Frame]) -> None:
        """A picture."""
        await self._judge(self._joiner.add_frame(event.payload))

    @on(topics.DETECTIONS, scope="node")
    async def on_detections(self, event: Event[Detections]) -> None:
        """What the model saw in a frame."""
        await self._judge(self._joiner.add_detections(event.payload))

    @on(topics.SERVICE_STATE, where=_receiver_of)
    async def on_state(self, event: Event[ServiceState]) -> None:
        """Whether somebody is there who takes samples.

        A broker forgets what nobody has subscribed to, and holds only so much for who is away.
        """
        if self.settings.receiver is None:
            return
        if event.payload.state in {"ready", "degraded"}:
            self._alive.add(event.topic)
        else:
            self._alive.discard(event.topic)
        if bool(self._alive) != self._receiver.is_set():
            self.log.info("receiver of samples", there=bool(self._alive), who=event.topic)
        if self._alive:
            self._receiver.set()
        else:
            self._receiver.clear()

    @command(topics.CMD_CAPTURE)
    async def capture(self, event: Event[CaptureCommand]) -> Reply:
        """Send the next frame of a camera, whatever it shows."""
        camera = event.payload.camera
        if camera not in self._joiner.cameras:
            known = ", ".join(self._joiner.cameras) or "none yet"
            msg = f"no camera {camera!r} on this node; heard of: {known}"
            raise CommandRefusedError(msg)
        self._selector.ask(camera)
        return Reply(
            source=self.identity.source,
            request=event.payload.id,
            ok=True,
            detail=f"the next frame of {camera} that has detections becomes a sample",
        )

    @every(seconds=1.0)
    async def measure(self) -> None:
        """Bring the gauges up to date."""
        self.metrics.gauge("spool.samples", len(self._spool))
        self.metrics.gauge("spool.bytes", self._spool.size)
        self.metrics.gauge("frames.waiting", self._joiner.pending)
        self.metrics.gauge("frames.expired", self._joiner.expired)

    async def _judge(self, examples: Sequence[Example]) -> None:
        for example in examples:
            self.metrics.counter("considered")
            try:
                decision = self._selector.decide(example, now=time.monotonic())
            except PictureUnreadableError:
                # The detector dead-letters it; one dead letter is enough.
                self.metrics.counter("unreadable")
                continue
            if isinstance(decision, Suppressed):
                self.metrics.counter(f"suppressed.{decision.cause}")
            elif isinstance(decision, Choice):
                await self._keep(decision)

    async def _keep(self, choice: Choice) -> None:
        detections = choice.example.detections
        with self.tracer.step(
            "collect", parent=detections.traceparent, attributes={"policy": choice.policy}
        ) as step:
            await self._spool_sample(choice, step.traceparent)

    async def _spool_sample(self, choice: Choice, traceparent: str) -> None:
        try:
            sample = make_sample(choice, source=self.identity.source, traceparent=traceparent)
        except PayloadError as error:
            self.metrics.counter("dropped.too_large")
            self.log.warning("sample dropped", camera=choice.example.camera, error=str(error))
            return
        try:
            async with self._disk:
                dropped = await asyncio.to_thread(
                    self._spool.put, sample.record.id, sample.encode()
                )
        except (OSError, SpoolFullError) as error:
            # A full disk must not stop the detector's neighbour from looking at frames.
            self.metrics.counter("dropped.spool")
            await self._set_trouble(f"samples are lost: {error}")
            return
        self.metrics.counter("dropped.spool", len(dropped))
        self.metrics.counter(f"collected.{choice.policy}")
        self.metrics.counter(f"split.{choice.split}")
        self._work.set()
        if dropped:
            await self._set_trouble("the spool is full; the oldest samples are dropped")
        elif self._trouble:
            await self._set_trouble("")

    async def _send(self) -> None:
        """Bring spooled samples to the broker, oldest first, for ever."""
        address = topics.SAMPLES.at(self.identity)
        while True:
            await self._work.wait()
            async with self._disk:
                item = self._spool.oldest()
                if item is None:
                    self._work.clear()
                    continue
                sample = await asyncio.to_thread(_read, item.path)
            if sample is None:
                self.metrics.counter("dropped.corrupt")
                self.log.warning("sample dropped", sample=item.id, error="corrupt in the spool")
            else:
                await self._receiver.wait()
                await self.bus.connected()
                session = self.bus.connection.session
                try:
                    await self.bus.publish(address, sample)
                except MessageTooLargeError as error:
                    self.metrics.counter("dropped.too_large")
                    self.log.warning("sample dropped", sample=item.id, error=str(error))
                except PublishRefusedError as error:
                    await self._set_trouble(f"samples stay on disk: {error}")
                    await asyncio.sleep(_REFUSED_REST_S)
                    continue
                else:
                    if not await self._acknowledged(session):
                        # It only reached the outbox, which does not survive this process. It is
                        # sent once more; the retrainer knows it by its id.
                        continue
                    self.metrics.counter("sent")
                    self.metrics.counter("sent.bytes", item.size)
            async with self._disk:
                await asyncio.to_thread(self._spool.remove, item.id)

    async def _acknowledged(self, session: int) -> bool:
        """Whether what was just published is with the broker, and not only in the outbox."""
        # When a connection breaks, publishers are released before the loss is announced.
        await asyncio.sleep(0)
        connection = self.bus.connection
        return connection.connected and connection.session == session

    async def _set_trouble(self, trouble: str) -> None:
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble:
            self.log.warning("collector in trouble", reason=trouble)
        await self.set_state("degraded" if trouble else "ready", trouble)


def _read(path: Path) -> Sample | None:
    """A spooled sample; None where the disk has lost it."""
    try:
        return Sample.decode(path.read_bytes())
    except (OSError, PayloadError):
        return None
