"""Hot swap: another model between two inputs, without a gap and without a half-loaded model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from edgebus.artifacts import ArtifactError, Bundle, ModelSource
from edgebus.contracts import STRANGE, ModelRef, utc_now
from edgebus.serving.engine import Engine, EngineSettings, OrtEngine
from edgebus.serving.errors import InferenceError, ModelRefusedError, NoPreviousModelError
from edgebus.serving.model import Model
from edgebus.serving.probe import run_probe
from edgebus.workload import WorkloadUnknownError, load_workload

# Errors whose text says all.
_TOLD = (InferenceError, ArtifactError, WorkloadUnknownError, ValueError)

EngineMaker = Callable[[ModelSource, EngineSettings], Engine]


class Named(Protocol):
    """Anything with a model's name, version and digest; a `Bundle` and a `Model` are."""

    @property
    def ref(self) -> ModelRef:
        """Name, version and digest."""
        ...


M = TypeVar("M", bound=Named)


@dataclass(frozen=True, slots=True)
class LoadedModel(Generic[M]):
    """A model that is loaded, warm and has passed its probe, and does not serve yet.

    Attributes:
        model: The model.
        load_ms: Time to load it.
        warmup_ms: Time of its first inferences.
        deviation: The probe's largest deviation, as a share of what is allowed.
    """

    model: M
    load_ms: float = 0.0
    warmup_ms: float = 0.0
    deviation: float = 0.0


@dataclass(frozen=True, slots=True)
class Serving(Generic[M]):
    """The model that answers inputs.

    Attributes:
        model: The model.
        since: When it began.
    """

    model: M
    since: datetime

    @property
    def ref(self) -> ModelRef:
        """Name, version, digest and engine."""
        return self.model.ref


class Swap(Generic[M]):
    """Holds the serving model and the one before.

    Whoever answers an input takes `current` once, at its start, and uses only that: the switch is
    one assignment of a reference, so an input is answered by the old model or by the new one.
    `prepare` may take seconds and belongs in a worker thread.

    Args:
        load: Makes a model of a verified bundle; raises ModelRefusedError for one that must not
            serve.
    """

    def __init__(self, load: Callable[[Bundle], LoadedModel[M]]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._current: Serving[M] | None = None
        self._previous: Serving[M] | None = None

    @property
    def current(self) -> Serving[M] | None:
        """The model that serves; take it once per input."""
        return self._current

    @property
    def previous(self) -> Serving[M] | None:
        """The model before it, still loaded."""
        return self._previous

    def prepare(self, bundle: Bundle) -> LoadedModel[M]:
        """Load a verified bundle beside the serving model.

        Raises:
            ModelRefusedError: It must not serve; nothing has changed.
        """
        return self._load(bundle)

    def switch(self, loaded: LoadedModel[M]) -> float:
        """Let a loaded model serve from the next input on.

        Returns:
            Milliseconds that the switch took.
        """
        serving = Serving(model=loaded.model, since=utc_now())
        began = time.perf_counter()
        with self._lock:
            # Held until the return: freeing a session takes milliseconds and is no part of this.
            _retired, self._previous, self._current = self._previous, self._current, serving
        return (time.perf_counter() - began) * 1e3

    def clear(self) -> None:
        """Let no model serve."""
        with self._lock:
            self._current = self._previous = None

    def rollback(self) -> Serving[M]:
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


class HotSwap(Swap[Model]):
    """Holds models that an engine runs: loaded, warmed up and probed beside the serving one."""

    def __init__(
        self,
        settings: EngineSettings | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        warmup_runs: int = 3,
        make_engine: EngineMaker = OrtEngine,
    ) -> None:
        """Start without a model.

        Args:
            settings: How graphs are run.
            options: What the workload's `load` takes besides, by name.
            warmup_runs: Inferences before a model may serve.
            make_engine: Loads a graph.
        """
        super().__init__(self._load_and_probe)
        self._settings = settings or EngineSettings()
        self._options = dict(options or {})
        self._warmup_runs = warmup_runs
        self._make_engine = make_engine

    def _load_and_probe(self, bundle: Bundle) -> LoadedModel[Model]:
        stage = "load"
        try:
            began = time.perf_counter()
            workload = load_workload(bundle.manifest.task)
            engine = self._make_engine(bundle, self._settings)
            model = workload.load(bundle, engine, **self._options)
            loaded = time.perf_counter()
            stage = "warm-up"
            for _ in range(self._warmup_runs):
                model.warm_up()
            warm = time.perf_counter()
            stage = "probe"
            deviation = run_probe(engine, bundle.manifest, bundle.probe())
        except OSError:
            raise  # the disk's trouble, which may pass
        except STRANGE as error:
            # A stranger's workload may raise anything; it must not end the service.
            told = isinstance(error, _TOLD) and str(error)
            reason = told or f"{type(error).__name__}: {error}".removesuffix(": ")
            raise ModelRefusedError(model=bundle.ref, stage=stage, reason=reason) from error
        return LoadedModel(
            model=model,
            load_ms=(loaded - began) * 1e3,
            warmup_ms=(warm - loaded) * 1e3,
            deviation=deviation,
        )
