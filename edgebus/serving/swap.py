"""Changing the model between two frames, without a gap and without a half-loaded model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from edgebus.artifacts import ArtifactError, Bundle, ModelSource
from edgebus.contracts import ModelRef, utc_now
from edgebus.serving.engine import Engine, EngineSettings, OrtEngine
from edgebus.serving.errors import InferenceError, ModelRefusedError, NoPreviousModelError
from edgebus.serving.probe import probe_picture, run_probe

if TYPE_CHECKING:
    from edgebus_detection.models.model import DetectionModel

__all__ = ["Candidate", "HotSwap", "Serving"]

EngineMaker = Callable[[ModelSource, EngineSettings], Engine]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that is loaded, warm and has passed its probe, and does not serve yet.

    Attributes:
        model: The model.
        load_ms: Time to load it.
        warmup_ms: Time of its first inferences.
        deviation: The probe's largest deviation, as a share of what is allowed.
    """

    model: DetectionModel
    load_ms: float
    warmup_ms: float
    deviation: float


@dataclass(frozen=True, slots=True)
class Serving:
    """The model that answers frames.

    Attributes:
        model: The model.
        since: When it began.
    """

    model: DetectionModel
    since: datetime

    @property
    def ref(self) -> ModelRef:
        """Name, version, digest and engine."""
        return self.model.ref


class HotSwap:
    """Holds the serving model and the one before.

    Whoever answers a frame takes `current` once, at its start, and uses only that: the switch is
    one assignment of a reference, so a frame is answered by the old model or by the new one.
    `prepare` may take seconds and belongs in a worker thread.
    """

    def __init__(
        self,
        settings: EngineSettings | None = None,
        *,
        threshold: float | None = None,
        nms_iou: float | None = None,
        warmup_runs: int = 3,
        make_engine: EngineMaker = OrtEngine,
        novelty: bool = True,
    ) -> None:
        """Start without a model.

        Args:
            settings: How graphs are run.
            threshold: Lowest score that is kept; each manifest's by default.
            nms_iou: Overlap of one class that is suppressed; each manifest's by default.
            warmup_runs: Inferences before a candidate may serve.
            make_engine: Loads a graph.
            novelty: Whether to load what tells strange pictures, where a bundle has it.
        """
        self._settings = settings or EngineSettings()
        self._threshold, self._nms_iou = threshold, nms_iou
        self._warmup_runs = warmup_runs
        self._make_engine = make_engine
        self._novelty = novelty
        self._lock = threading.Lock()
        self._current: Serving | None = None
        self._previous: Serving | None = None

    @property
    def current(self) -> Serving | None:
        """The model that serves; take it once per frame."""
        return self._current

    @property
    def previous(self) -> Serving | None:
        """The model before it, still loaded."""
        return self._previous

    def prepare(self, bundle: Bundle) -> Candidate:
        """Load a verified bundle beside the serving model, warm it up and run its probe.

        Raises:
            ModelRefusedError: It must not serve; nothing has changed.
        """
        from edgebus_detection.models.model import DetectionModel
        from edgebus_detection.models.novelty import Novelty
        from edgebus_detection.vision import VisionError

        stage = "load"
        try:
            began = time.perf_counter()
            engine = self._make_engine(bundle, self._settings)
            model = DetectionModel(
                bundle,
                engine,
                threshold=self._threshold,
                nms_iou=self._nms_iou,
                novelty=Novelty.of(bundle) if self._novelty else None,
            )
            loaded = time.perf_counter()
            stage = "warm-up"
            picture = probe_picture(bundle.manifest, seed=0)
            for _ in range(self._warmup_runs):
                model.look(picture)
            warm = time.perf_counter()
            stage = "probe"
            deviation = run_probe(engine, bundle.manifest, bundle.probe())
        except (InferenceError, ArtifactError, VisionError, ValueError, MemoryError) as error:
            reason = str(error) or type(error).__name__
            raise ModelRefusedError(model=bundle.ref, stage=stage, reason=reason) from error
        return Candidate(
            model=model,
            load_ms=(loaded - began) * 1e3,
            warmup_ms=(warm - loaded) * 1e3,
            deviation=deviation,
        )

    def switch(self, candidate: Candidate) -> float:
        """Let a candidate serve from the next frame on.

        Returns:
            Milliseconds that the switch took.
        """
        serving = Serving(model=candidate.model, since=utc_now())
        began = time.perf_counter()
        with self._lock:
            # Held until the return: freeing a session takes milliseconds and is no part of this.
            _retired, self._previous, self._current = self._previous, self._current, serving
        return (time.perf_counter() - began) * 1e3

    def clear(self) -> None:
        """Let no model serve."""
        with self._lock:
            self._current = self._previous = None

    def rollback(self) -> Serving:
        """Let the previous model serve again; the one that served is forgotten.

        Raises:
            NoPreviousModelError: There is none.
        """
        with self._lock:
            if self._previous is None:
                raise NoPreviousModelError
            self._current = Serving(model=self._previous.model, since=utc_now())
            self._previous = None
            return self._current
