"""`edgebus up` for detection: frames, truth, pictures and accuracy beside the framework's part."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Unpack

from rich.console import RenderableType

from edgebus.bus import Bus, Event
from edgebus.lab import ROOMY, Lab, RunFacts, RunState
from edgebus.workload import Workload
from edgebus_detection.lab.measure import build_summary
from edgebus_detection.lab.pictures import PictureKeeper
from edgebus_detection.lab.report import write_run
from edgebus_detection.lab.state import DetectionState
from edgebus_detection.lab.summary import DetectionSummary
from edgebus_detection.lab.view import camera_lines, camera_table, detection_table
from edgebus_detection.messages import CAMERA_FRAME, CAMERA_TRUTH, Detections, Frame, GroundTruth

ASSETS = Path(__file__).parent / "assets"
"""The demo and its model."""


class DetectionLab(Lab):
    """Observation, view and report of a run of cameras and detectors."""

    assets: ClassVar[Path | None] = ASSETS
    state_type: ClassVar[type[RunState]] = DetectionState

    state: DetectionState
    summary: DetectionSummary

    def __init__(self, workload: Workload | None = None) -> None:
        super().__init__(workload)
        self.pictures = PictureKeeper()

    @classmethod
    def command(cls) -> Callable[..., None]:
        """`edgebus up` with options for the user's own cameras and models."""
        from edgebus_detection.lab.cli import up

        return up

    async def observe(self, bus: Bus, *, site: str) -> None:
        """Subscribe to ground truth too."""
        await super().observe(bus, site=site)
        truths = CAMERA_TRUTH.any(base=bus.identity.base, site=site)
        await bus.subscribe(truths, self._on_truth, policy=ROOMY)

    async def on_input(self, event: Event[Frame]) -> None:
        """Count a frame, and keep its picture until it is answered."""
        node, record = event.names["node"], event.payload.record
        self.state.on_frame(node, record, size=event.size)
        self.pictures.add_frame(f"{node}/{record.camera}", record.id, event.payload.jpeg)

    async def on_prediction(self, event: Event[Detections]) -> None:
        """Measure a frame's detections."""
        node, answer = event.names["node"], event.payload
        self.state.on_detections(node, answer)
        self.pictures.add_answer(self.state.camera(node, answer.camera), answer.frame)

    def look(self, *, base: str, site: str) -> list[str]:
        """A picture, too."""
        frames = CAMERA_FRAME.any(base=base, site=site)
        return [*super().look(base=base, site=site), f"-t '{frames}' -C 1 > frame.jpg"]

    def draw_streams(self, now: datetime) -> RenderableType:
        """A row per camera."""
        return camera_table(self.state, now)

    def list_streams(self, now: datetime) -> Iterable[str]:
        """A line per camera."""
        return camera_lines(self.state, now)

    def finish(self, **facts: Unpack[RunFacts]) -> None:
        """Take the figures, mAP by phase of the loop among them."""
        self.summary = build_summary(self.state, **facts)

    def write(self, folder: Path) -> list[Path]:
        """Write pictures, plot and frames too."""
        return write_run(self.state, self.summary, self.pictures, folder)

    def table(self) -> RenderableType:
        """Accuracy per camera, above the rows of every run."""
        return detection_table(self.summary, self.rounds)

    async def _on_truth(self, event: Event[GroundTruth]) -> None:
        self.state.on_truth(event.names["node"], event.payload)
