"""Listens to everything on the bus and keeps the books; knows nothing else."""

from __future__ import annotations

from edgebus.bus import Bus, DropOldest, Event
from edgebus.contracts import (
    Candidate,
    DeadLetter,
    Metrics,
    ModelStatus,
    RawBytes,
    Release,
    RolloutStatus,
    ServiceState,
    StoreStatus,
    TrainingProgress,
    TrainingResult,
    topics,
)
from edgebus_detection.lab.pictures import PictureKeeper
from edgebus_detection.lab.run_state import Tracker
from edgebus_detection.messages import (
    CAMERA_FRAME,
    CAMERA_TRUTH,
    DETECTIONS,
    SAMPLES,
    Detections,
    Frame,
    GroundTruth,
    Sample,
)

__all__ = ["Observer"]

# Room for a pause of the whole machine: what the observer misses would count as unanswered.
_ROOMY = DropOldest(messages=20_000)
_FRAMES = DropOldest(messages=2_000, bytes=128 * 2**20)


class Observer:
    """Feeds a tracker and a picture keeper from a bus.

    Args:
        bus: A connected bus.
        site: The site to watch.
        tracker: Gets what is said.
        keeper: Gets the pictures.
    """

    def __init__(self, bus: Bus, *, site: str, tracker: Tracker, keeper: PictureKeeper) -> None:
        self._bus = bus
        self._site = site
        self._tracker = tracker
        self._keeper = keeper

    async def start(self) -> None:
        """Subscribe. Retained states come at once."""
        bus, at = self._bus, {"base": self._bus.identity.base, "site": self._site}
        await bus.subscribe(topics.SERVICE_STATE.any(**at), self._state)
        await bus.subscribe(topics.SERVICE_METRICS.any(**at), self._metrics)
        await bus.subscribe(topics.MODEL_STATUS.any(**at), self._model)
        await bus.subscribe(topics.CANDIDATE.any(**at), self._candidate)
        await bus.subscribe(topics.RELEASE.any(**at), self._release)
        await bus.subscribe(topics.ROLLOUT.any(**at), self._rollout)
        await bus.subscribe(topics.STORE_STATUS.any(**at), self._store)
        await bus.subscribe(topics.TRAINING_PROGRESS.any(**at), self._progress)
        await bus.subscribe(topics.TRAINING_RESULT.any(**at), self._result)
        await bus.subscribe(topics.DEAD_LETTER.any(**at), self._letter)
        await bus.subscribe(SAMPLES.any(**at), self._sample)
        await bus.subscribe(topics.ARTIFACT_BLOCK.any(**at), self._block, deduplicate=False)
        await bus.subscribe(CAMERA_TRUTH.any(**at), self._truth, policy=_ROOMY)
        await bus.subscribe(CAMERA_FRAME.any(**at), self._frame, policy=_FRAMES)
        await bus.subscribe(DETECTIONS.any(**at), self._detections, policy=_ROOMY)

    async def _state(self, event: Event[ServiceState]) -> None:
        self._tracker.on_state(event.names["node"], event.names["service"], event.payload)

    async def _metrics(self, event: Event[Metrics]) -> None:
        metrics = event.payload
        # Figures leave at once and are never kept by the broker: they tell how clocks differ.
        self._tracker.rounds.on_clock(metrics.source, metrics.time, event.received)
        self._tracker.on_metrics(event.names["node"], event.names["service"], metrics)

    async def _model(self, event: Event[ModelStatus]) -> None:
        self._tracker.on_model_status(event.names["node"], event.names["service"], event.payload)

    async def _candidate(self, event: Event[Candidate]) -> None:
        self._tracker.on_candidate(event.payload)

    async def _release(self, event: Event[Release]) -> None:
        self._tracker.on_release(event.payload)

    async def _rollout(self, event: Event[RolloutStatus]) -> None:
        self._tracker.on_rollout(event.payload)

    async def _store(self, event: Event[StoreStatus]) -> None:
        self._tracker.on_store(event.payload)

    async def _progress(self, event: Event[TrainingProgress]) -> None:
        self._tracker.on_progress(event.payload)

    async def _result(self, event: Event[TrainingResult]) -> None:
        self._tracker.on_result(event.payload)

    async def _letter(self, event: Event[DeadLetter]) -> None:
        # The broker keeps letters: those of an earlier run are none of this one.
        if not event.retained:
            self._tracker.on_dead_letter(event.payload)

    async def _sample(self, event: Event[Sample]) -> None:
        self._tracker.on_sample(event.names["node"], event.payload.record, size=event.size)

    async def _block(self, event: Event[RawBytes]) -> None:
        provider = f"{event.names['node']}/{event.names['service']}"
        self._tracker.on_block(provider, size=event.size)

    async def _truth(self, event: Event[GroundTruth]) -> None:
        self._tracker.on_truth(event.names["node"], event.payload)

    async def _frame(self, event: Event[Frame]) -> None:
        node, record = event.names["node"], event.payload.record
        self._tracker.on_frame(node, record, size=event.size)
        self._keeper.frame(f"{node}/{record.camera}", record.id, event.payload.jpeg)

    async def _detections(self, event: Event[Detections]) -> None:
        node, answer = event.names["node"], event.payload
        self._tracker.on_detections(node, answer)
        self._keeper.answered(self._tracker.camera(node, answer.camera), answer.frame)
