"""Release follower: announced, fetched, verified, ready, serving, reported.

Edges, the trainer and the distributor bring released models in by the same steps. Whatever goes
wrong on the way, the model that served goes on serving.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Protocol

from pydantic import BaseModel, ConfigDict, Field

from edgebus.artifacts import ArtifactError, Bundle, Store, StoreError
from edgebus.bus import BusError
from edgebus.contracts import (
    BundleRef,
    DeliveryState,
    Identity,
    ModelRef,
    ModelStatus,
    Release,
    Segment,
    Source,
    utc_now,
)
from edgebus.contracts.trace import continue_trace
from edgebus.serving.authority import MAX_JUMP, Authorities
from edgebus.serving.errors import InferenceError, ModelRefusedError
from edgebus.serving.serving_state import ServingState, StateFile
from edgebus.serving.swap import LoadedModel, M, Serving, Swap
from edgebus.transfer import FetchProgress

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

_MAX_LOADS = 2


class ReleaseSettings(BaseModel):
    """Which releases are followed, and how stubbornly; part of a service's settings."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    channel: Segment = "stable"
    """Channel whose releases are followed."""
    releases_from: Annotated[tuple[Source, ...], Field(min_length=1)] | None = None
    """Services whose releases are followed, each as `site/node/service`; null: those of the own
    node, and the first one that announces a release of the model, which is remembered. Name them
    where other devices of the site are not to be trusted: one of them may be the first."""
    fetch_attempts: Annotated[int, Field(ge=1, le=100)] = 5
    """Attempts per release when the disk or the store fails; a release that is itself wrong is
    tried once."""
    retry_s: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """Seconds before the second attempt; doubled with each."""
    probation_inputs: Annotated[int, Field(ge=0, le=100_000)] = 20
    """Inputs that a new model must answer; one that fails before is taken back."""


class ReleaseRefusedError(Exception):
    """A release that can never serve here; trying again would not help."""


class Fetch(Protocol):
    """Brings a bundle into the store; `edgebus.transfer.ArtifactFetcher.fetch` is one."""

    def __call__(
        self, ref: BundleRef, /, *, on_progress: Callable[[FetchProgress], None]
    ) -> Coroutine[Any, Any, Bundle]:
        """Fetch a bundle and verify its bytes; waits while its provider is away."""
        ...


def verify_release(bundle: Bundle, ref: BundleRef, *, task: str | None = None) -> None:
    """Verify that a fetched bundle is what was announced: no model comes in without this.

    Its bytes were verified before, by their digests; see `edgebus.artifacts.Bundle`.

    Args:
        bundle: The bundle.
        ref: What the release, the candidate or the command names.
        task: The workload that it has to be for; None: any.

    Raises:
        ReleaseRefusedError: It is something else.
    """
    manifest, wanted = bundle.manifest, ref.model
    named = (manifest.name, manifest.version, bundle.digest)
    if named != (wanted.name, wanted.version, wanted.digest) or task not in (None, manifest.task):
        what = "" if task is None else f" for {task}"
        msg = (
            f"the release names {_words(wanted)}{what}, the bundle is {_words(bundle.ref)} for "
            f"{manifest.task}"
        )
        raise ReleaseRefusedError(msg)


class ReleaseFollower(Generic[M]):
    """Keeps the model that serves in step with the releases of one channel.

    Args:
        settings: Which channel, how stubbornly.
        identity: Who serves.
        model: Name of the model.
        task: Its workload; None: any.
        stream: The stream whose own model it is; None: the shared one. Where an own model is taken
            back and there is none before it, the shared one answers.
        authorities: Whose releases count.
        store: Where bundles are.
        state: Remembers what serves.
        swap: Holds the model that serves.
        fetch: Brings a bundle into the store.
        report: Awaited with each change of state.
        needed: Digests that others keep in the same store; None: somebody else collects its
            garbage.
        log: A logger.
    """

    def __init__(
        self,
        settings: ReleaseSettings,
        *,
        identity: Identity,
        model: str,
        task: str | None = None,
        stream: str | None = None,
        authorities: Authorities,
        store: Store,
        state: StateFile,
        swap: Swap[M],
        fetch: Fetch,
        report: Callable[[ModelStatus], Awaitable[None]],
        needed: Callable[[], set[str]] | None = None,
        log: FilteringBoundLogger,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._model, self._task, self._stream = model, task, stream
        self._authorities = authorities
        self._store = store
        self._file = state
        self._swap = swap
        self._fetch = fetch
        self._report = report
        self._needed = needed
        self._log = log
        self._remembered = ServingState(model=model)
        self._wanted: Release | None = None
        self._traceparent: str | None = None
        self._changed = asyncio.Event()
        self._state: DeliveryState = "idle"
        self._target: ModelRef | None = None
        self._progress = 0.0
        self._received = 0
        self._swap_ms: float | None = None
        self._seconds: dict[str, float] = {}
        self._stage_began = time.monotonic()
        self._error: str | None = None
        self._answered = 0
        self._reported = -1.0

    @property
    def state(self) -> ServingState:
        """The state that is remembered at present."""
        return self._remembered

    @property
    def serving(self) -> Serving[M] | None:
        """The model that serves; take it once per input."""
        return self._swap.current

    @property
    def target(self) -> ModelRef | None:
        """The version that is on its way."""
        return self._target if self._wanted is None else self._wanted.bundle.model

    @property
    def digests(self) -> set[str]:
        """Digests of the bundles that it needs, on their way or here."""
        target = self.target
        return self._remembered.digests | (set() if target is None else {target.digest})

    async def restore(self, initial: Path | None = None) -> None:
        """Let a model serve at the start: the remembered one, the one before it, or `initial`."""
        problems = await asyncio.to_thread(self.recall)
        if initial is not None and self._swap.current is None:
            try:
                bundle = await asyncio.to_thread(Bundle.open, initial)
                if bundle.manifest.name != self._model:
                    named = f"{initial} is model {bundle.manifest.name!r}"
                    problems.append(f"{named}, the settings say {self._model!r}")
                else:
                    await asyncio.to_thread(self.adopt, bundle)
            except (ArtifactError, InferenceError, OSError) as error:
                problems.append(str(error))
        if problems:
            self._error = "; ".join(problems)
            self._log.warning("could not restore a model", reason=self._error)
        if self._remembered.failed is not None:
            self._state, self._error = "failed", self._remembered.failed
        await self._publish_status()

    def recall(self) -> list[str]:
        """Let the remembered model serve, or the one before it; reads the disk, reports nothing.

        Returns:
            What was in the way.
        """
        self._remembered, trouble = self._file.read(model=self._model)
        problems = [trouble] if trouble else []
        for ref in (self._remembered.current, self._remembered.previous):
            if ref is not None and self._swap.current is None:
                try:
                    self._serve_at_start(self._store.open_bundle(ref.digest))
                except (ArtifactError, InferenceError, OSError) as error:
                    problems.append(str(error))
        return problems

    def adopt(self, bundle: Bundle) -> None:
        """Let a bundle serve that no release names; writes the disk.

        Raises:
            ArtifactError: It does not fit into the store.
            ModelRefusedError: It must not serve.
        """
        self._store.put_bundle(bundle)
        self._serve_at_start(bundle)

    def offer(self, release: Release) -> bool:
        """A release was announced; True if it is newer than all before.

        The highest sequence of whoever decides about the model counts, whichever version it names.
        """
        if not self._authorities.accepts(self._model, release.source):
            return False
        acted_on = self._remembered.sequence
        if acted_on and release.sequence > acted_on + MAX_JUMP:
            reason = (
                f"its sequence lies more than {MAX_JUMP} above {acted_on}; if that is right, stop "
                f"the service and remove {self._file.path}"
            )
            self._log.warning("release not followed", sequence=release.sequence, reason=reason)
            return False
        newest = self._wanted.sequence if self._wanted is not None else self._remembered.sequence
        again = self._wanted is None and release.sequence == newest
        if release.sequence < newest or (release.sequence == newest and not again):
            return False
        self._wanted = release
        self._changed.set()
        return True

    async def run(self) -> None:
        """Act on releases as they come, for ever."""
        done = -1
        while True:
            await self._changed.wait()
            self._changed.clear()
            release = self._wanted
            if release is not None and release.sequence != done:
                await self._act(release)
                done = release.sequence

    def answered(self, serving: Serving[M]) -> None:
        """A model has answered an input."""
        if serving is self._swap.current:
            self._answered += 1

    @property
    def previous(self) -> Serving[M] | None:
        """The model that served before."""
        return self._swap.previous

    def on_probation(self, serving: Serving[M]) -> bool:
        """Whether a model serves and has not answered enough inputs yet to be trusted."""
        few = self._answered < self._settings.probation_inputs
        return few and serving is self._swap.current

    async def taken_back(self, serving: Serving[M], error: BaseException) -> bool:
        """A model failed on an input: if it is on probation, the one before serves again.

        Returns:
            Whether another model serves now than the one that failed.
        """
        if self._swap.current is not serving:
            return True
        previous = self._swap.previous
        own = self._stream is not None
        if not self.on_probation(serving) or (previous is None and not own):
            return False
        reason = f"taken back on its input {self._answered + 1}: {error}"
        self._log.error("model taken back", model=_words(serving.ref), reason=str(error))
        if previous is None:
            self._swap.clear()
        back = None if previous is None else self._swap.rollback()
        self._remember_if_possible(
            current=None if back is None else back.ref,
            since=None if back is None else back.since,
            previous=None,
            failed=reason,
            loading=0,
            loads=0,
        )
        self._state, self._target, self._error = "failed", serving.ref, reason
        self._answered = 0
        await self._publish_status()
        return True

    async def _act(self, release: Release) -> None:
        ref = release.bundle.model
        self._traceparent = release.traceparent
        current = self._swap.current
        if current is not None and current.ref.digest == ref.digest:
            self._remember_if_possible(sequence=release.sequence, failed=None, loading=0, loads=0)
            await self._enter("updated", target=None)
            return
        if self._remembered.sequence == release.sequence and self._remembered.failed is not None:
            await self._enter("failed", target=ref, error=self._remembered.failed)
            return
        self._log.info("release", model=_words(ref), sequence=release.sequence)
        for attempt in range(1, self._settings.fetch_attempts + 1):
            try:
                await self._bring(release)
            except (StoreError, BusError, OSError) as error:
                reason = f"attempt {attempt} of {self._settings.fetch_attempts}: {error}"
                if attempt == self._settings.fetch_attempts:
                    await self._fail(release, reason)
                    return
                self._log.warning("release not installed yet", reason=reason)
                await self._enter(self._state, target=ref, error=reason)
                if await self._newer_within(self._settings.retry_s * 2 ** (attempt - 1)):
                    return
            except (ArtifactError, ModelRefusedError, ReleaseRefusedError) as error:
                await self._fail(release, str(error))
                return
            else:
                return

    async def _bring(self, release: Release) -> None:
        """Fetch, verify, load and switch; returns early when a newer release has come."""
        ref = release.bundle.model
        if self._remembered.loading == release.sequence and self._remembered.loads >= _MAX_LOADS:
            msg = f"the process died {self._remembered.loads} times while loading {_words(ref)}"
            raise ReleaseRefusedError(msg)
        if ref.name != self._model:
            msg = f"the release names model {ref.name!r}, this node serves {self._model!r}"
            raise ReleaseRefusedError(msg)
        self._seconds, self._stage_began = {}, time.monotonic()
        if self._needed is not None:
            keep = self._remembered.digests | self._needed() | {ref.digest}
            await asyncio.to_thread(self._store.gc, keep=keep)
        self._progress, self._received = 0.0, 0
        await self._enter("downloading", target=ref)
        bundle = await self._download(release)
        if bundle is None:
            return
        self._progress = 1.0
        self._stage_done("fetching")
        await self._enter("downloaded", target=ref)
        verify_release(bundle, release.bundle, task=self._task)
        await self._enter("verified", target=ref)
        await self._install(bundle, release)

    async def _install(self, bundle: Bundle, release: Release) -> None:
        """Load a verified bundle beside the serving one, and switch."""
        loads = self._remembered.loads + 1 if self._remembered.loading == release.sequence else 1
        self._remember(loading=release.sequence, loads=loads)
        self._stage_done("checking")
        await self._enter("updating", target=bundle.ref)
        loaded = await self._load(bundle)
        if loaded is None:
            return
        old = self._swap.current
        # Written first: a crash in between starts with the new model, which has passed its probe.
        self._remember(
            current=loaded.model.ref,
            since=utc_now(),
            previous=old.ref if old is not None else None,
            sequence=release.sequence,
            highest=max(bundle.manifest.version, self._remembered.highest),
            failed=None,
            loading=0,
            loads=0,
        )
        self._swap_ms = round(self._swap.switch(loaded), 3)
        self._answered = 0
        self._stage_done("loading")
        self._log.info(
            "model switched",
            model=_words(bundle.ref),
            before=_words(old.ref) if old is not None else None,
            sequence=release.sequence,
            load_ms=round(loaded.load_ms, 1),
            warmup_ms=round(loaded.warmup_ms, 1),
            swap_ms=self._swap_ms,
            probe=round(loaded.deviation, 3),
        )
        await self._enter("updated", target=None)

    async def _load(self, bundle: Bundle) -> LoadedModel[M] | None:
        """The loaded model, or None when a newer release has come.

        One that hangs must not be in the way of what takes it back. A thread cannot be stopped:
        its model goes when it is done.
        """
        loading = asyncio.create_task(
            asyncio.to_thread(self._swap.prepare, bundle), name="load release"
        )
        newer = asyncio.create_task(self._changed.wait(), name="newer release")
        try:
            await asyncio.wait({loading, newer}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                return loading.result()
            self._log.info("release superseded while it was loaded", model=_words(bundle.ref))
            loading.add_done_callback(_forget)
            return None
        finally:
            newer.cancel()

    async def _download(self, release: Release) -> Bundle | None:
        """The bundle, or None when a newer release has come in the meantime."""
        fetching = asyncio.create_task(
            self._fetch(release.bundle, on_progress=self._note_progress), name="fetch release"
        )
        reporting = asyncio.create_task(self._report_progress(), name="report progress")
        newer = asyncio.create_task(self._changed.wait(), name="newer release")
        try:
            await asyncio.wait({fetching, newer}, return_when=asyncio.FIRST_COMPLETED)
            if fetching.done():
                return fetching.result()
            self._log.info("release superseded", sequence=release.sequence)
            return None
        finally:
            for task in (fetching, reporting, newer):
                task.cancel()
            await asyncio.gather(fetching, reporting, newer, return_exceptions=True)

    def _note_progress(self, progress: FetchProgress) -> None:
        self._progress, self._received = progress.fraction, progress.received_bytes

    async def _report_progress(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            if self._progress != self._reported:
                await self._publish_status()

    async def _newer_within(self, seconds: float) -> bool:
        """Wait; True as soon as a newer release has come."""
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _serve_at_start(self, bundle: Bundle) -> None:
        if self._task not in (None, bundle.manifest.task):
            reason = f"it is for {bundle.manifest.task}, this service serves {self._task}"
            raise ModelRefusedError(model=bundle.ref, stage="load", reason=reason)
        loaded = self._swap.prepare(bundle)
        self._swap.switch(loaded)
        if self._remembered.current is None or self._remembered.current.digest != bundle.digest:
            self._remember_if_possible(
                current=loaded.model.ref,
                since=utc_now(),
                previous=None,
                highest=max(bundle.manifest.version, self._remembered.highest),
            )
        self._answered = self._settings.probation_inputs
        self._log.info("model restored", model=_words(bundle.ref))

    async def _fail(self, release: Release, reason: str) -> None:
        self._log.error(
            "release refused",
            model=_words(release.bundle.model),
            reason=reason,
            sequence=release.sequence,
        )
        self._remember_if_possible(sequence=release.sequence, failed=reason, loading=0, loads=0)
        await self._enter("failed", target=release.bundle.model, error=reason)

    def _remember(self, **changes: object) -> None:
        """Change the state, on disk first.

        Raises:
            OSError: The disk refuses; nothing has changed.
        """
        memory = self._remembered.model_copy(update=changes)
        self._file.write(memory)
        self._remembered = memory

    def _remember_if_possible(self, **changes: object) -> None:
        """Change the state, on disk too unless it is full: what serves must not stop for that."""
        try:
            self._remember(**changes)
        except OSError as error:
            self._remembered = self._remembered.model_copy(update=changes)
            self._log.warning("cannot write down what serves", reason=str(error))

    def _stage_done(self, name: str) -> None:
        """A stage of this update ends, and the next begins."""
        now = time.monotonic()
        self._seconds[name] = round(now - self._stage_began, 3)
        self._stage_began = now

    async def _enter(
        self, state: DeliveryState, *, target: ModelRef | None, error: str | None = None
    ) -> None:
        self._state, self._target, self._error = state, target, error
        await self._publish_status()

    async def _publish_status(self) -> None:
        current = self._swap.current
        self._reported = self._progress
        await self._report(
            ModelStatus(
                traceparent=continue_trace(self._traceparent),
                model=self._model,
                stream=self._stream,
                serving=current.ref if current is not None else None,
                since=self._remembered.since if current is not None else None,
                previous=self._remembered.previous,
                state=self._state,
                target=self._target,
                channel=self._settings.channel,
                sequence=self._remembered.sequence,
                progress=self._progress,
                received_bytes=self._received,
                swap_ms=self._swap_ms,
                seconds=dict(self._seconds),
                error=self._error,
            )
        )


def _forget(task: asyncio.Task[Any]) -> None:
    """Take the outcome of a task that nobody waits for any more."""
    if not task.cancelled():
        task.exception()


def _words(ref: ModelRef) -> str:
    return f"{ref.name} v{ref.version} ({ref.digest[:12]})"
