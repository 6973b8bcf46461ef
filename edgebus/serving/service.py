"""The generic serving service: the newest input of each stream in, predictions out.

It follows the releases of a model of any workload and swaps versions between two inputs.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import Field, model_validator

from edgebus.artifacts import Bundle, BundleError, Store
from edgebus.bus import Event, Latest, RawMessage, RetryPolicy
from edgebus.contracts import (
    Message,
    ModelStatus,
    Release,
    Segment,
    Topic,
    check_segment,
    record_of,
    topics,
    utc_now,
)
from edgebus.service import Service, ServiceSettings, messaging, on
from edgebus.serving.authority import Authorities
from edgebus.serving.engine import EngineSettings
from edgebus.serving.model import Model
from edgebus.serving.release_follower import ReleaseFollower, ReleaseSettings
from edgebus.serving.serving_state import StateFile
from edgebus.serving.stream_models import StreamModels
from edgebus.serving.swap import HotSwap, Serving
from edgebus.transfer import ArtifactFetcher
from edgebus.workload import Answer, call_in_thread, load_workload


class ModelServiceSettings(ServiceSettings, ReleaseSettings):
    """Settings of a service that serves a model."""

    workload: Segment
    """Workload whose inputs are answered, as `edgebus.workloads` names it."""
    model: Segment | None = None
    """Name of the model to serve; by default that of `bundle`."""
    bundle: Path | None = None
    """Folder of the bundle to serve until a release names another. Without it the service waits
    for its first release."""
    stream_models: bool = True
    """Serve a stream that has a model of its own by that one, loaded beside the shared one."""
    scope: Literal["node", "site"] = "node"
    """Answer the streams of this node, or those of every node of the site."""
    engine: EngineSettings = EngineSettings()
    """Threads and device that run the model."""
    store_quota_bytes: Annotated[int, Field(ge=2**20)] = 2 * 2**30
    """Bytes that models may take on disk."""

    @model_validator(mode="after")
    def _knows_its_model(self) -> Self:
        if self.model is None and self.bundle is None:
            msg = "it needs to know its model: set model (to wait for a release) or bundle"
            raise ValueError(msg)
        return self


S = TypeVar("S", bound=ModelServiceSettings)


class ModelService(Service[S], Generic[S]):
    """Answers the newest input of each stream and swaps models without a gap."""

    publishes: tuple[Topic[Any], ...] = (
        topics.MODEL_STATUS,
        topics.STREAM_MODEL,
        topics.BLOCK_REQUEST,
    )
    subscribes: ClassVar[tuple[Topic[Any], ...]] = (topics.RELEASE, topics.BLOCK)

    def load_options(self) -> Mapping[str, Any]:
        """Options of the workload's `load`, from the settings of a subclass; by default none."""
        return {}

    async def start(self) -> None:
        """Restore the last model, and begin to follow releases."""
        settings = self.settings
        self.workload = load_workload(settings.workload)
        self.workload.prepare()
        self.publishes = (self.workload.predictions, *ModelService.publishes)
        self._dropped: Counter[str] = Counter()
        self._waiting = False
        self._store = Store(self.data_dir / "store", quota=settings.store_quota_bytes)
        self._fetcher = ArtifactFetcher(self.bus, self.identity, self._store)
        # One thread for inputs: inference has threads of its own, and two inputs at a time only
        # delay each other. The event loop stays free for the bus.
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=self.name)
        self._authorities = Authorities(
            self.identity,
            path=self.data_dir / "authorities.json",
            allowed=settings.releases_from,
            setting=f"{self.name}.releases_from",
            log=self.log,
        )
        self.model = await self._model_name()
        self.shared = self._make_follower(self.model)
        self.streams = StreamModels(
            bus=self.bus,
            identity=self.identity,
            model=self.model,
            channel=settings.channel,
            folder=self.data_dir / "streams",
            make=self._make_follower,
            spawn=lambda task, name: self.spawn(task, name=name),
            log=self.log,
        )
        await self.shared.restore(settings.bundle)
        self.spawn(self.shared.run(), name="releases")
        if settings.stream_models:
            await self.streams.restore()
            self.spawn(self.streams.follow(), name="releases of streams")
        scope = {"node": self.identity.node} if settings.scope == "node" else {}
        await self.bus.subscribe(
            self.workload.inputs.any(base=self.identity.base, site=self.identity.site, **scope),
            self._on_input,
            policy=Latest(on_drop=self._on_drop),
            # An old input is not worth a second try.
            retry=RetryPolicy(attempts=1),
            name="inputs",
        )

    async def stop(self) -> None:
        """Let the worker go; a model that never answers is not waited for."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _make_follower(self, model: str, stream: str | None = None) -> ReleaseFollower[Model]:
        state = "current.json" if stream is None else f"streams/{stream}.json"
        return ReleaseFollower(
            self.settings,
            identity=self.identity,
            model=model,
            task=self.workload.name,
            stream=stream,
            authorities=self._authorities,
            store=self._store,
            state=StateFile(self.data_dir / state),
            swap=HotSwap(self.settings.engine, options=self.load_options()),
            fetch=self._fetcher.fetch,
            report=self._report,
            needed=lambda: self.shared.digests | self.streams.digests,
            log=self.log,
        )

    @on(
        topics.RELEASE,
        where=lambda service: {"model": service.model, "channel": service.settings.channel},
    )
    async def on_release(self, event: Event[Release]) -> None:
        """A release was announced; it is brought in beside the inputs."""
        self.shared.offer(event.payload)

    async def _on_input(self, event: Event[Any]) -> None:
        """Answer an input.

        Raises:
            Exception: The input is broken, or no model can answer it; it becomes a dead letter.
        """
        record = record_of(event.payload)
        attributes: dict[str, str | int] = {
            "stream": record.stream,
            "index": record.index,
            **messaging("process", topic=event.topic, message=record.id),
        }
        with self.tracer.step("predict", parent=record.traceparent, attributes=attributes):
            stream = self._stream(event)
            self.streams.observe(stream)
            answered = await self._answer(event, stream)
            if answered is None:
                self.metrics.counter("inputs.unserved")
                return
            answer, prediction = answered
            await self.publish(
                self.workload.predictions,
                prediction,
                expires_in_s=None,
                **{self.workload.stream_level: stream},
            )
        self.metrics.counter("inputs.answered")
        for stage, ms in answer.stages.items():
            self.metrics.observe(stage, ms)
        latency = (answer.answered - record.captured).total_seconds() * 1e3
        self.metrics.observe("latency", max(0.0, latency))

    async def _answer(self, event: Event[Any], stream: str) -> tuple[Answer[Any], Message] | None:
        """Answer an input; None while there is no model."""
        while True:
            follower = self.streams.get(stream) or self.shared
            serving = follower.serving
            if serving is None:
                return None
            try:
                found = await self._ask(serving, event)
            except (Exception, SystemExit) as error:
                # A new model on probation is taken back, and the one before answers this input.
                blamed = await self._is_to_blame(follower, serving, event)
                if not blamed or not await follower.taken_back(serving, error):
                    self.metrics.counter("inputs.failed")
                    raise
                self.metrics.counter("model.taken_back")
                continue
            follower.answered(serving)
            return found

    async def _ask(self, serving: Serving[Model], event: Event[Any]) -> tuple[Answer[Any], Message]:
        """Let a model answer an input in the worker."""
        loop = asyncio.get_running_loop()
        prediction, stages, answered = await loop.run_in_executor(
            self._worker, call_in_thread, self._predict, serving, event.payload
        )
        answer = Answer(
            prediction=prediction,
            model=serving.ref,
            received=event.received,
            answered=max(answered, event.received),
            stages=stages,
            dropped=self._dropped[event.topic],
        )
        return answer, self.workload.prediction(event.payload, answer)

    async def _is_to_blame(
        self, follower: ReleaseFollower[Model], serving: Serving[Model], event: Event[Any]
    ) -> bool:
        """Whether a model failed by its own fault: a broken input fails the one before it too."""
        other = follower.previous or self.shared.serving
        if other is None or other is serving or not follower.on_probation(serving):
            return True  # nobody to compare with; whether it is taken back is the follower's
        try:
            await self._ask(other, event)
        except (Exception, SystemExit):  # noqa: BLE001 models and workloads may raise anything
            return False
        return True

    def _predict(
        self, serving: Serving[Model], payload: Any
    ) -> tuple[Any, dict[str, float], datetime]:
        """Decode and predict; runs in the worker."""
        began = perf_counter()
        inputs = self.workload.decode(payload)
        decoded = perf_counter()
        prediction = serving.model.predict(inputs)
        stages = {"decode": (decoded - began) * 1e3, "inference": (perf_counter() - decoded) * 1e3}
        stages.update(self.workload.stages(prediction))
        return prediction, stages, utc_now()

    def _stream(self, event: Event[Any]) -> str:
        """The stream's place in the topic: its name, with its node when that is another."""
        stream, node = event.names[self.workload.stream_level], event.names["node"]
        return stream if node == self.identity.node else check_segment(f"{node}.{stream}")

    def _on_drop(self, message: RawMessage) -> None:
        self._dropped[message.topic] += 1
        self.metrics.counter("inputs.dropped")

    async def _report(self, status: ModelStatus) -> None:
        """Publish where a model stands, and what that means for the service."""
        if status.stream is not None:
            await self.publish(topics.STREAM_MODEL, status, stream=status.stream)
            return
        self.metrics.gauge("model.version", status.serving.version if status.serving else 0)
        if status.state == "updated" and status.swap_ms is not None:
            self.metrics.gauge("model.swap_ms", status.swap_ms)
        await self.publish(topics.MODEL_STATUS, status)
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
            last = StateFile(self.data_dir / "current.json").peek()
            if last is None:
                raise
            self.log.warning("initial bundle cannot be read", reason=str(error), model=last.model)
            return last.model


class Server(ModelService[ModelServiceSettings]):
    """Serves a model of any workload: `edgebus run server`, with the setting `workload`."""

    name = "server"
