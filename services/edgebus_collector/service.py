"""The collector service: joins, decides, spools and sends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from math import nan

import cv2

from edgebus.bus import DropOldest, Event
from edgebus.contracts import CaptureCommand, PayloadError, Reply, ServiceState, topics
from edgebus.contracts.topics import CMD_CAPTURE, DRIFT
from edgebus.service import CommandRefusedError, Service, command, every, on
from edgebus_collector.budget import TokenBucket
from edgebus_collector.drift import DriftWatch, make_detector
from edgebus_collector.feedback import FeedbackRefusedError, resolve
from edgebus_collector.history import History, Seen
from edgebus_collector.joining import Joiner
from edgebus_collector.samples import Surroundings, make_sample
from edgebus_collector.selection import Choice, Suppressed
from edgebus_collector.sending import Sender
from edgebus_collector.settings import CollectorSettings, DriftSettings
from edgebus_collector.spool import Spool, SpoolFullError
from edgebus_detection.messages import (
    CAMERA_FRAME,
    CAMERA_TRUTH,
    DETECTIONS,
    FEEDBACK,
    SAMPLES,
    Detections,
    Feedback,
    Frame,
    GroundTruth,
)
from edgebus_detection.mining.examples import Example
from edgebus_detection.mining.reference_model import SecondModel
from edgebus_detection.vision import ImageError

__all__ = ["Collector"]

_FRAMES = DropOldest(messages=32, bytes=32 * 2**20)


def _receiver_of(service: Collector) -> dict[str, str]:
    return {"service": service.settings.receiver or service.name}


class Collector(Service[CollectorSettings]):
    """Collects what the model got wrong, and a fair share of held-out frames to measure on."""

    name = "collector"
    publishes = (SAMPLES, DRIFT)

    async def start(self) -> None:
        """Make the policies and take up what the last run could not send."""
        settings = self.settings
        cv2.setNumThreads(1)
        buffer, budget = settings.buffer, settings.budget
        self._joiner = Joiner(frames=buffer.frames, size=buffer.bytes)
        self._history = History(frames=buffer.history_frames, size=buffer.history_bytes)
        self._words = TokenBucket(
            rate=budget.feedback_per_minute / 60, capacity=max(1.0, budget.feedback_per_minute)
        )
        chain = settings.chain()
        self._selector = settings.selector(chain)
        self._drift = None if settings.drift is None else await _watch(settings.drift)
        self._gauged: set[str] = set()
        self._trouble = ""
        self._alive: set[str] = set()
        self._receiver = asyncio.Event()
        if settings.receiver is None:
            self._receiver.set()
        spool = await asyncio.to_thread(
            Spool,
            self.data_dir / "spool",
            max_samples=settings.spool.max_samples,
            max_bytes=settings.spool.max_bytes,
            overflow=settings.spool.overflow,
        )
        self._spool = spool
        self._sender = Sender(
            bus=self.bus,
            identity=self.identity,
            spool=spool,
            receiver=self._receiver,
            metrics=self.metrics,
            log=self.log,
            trouble=self._set_trouble,
        )
        # One frame waits at most: the second model is shown a share, not a backlog.
        self._to_second: asyncio.Queue[Example] = asyncio.Queue(maxsize=1)
        if settings.second is not None:
            second = await asyncio.to_thread(
                SecondModel.load, settings.second, imports=self.data_dir / "second"
            )
            self.log.info("second model", model=second.name, share=settings.second.share)
            self.spawn(self._ask_second(second), name="second model")
        self.log.info("collecting", policies=chain.names, spooled=len(spool))
        self.spawn(self._sender.run(), name="send samples")

    @on(CAMERA_TRUTH, scope="node")
    async def on_truth(self, event: Event[GroundTruth]) -> None:
        """What is really in a frame."""
        await self._judge(self._joiner.add_truth(event.payload))

    @on(CAMERA_FRAME, scope="node", policy=_FRAMES)
    async def on_frame(self, event: Event[Frame]) -> None:
        """A picture."""
        await self._judge(self._joiner.add_frame(event.payload))

    @on(DETECTIONS, scope="node")
    async def on_detections(self, event: Event[Detections]) -> None:
        """What the model saw in a frame."""
        await self._watch_drift(event.payload)
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

    @on(FEEDBACK)
    async def on_feedback(self, event: Event[Feedback]) -> None:
        """An operator says that the model was wrong; the frame becomes a sample."""
        feedback = event.payload
        mine = feedback.node == self.identity.node
        if not mine and (feedback.node or feedback.camera not in self._joiner.cameras):
            return
        try:
            seen = resolve(feedback, self._history)
        except FeedbackRefusedError as error:
            self.metrics.counter(f"feedback.{error.cause}")
            if error.cause != "repeated":
                self.log.warning("feedback leads nowhere", by=feedback.source, error=error.reason)
            return
        if self._words.available(time.monotonic()) < 1:
            self.metrics.counter("feedback.too_much")
            return
        self._words.spend(1)
        self.metrics.counter("feedback")
        await self._keep(self._selector.take_back(seen), seen)

    @command(CMD_CAPTURE)
    async def capture(self, event: Event[CaptureCommand]) -> Reply:
        """Send the next frame of a camera, whatever it shows."""
        camera = event.payload.stream
        if camera not in self._joiner.cameras:
            known = ", ".join(self._joiner.cameras) or "none yet"
            msg = f"no camera {camera!r} on this node; heard of: {known}"
            raise CommandRefusedError(msg)
        if self._refused(camera):
            msg = f"nothing is collected from camera {camera!r}: its consent is 'refused'"
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
        if self._drift is not None:
            cameras = self._drift.cameras
            self.metrics.gauge("drift.cameras", sum(count > 0 for count in cameras.values()))
            for name in self._gauged - cameras.keys():
                self.metrics.gauge(f"drift.{name}", nan)  # forgotten, here too
            for name, count in cameras.items():
                self.metrics.gauge(f"drift.{name}", count)
            self._gauged = set(cameras)

    def _refused(self, camera: str) -> bool:
        return self.settings.of_camera(camera).consent == "refused"

    async def _watch_drift(self, detections: Detections) -> None:
        if self._drift is None:
            return
        for drift in self._drift.look(detections, source=self.identity.source):
            self.metrics.counter("drift.returned" if drift.returned else "drift.events")
            self.log.info(
                "drift over" if drift.returned else "drift",
                stream=drift.stream,
                statistic=drift.statistic,
                before=round(drift.before, 3),
                after=round(drift.after, 3),
                since=drift.since,
            )
            address = DRIFT.at(self.identity, stream=drift.stream)
            await self.bus.publish(address, drift)

    async def _judge(self, examples: Sequence[Example]) -> None:
        for example in examples:
            if self._refused(example.camera):
                self.metrics.counter("refused")
                continue
            self.metrics.counter("considered")
            self._history.add(example)
            try:
                decision = self._selector.decide(example, now=time.monotonic())
            except ImageError:
                # The detector dead-letters it; one dead letter is enough.
                self.metrics.counter("unreadable")
                continue
            await self._carry_out(decision)
            if decision is None and self._selector.wants_second(example):
                if self._to_second.full():
                    self.metrics.counter("second.busy")
                else:
                    self._to_second.put_nowait(example)

    async def _ask_second(self, model: SecondModel) -> None:
        """Show frames to the second model, one at a time, for ever."""
        from edgebus.serving import EngineError
        from edgebus_detection.vision import ImageError

        while True:
            example = await self._to_second.get()
            began = time.perf_counter()
            try:
                boxes = await asyncio.to_thread(model.look, example.frame.jpeg)
                example = replace(example, second=boxes)
                decision = self._selector.decide_second(example, now=time.monotonic())
            except (ImageError, EngineError):
                self.metrics.counter("second.failed")
                continue
            self.metrics.observe("second", (time.perf_counter() - began) * 1e3)
            await self._carry_out(decision)

    async def _carry_out(self, decision: Choice | Suppressed | None) -> None:
        if isinstance(decision, Suppressed):
            self.metrics.counter(f"suppressed.{decision.cause}")
        elif isinstance(decision, Choice):
            await self._keep(decision)

    async def _keep(self, choice: Choice, seen: Seen | None = None) -> None:
        camera = choice.example.camera
        own = self.settings.of_camera(camera)
        around = Surroundings(
            drift=None if self._drift is None else self._drift.state(camera),
            feedback=() if seen is None else seen.verdicts,
            consent=own.consent,
            retention=own.retention,
        )
        detections = choice.example.detections
        with self.tracer.step(
            "collect", parent=detections.traceparent, attributes={"policy": choice.policy}
        ) as step:
            await self._spool_sample(choice, step.traceparent, around)

    async def _spool_sample(self, choice: Choice, traceparent: str, around: Surroundings) -> None:
        source = self.identity.source
        try:
            sample = make_sample(choice, source=source, traceparent=traceparent, around=around)
        except PayloadError as error:
            self.metrics.counter("dropped.too_large")
            self.log.warning("sample dropped", camera=choice.example.camera, error=str(error))
            return
        try:
            dropped = await self._sender.put(sample)
        except (OSError, SpoolFullError) as error:
            # A full disk must not stop the detector's neighbour from looking at frames.
            self.metrics.counter("dropped.spool")
            await self._set_trouble(f"samples are lost: {error}")
            return
        self.metrics.counter("dropped.spool", len(dropped))
        self.metrics.counter(f"collected.{choice.policy}")
        self.metrics.counter(f"split.{choice.split}")
        if dropped:
            await self._set_trouble("the spool is full; the oldest samples are dropped")
        elif self._trouble:
            await self._set_trouble("")

    async def _set_trouble(self, trouble: str) -> None:
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble:
            self.log.warning("collector in trouble", reason=trouble)
        await self.set_state("degraded" if trouble else "ready", trouble)


async def _watch(settings: DriftSettings) -> DriftWatch:
    """A watch over all cameras.

    Raises:
        ImportError: The library of the change detectors is not installed.
    """
    # The first one loads the library, which takes a second.
    await asyncio.to_thread(make_detector, settings.detector, settings.parameter)
    return DriftWatch(
        lambda: make_detector(settings.detector, settings.parameter),
        name=settings.detector,
        statistics=settings.statistics,
        calibration=settings.calibration,
        max_block=settings.max_block,
        least=settings.min_change,
        empty=settings.empty,
    )
