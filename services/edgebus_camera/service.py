"""The camera service: frames of any source, with ground truth where the source has it."""

from __future__ import annotations

import asyncio
import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import cv2

from edgebus.bus import MessageTooLargeError
from edgebus.contracts import new_id, utc_now
from edgebus.contracts.trace import continue_trace
from edgebus.service import Service, messaging
from edgebus_camera.pacing import Pacer, Slot
from edgebus_camera.settings import CameraSettings, ViewSettings
from edgebus_camera.sources import (
    FolderSource,
    PictureSkippedError,
    Source,
    SourceError,
    SourceFrame,
    SourceLostError,
    open_source,
)
from edgebus_camera.sources.http import HttpSource
from edgebus_camera.sources.opening import DEFAULT_FPS
from edgebus_camera.view import EncodedFrame, View
from edgebus_detection.messages import (
    CAMERA_FRAME,
    CAMERA_TRUTH,
    MOST_BOXES,
    Frame,
    FrameRecord,
    GroundTruth,
)

_OFF_GRID = 0.75
"""Frames that a recording's time stamps may be off its frame rate."""
_TOO_LATE_S = 5.0
"""Seconds behind its time stamps after which a recording goes on from where it is."""

_EXPIRES_S = 5.0
"""A frame that a broker still holds after this is of no use to a detector."""


class Camera(Service[CameraSettings]):
    """Publisher of frames: an emulated street, videos, pictures, RTSP and USB, any number."""

    name = "camera"
    publishes = (CAMERA_FRAME, CAMERA_TRUTH)

    async def start(self) -> None:
        """Open every source; a file that cannot be read ends the service, with its path."""
        # Pictures are small and several services share a host: OpenCV's own threads cost more.
        cv2.setNumThreads(1)
        self._trouble: dict[str, str] = {}
        self._ended: dict[str, str] = {}
        self._notes: dict[str, str] = {}
        opened: dict[str, Source] = {}
        try:
            for name, view in self.settings.cameras.items():
                opened[name] = await asyncio.to_thread(open_source, view)
        except SourceError:
            for source in opened.values():
                source.close()
            raise
        for name, source in opened.items():
            self.spawn(
                self._run_camera(name, self.settings.cameras[name], source), name=f"camera {name}"
            )

    async def _run_camera(self, camera: str, settings: ViewSettings, source: Source) -> None:
        """Send the frames of one camera until it ends."""
        # One thread per camera: sources are not made for more, and a slow one delays nobody else.
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"camera {camera}")
        running = _CameraLoop(
            self, camera=camera, settings=settings, source=source, executor=executor
        )
        self.log.info(
            "camera started", camera=camera, source=settings.public_source, fps=running.fps
        )
        if isinstance(source, FolderSource):
            self._report_labels(camera, source)
        try:
            end = await running.run()
        except SourceError as error:
            self.log.error("camera failed", camera=camera, error=str(error))
            await self.report(camera, trouble=str(error))
        else:
            self.log.info("camera ended", camera=camera, reason=end)
            await self.report(camera, ended=end)
        finally:
            if running.source.live:
                running.source.close()  # wakes the thread that waits for a picture
            else:
                executor.submit(running.source.close)
            executor.shutdown(wait=False)

    def _report_labels(self, camera: str, source: FolderSource) -> None:
        """Log which labels a folder has: a truth that nobody finds looks like an empty street."""
        if source.is_labelled:
            self.log.info("labels found", camera=camera, labels=source.labels)
        else:
            self.log.warning(
                "no labels of its pictures: they go out without truth",
                camera=camera,
                labels=source.labels,
            )
        if source.left_out:
            self.log.warning(
                "pictures without truth: their labels cannot be right",
                camera=camera,
                number=len(source.left_out),
                first=source.left_out[0],
            )

    async def report(
        self, camera: str, *, trouble: str = "", ended: str = "", note: str = ""
    ) -> None:
        """Keep the service's state in step with its cameras.

        Args:
            camera: Its name.
            trouble: Its fault; empty while it works.
            ended: Why it ended.
            note: What is wrong with its source, though it films on.
        """
        self._trouble[camera] = trouble
        if note:
            self._notes[camera] = note
        if ended:
            self._ended[camera] = ended
        reasons = [f"camera {name}: {reason}" for name, reason in self._trouble.items() if reason]
        if reasons:
            await self.set_state("degraded", "; ".join(reasons))
            return
        notes = [f"camera {name}: {reason}" for name, reason in self._notes.items()]
        notes += [f"camera {name} ended: {reason}" for name, reason in self._ended.items()]
        await self.set_state("ready", "; ".join(notes))


class _CameraLoop:
    """One camera while it runs."""

    def __init__(
        self,
        service: Camera,
        *,
        camera: str,
        settings: ViewSettings,
        source: Source,
        executor: ThreadPoolExecutor,
    ) -> None:
        self._service, self._camera, self._settings = service, camera, settings
        self.source, self._executor = source, executor
        self._view = View(settings)
        self._frame_topic = CAMERA_FRAME.at(service.identity, camera=camera)
        self._truth_topic = CAMERA_TRUTH.at(service.identity, camera=camera)
        self.fps = self._rate()
        self._took = self._lead = 0.0
        self._lost = 0
        self._too_large = False
        self._noted = ""
        # Of a source with time stamps that keep no rate: frames leave by these, not by a grid.
        self._by_stamps = False
        self._start = self._last_s = 0.0
        self._passed = 0

    async def run(self) -> str:
        """Send frames until the end; the reason of the end."""
        loop = asyncio.get_running_loop()
        while isinstance(self.source, HttpSource):
            try:
                self.source = await loop.run_in_executor(self._executor, self.source.connect)
            except SourceLostError as error:
                await self._wait_for_camera(error)
        self.fps = self._rate()
        start = loop.time()
        if self._settings.start_at is not None:
            start += self._settings.start_at - time.time()
        self._start = start
        pacer = None if self.fps is None else Pacer(fps=self.fps, start=start)
        number = -1
        while True:
            slot = (
                Slot(number + 1, loop.time(), 0)
                if pacer is None or self._by_stamps
                else pacer.next(loop.time(), lead=0.0 if self.source.live else self._lead)
            )
            number = slot.number
            if self._settings.frames is not None and number >= self._settings.frames:
                return f"{self._settings.frames} frames were asked for"
            if slot.skipped:
                self._count("skipped", slot.skipped)
            # A live picture is taken when it is due; any other is made ready before.
            if self.source.live:
                await asyncio.sleep(max(0.0, slot.due - loop.time()))
            elapsed = loop.time() - start if self.fps is None else number / self.fps
            try:
                taken = await loop.run_in_executor(
                    self._executor, self._take_frame, number, elapsed
                )
            except SourceLostError as error:
                await self._wait_for_camera(error)
                continue
            except PictureSkippedError as error:
                self._count("unreadable")
                self._service.log.warning("picture skipped", camera=self._camera, error=str(error))
                continue
            await self._note_trouble()
            if taken is None:
                return f"{self._settings.public_source} has no more frames"
            encoded, captured, at_s = taken
            number += self._passed
            if self._passed:
                self._count("skipped", self._passed)
            await self._report_return()
            if not self.source.live:
                due = slot.due if at_s is None else self._start + at_s
                await asyncio.sleep(max(0.0, due - loop.time()))
                captured = utc_now()
            await self._send(encoded, captured)

    def _rate(self) -> float | None:
        """Frames per second: of the settings, else of the source; None as they come."""
        return self._settings.fps or self.source.fps or (None if self.source.live else DEFAULT_FPS)

    def _take_frame(
        self, number: int, elapsed: float
    ) -> tuple[EncodedFrame, datetime, float | None] | None:
        """Read, prepare and encode one picture, in the camera's thread.

        Returns:
            The picture, when it was captured, and its own time where it leaves by that.
        """
        begun = time.perf_counter()
        frame = self.source.read(number)
        self._passed = 0
        while frame is not None and self._is_late(frame, number + self._passed):
            self._passed += 1
            frame = self.source.read(number + self._passed)
        if frame is None:
            return None
        captured = utc_now()
        at_s = frame.at_s if self._by_stamps else None
        encoded = self._view.encode(frame, time_s=elapsed if at_s is None else at_s)
        took = time.perf_counter() - begun
        # The slowest of late, slowly forgotten: one quick frame is no promise.
        self._lead = max(took, 0.8 * self._lead)
        self._took = took
        return encoded, captured, at_s

    def _is_late(self, frame: SourceFrame, number: int) -> bool:
        """Whether a frame that leaves by its own time should have left before now."""
        if frame.at_s is None or self.fps is None or self._settings.fps is not None:
            return False
        off = abs(frame.at_s - number / self.fps) * self.fps
        self._by_stamps = self._by_stamps or off > _OFF_GRID
        if not self._by_stamps:
            return False
        step, self._last_s = frame.at_s - self._last_s, frame.at_s
        late = time.monotonic() + self._lead - (self._start + frame.at_s)
        if late > _TOO_LATE_S:  # it cannot be caught up with: go on from here
            self._start += late
            return False
        return late > step / 2

    async def _note_trouble(self) -> None:
        """Report once what of a recording cannot be read."""
        trouble = self.source.trouble
        if trouble != self._noted:
            self._noted = trouble
            self._service.log.warning("recording damaged", camera=self._camera, error=trouble)
            await self._service.report(self._camera, note=trouble)

    async def _send(self, encoded: EncodedFrame, captured: datetime) -> None:
        identifier = new_id()
        attributes: dict[str, str | int] = {
            "camera": self._camera,
            "index": encoded.index,
            **messaging("send", topic=self._frame_topic.name, message=identifier),
        }
        with self._service.tracer.step(
            "send", identifier=identifier, attributes=attributes
        ) as step:
            await self._send_frame(encoded, captured, identifier, step.traceparent)

    async def _send_frame(
        self, encoded: EncodedFrame, captured: datetime, identifier: str, traceparent: str
    ) -> None:
        service, metrics = self._service, self._service.metrics
        record = FrameRecord(
            id=identifier,
            camera=self._camera,
            index=encoded.index,
            # A step of the system's clock must not put "sent" before "captured".
            captured=min(captured, utc_now()),
            width=encoded.width,
            height=encoded.height,
        )
        truth = None
        if encoded.boxes is not None and len(encoded.boxes) > MOST_BOXES:
            self._count("truths_too_large")  # part of the truth would be a wrong one
        elif encoded.boxes is not None:
            truth = GroundTruth(
                traceparent=continue_trace(traceparent),
                frame=record.id,
                camera=self._camera,
                index=encoded.index,
                captured=record.captured,
                width=encoded.width,
                height=encoded.height,
                boxes=encoded.boxes,
                condition=encoded.condition,
                effects=dict(encoded.effects),
            )
        frame = Frame.build(encoded.jpeg, record)
        try:
            if truth is not None:
                await service.bus.publish(self._truth_topic, truth, expires_in_s=_EXPIRES_S)
            await service.bus.publish(self._frame_topic, frame, expires_in_s=_EXPIRES_S)
        except MessageTooLargeError as error:
            await self._cannot_send(error)
            return
        if self._too_large:
            self._too_large = False
            service.log.info("frames fit the broker again", camera=self._camera)
            await service.report(self._camera)
        self._count("sent")
        metrics.observe("encode", encoded.encode_ms)
        metrics.observe("prepare", self._took * 1000)

    async def _cannot_send(self, error: MessageTooLargeError) -> None:
        """Report once that the broker takes no frame of this size, and go on: the next may fit."""
        self._count("refused")
        if self._too_large:
            return
        self._too_large = True
        trouble = f"a frame of {error.size} bytes, the broker takes {error.limit}; set 'quality' "
        trouble += "or 'width' lower"
        self._service.log.warning("frame too large", camera=self._camera, error=trouble)
        await self._service.report(self._camera, trouble=trouble)

    async def _wait_for_camera(self, error: SourceLostError) -> None:
        """Report once that the camera is lost, and wait longer each time."""
        if self._lost == 0:
            self._count("lost")
            self._service.log.warning("camera lost", camera=self._camera, error=str(error))
            await self._service.report(self._camera, trouble=str(error))
        settings = self._service.settings
        wait = min(settings.retry_cap_s, settings.retry_first_s * 2.0**self._lost)
        # Not more than the cap doubled again and again would overflow.
        self._lost = min(self._lost + 1, 60)
        await asyncio.sleep(wait * random.uniform(0.8, 1.0))

    async def _report_return(self) -> None:
        if self._lost:
            self._lost = 0
            self._service.log.info("camera is back", camera=self._camera)
            await self._service.report(self._camera)

    def _count(self, name: str, by: float = 1.0) -> None:
        self._service.metrics.counter(f"frames.{name}", by)
        self._service.metrics.counter(f"frames.{name}.{self._camera}", by)
