"""The detector: frames in, boxes out, and always the newest released model."""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from time import perf_counter

from edgebus.artifacts import Bundle, BundleError, Store
from edgebus.bus import Event, Latest, RawMessage, RetryPolicy
from edgebus.contracts import ModelStatus, Release, check_segment, topics, utc_now
from edgebus.service import Service, on
from edgebus.serving import EngineError, HotSwap, Serving
from edgebus.transfer import ArtifactFetcher
from edgebus_detection.messages import (
    CAMERA_FRAME,
    DETECTIONS,
    Detections,
    Frame,
    FrameRecord,
    StageTimes,
)
from edgebus_detection.vision import Detected, ImageError, decode_picture, to_boxes
from edgebus_detector.cameras import CameraModels
from edgebus_detector.delivery import ModelDelivery
from edgebus_detector.memory import MemoryFile
from edgebus_detector.settings import DetectorSettings
from edgebus_detector.terms import DeliverySettings

__all__ = ["Detector"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one frame.

    Attributes:
        serving: The one model that answered it.
        found: The boxes, in pixels of the frame.
        stages: Where the time went.
        detected: When the boxes were there.
        novelty: How unlike the model's reference pictures the frame is; None where unknown.
        own: Whether the model is the camera's own.
    """

    serving: Serving
    found: Detected
    classes: tuple[str, ...]
    stages: StageTimes
    detected: datetime
    novelty: float | None = None
    own: bool = False


class Detector(Service[DetectorSettings]):
    """Finds objects in the newest frame of each camera and swaps models without a gap."""

    name = "detector"
    publishes = (DETECTIONS, topics.MODEL_STATUS, topics.STREAM_MODEL, topics.ARTIFACT_WANTS)
    subscribes = (CAMERA_FRAME, topics.RELEASE, topics.ARTIFACT_BLOCK)

    async def start(self) -> None:
        """Restore the last model, and begin to follow releases."""
        settings = self.settings
        self._dropped: Counter[str] = Counter()
        self._waiting = False
        self.model = await self._model_name()
        self.swap = self._make_swap()
        # One thread for frames: inference has threads of its own, and two frames at a time only
        # delay each other. The event loop stays free for the bus.
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="detector")
        store = Store(self.data_dir / "store", quota=settings.store_quota_bytes)
        self._store, self._fetcher = store, ArtifactFetcher(self.bus, self.identity, store)
        self.cameras = CameraModels(
            bus=self.bus,
            identity=self.identity,
            model=self.model,
            channel=settings.channel,
            folder=self.data_dir / "cameras",
            make_swap=self._make_swap,
            make_delivery=self._make_delivery,
            spawn=lambda task, name: self.spawn(task, name=name),
            log=self.log,
        )
        self.delivery = self._make_delivery(
            model=self.model,
            camera=None,
            memory=MemoryFile(self.data_dir / "current.json"),
            swap=self.swap,
        )
        await self.delivery.restore(settings.bundle)
        self.spawn(self.delivery.run(), name="releases")
        if settings.stream_models:
            await self.cameras.restore()
            self.spawn(self.cameras.follow(), name="releases of cameras")
        scope = {"node": self.identity.node} if settings.scope == "node" else {}
        await self.bus.subscribe(
            CAMERA_FRAME.any(base=self.identity.base, site=self.identity.site, **scope),
            self._on_frame,
            policy=Latest(on_drop=self._on_drop),
            # An old frame is not worth a second try.
            retry=RetryPolicy(attempts=1),
            name="frames",
        )

    def _make_swap(self) -> HotSwap:
        settings = self.settings
        options = {
            "threshold": settings.threshold,
            "nms_iou": settings.nms_iou,
            "novelty": settings.novelty,
        }
        return HotSwap(settings.engine, options=options)

    def _make_delivery(
        self, *, model: str, camera: str | None, memory: MemoryFile, swap: HotSwap
    ) -> ModelDelivery:
        settings = self.settings
        return ModelDelivery(
            DeliverySettings(
                model=model,
                channel=settings.channel,
                attempts=settings.fetch_attempts,
                retry_s=settings.retry_s,
                probation_frames=settings.probation_frames,
                camera=camera,
            ),
            identity=self.identity,
            store=self._store,
            memory=memory,
            swap=swap,
            fetch=self._fetcher.fetch,
            report=self._report if camera is None else self.cameras.report,
            log=self.log,
            needed=lambda: self.delivery.digests | self.cameras.digests,
        )

    async def stop(self) -> None:
        """Let the worker go."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    @on(
        topics.RELEASE,
        where=lambda service: {"model": service.model, "channel": service.settings.channel},
    )
    async def on_release(self, event: Event[Release]) -> None:
        """Take note of a release; it is brought in beside the frames."""
        self.delivery.offer(event.payload)

    async def _on_frame(self, event: Event[Frame]) -> None:
        """Answer a frame.

        Raises:
            ImageError: The picture is broken; it becomes a dead letter.
            EngineError: The model's output is unusable.
        """
        record = event.payload.record
        attributes: dict[str, str | int] = {"camera": record.camera, "index": record.index}
        with self.tracer.step("detect", parent=record.traceparent, attributes=attributes) as step:
            channel = self._channel(event)
            self.cameras.see(channel)
            answer = await self._answer(event.payload, channel)
            if answer is None:
                self.metrics.counter("frames.unserved")
                return
            if answer.own:
                self.cameras.delivery(channel).answered(answer.serving)
            else:
                self.delivery.answered(answer.serving)
            await self._tell(event, answer, channel, step.traceparent)
        self._measure(record, answer)

    async def _tell(
        self, event: Event[Frame], answer: Answer, channel: str, traceparent: str
    ) -> None:
        """Publish an answer."""
        record = event.payload.record
        await self.bus.publish(
            DETECTIONS.at(self.identity, camera=channel),
            Detections(
                traceparent=traceparent,
                source=self.identity.source,
                frame=record.id,
                camera=record.camera,
                index=record.index,
                width=record.width,
                height=record.height,
                boxes=to_boxes(answer.found, answer.classes),
                model=answer.serving.ref,
                captured=record.captured,
                sent=record.time,
                received=event.received,
                detected=max(answer.detected, event.received),
                stages=answer.stages,
                dropped=self._dropped[event.topic],
                novelty=answer.novelty,
            ),
        )

    async def _answer(self, frame: Frame, channel: str) -> Answer | None:
        """Answer a frame in the worker; None while there is no model."""
        loop = asyncio.get_running_loop()
        while True:
            own = self.cameras.serving(channel)
            serving = own or self.swap.current
            if serving is None:
                return None
            try:
                answer = await loop.run_in_executor(self._worker, _detect, serving, frame)
                return replace(answer, own=own is not None)
            except ImageError:
                self.metrics.counter("frames.failed")
                raise
            except EngineError as error:
                # A new model on probation is taken back, and the one before answers this frame.
                delivery = self.delivery if own is None else self.cameras.delivery(channel)
                if not await delivery.taken_back(serving, error):
                    self.metrics.counter("frames.failed")
                    raise
                self.metrics.counter("model.taken_back")

    def _channel(self, event: Event[Frame]) -> str:
        """The camera's place in the topic: its name, with its node when that is another."""
        camera, node = event.names["camera"], event.names["node"]
        return camera if node == self.identity.node else check_segment(f"{node}.{camera}")

    def _on_drop(self, message: RawMessage) -> None:
        self._dropped[message.topic] += 1
        self.metrics.counter("frames.dropped")

    def _measure(self, record: FrameRecord, answer: Answer) -> None:
        stages = answer.stages
        self.metrics.counter("frames.answered")
        self.metrics.observe("decode", stages.decode_ms)
        self.metrics.observe("preprocess", stages.preprocess_ms)
        self.metrics.observe("inference", stages.inference_ms)
        self.metrics.observe("postprocess", stages.postprocess_ms)
        latency = (answer.detected - record.captured).total_seconds() * 1e3
        self.metrics.observe("latency", max(0.0, latency))

    async def _report(self, status: ModelStatus) -> None:
        """Publish where the model stands, and what that means for the service."""
        self.metrics.gauge("model.version", status.serving.version if status.serving else 0)
        if status.state == "updated" and status.swap_ms is not None:
            self.metrics.gauge("model.swap_ms", status.swap_ms)
        await self.bus.publish(topics.MODEL_STATUS.at(self.identity), status)
        if status.serving is None:
            self._waiting = True
            reason = "waiting for a first model"
            await self.set_state(
                "degraded", f"{reason}: {status.error}" if status.error else reason
            )
        elif self._waiting:
            self._waiting = False
            await self.set_state("ready")

    async def _model_name(self) -> str:
        """The model to follow: as set, as the initial bundle says, or as it was the last time.

        Raises:
            BundleError: It is not set, the bundle cannot be read, and this is the first start.
        """
        settings = self.settings
        if settings.model is not None:
            return settings.model
        assert settings.bundle is not None  # the settings see to it
        try:
            return (await asyncio.to_thread(Bundle.open, settings.bundle)).manifest.name
        except BundleError as error:
            # It is needed for the first start; whatever served since then lies in the store.
            name = MemoryFile(self.data_dir / "current.json").model()
            if name is None:
                raise
            self.log.warning("initial bundle cannot be read", reason=str(error), model=name)
            return name


def _detect(serving: Serving, frame: Frame) -> Answer:
    """Decode and detect; runs in the worker."""
    began = perf_counter()
    image = decode_picture(frame.jpeg)
    decoded = perf_counter()
    record = frame.record
    if image.shape[:2] != (record.height, record.width):
        reason = (
            f"is {image.shape[1]} x {image.shape[0]}, its record says "
            f"{record.width} x {record.height}"
        )
        raise ImageError(size=len(frame.jpeg), reason=reason)
    answer = serving.model.predict(image)
    stages = answer.stages.model_copy(update={"decode_ms": round((decoded - began) * 1e3, 3)})
    return Answer(serving, answer.found, answer.classes, stages, utc_now(), answer.novelty)
