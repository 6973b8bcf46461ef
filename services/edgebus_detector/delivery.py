"""From a release to a serving model: fetch, verify, load beside, switch, report.

Whatever goes wrong on the way, the model that served goes on serving.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgebus.artifacts import ArtifactError, Bundle, Store, StoreError
from edgebus.bus import BusError
from edgebus.contracts import (
    DeliveryState,
    Identity,
    ModelRef,
    ModelStatus,
    Release,
    utc_now,
)
from edgebus.contracts.trace import continue_trace
from edgebus.serving import HotSwap, InferenceError, ModelRefusedError, Serving
from edgebus.transfer import FetchProgress
from edgebus_detector.memory import Memory, MemoryFile
from edgebus_detector.terms import DeliverySettings, Fetch, ReleaseRefusedError

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

__all__ = ["ModelDelivery"]

_MAX_LOADS = 2


class ModelDelivery:
    """Keeps the model that serves in step with the releases of one channel."""

    def __init__(
        self,
        settings: DeliverySettings,
        *,
        identity: Identity,
        store: Store,
        memory: MemoryFile,
        swap: HotSwap,
        fetch: Fetch,
        report: Callable[[ModelStatus], Awaitable[None]],
        log: FilteringBoundLogger,
        needed: Callable[[], set[str]] | None = None,
    ) -> None:
        """Put it together; `restore` comes next, then `run`.

        `needed` names the digests that others keep in the same store.
        """
        self._settings = settings
        self._identity = identity
        self._store = store
        self._file = memory
        self._swap = swap
        self._fetch = fetch
        self._report = report
        self._log = log
        self._needed = needed
        self._memory = Memory(model=settings.model)
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
    def memory(self) -> Memory:
        """What is remembered at present."""
        return self._memory

    @property
    def digests(self) -> set[str]:
        """Digests of the bundles that it needs, on their way or here."""
        target = self._target
        return self._memory.keeps() | (set() if target is None else {target.digest})

    async def restore(self, initial: Path | None) -> None:
        """Let a model serve at the start: the remembered one, the one before it, or `initial`."""
        self._memory, trouble = self._file.read(model=self._settings.model)
        problems = [trouble] if trouble else []
        for ref in (self._memory.current, self._memory.previous):
            if ref is None or self._swap.current is not None:
                continue
            try:
                bundle = await asyncio.to_thread(self._store.open_bundle, ref.digest)
                await self._serve_at_start(bundle)
            except (ArtifactError, InferenceError, OSError) as error:
                problems.append(str(error))
        if initial is not None and self._swap.current is None:
            try:
                bundle = await asyncio.to_thread(Bundle.open, initial)
                if bundle.manifest.name != self._settings.model:
                    named = f"{initial} is model {bundle.manifest.name!r}"
                    problems.append(f"{named}, the settings say {self._settings.model!r}")
                else:
                    await asyncio.to_thread(self._store.put_bundle, bundle)
                    await self._serve_at_start(bundle)
            except (ArtifactError, InferenceError, OSError) as error:
                problems.append(str(error))
        if problems:
            self._error = "; ".join(problems)
            self._log.warning("could not restore a model", reason=self._error)
        if self._memory.failed is not None:
            self._state, self._error = "failed", self._memory.failed
        await self._say()

    def offer(self, release: Release) -> bool:
        """Take note of a release; True if it is newer than all before.

        The highest sequence counts, whichever version it names.
        """
        newest = self._wanted.sequence if self._wanted is not None else self._memory.sequence
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

    def answered(self, serving: Serving) -> None:
        """A model has answered a frame."""
        if serving is self._swap.current:
            self._answered += 1

    async def taken_back(self, serving: Serving, error: Exception) -> bool:
        """A model failed on a frame: if it is on probation, the one before serves again.

        Returns:
            Whether another model serves now than the one that failed.
        """
        if self._swap.current is not serving:
            return True
        on_probation = self._answered < self._settings.probation_frames
        previous = self._swap.previous
        own = self._settings.camera is not None
        if not on_probation or (previous is None and not own):
            return False
        reason = f"taken back on its frame {self._answered + 1}: {error}"
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
        await self._say()
        return True

    async def _act(self, release: Release) -> None:
        ref = release.bundle.model
        self._traceparent = release.traceparent
        current = self._swap.current
        if current is not None and current.ref.digest == ref.digest:
            self._remember_if_possible(sequence=release.sequence, failed=None, loading=0, loads=0)
            await self._enter("updated", target=None)
            return
        if self._memory.sequence == release.sequence and self._memory.failed is not None:
            await self._enter("failed", target=ref, error=self._memory.failed)
            return
        self._log.info("release", model=_words(ref), sequence=release.sequence)
        for attempt in range(1, self._settings.attempts + 1):
            try:
                await self._bring(release)
            except (StoreError, BusError, OSError) as error:
                reason = f"attempt {attempt} of {self._settings.attempts}: {error}"
                if attempt == self._settings.attempts:
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
        if self._memory.loading == release.sequence and self._memory.loads >= _MAX_LOADS:
            msg = f"the process died {self._memory.loads} times while loading {_words(ref)}"
            raise ReleaseRefusedError(msg)
        if ref.name != self._settings.model:
            msg = f"the release names model {ref.name!r}, this node serves {self._settings.model!r}"
            raise ReleaseRefusedError(msg)
        self._seconds, self._stage_began = {}, time.monotonic()
        others = set() if self._needed is None else self._needed()
        keep = self._memory.keeps() | others | {ref.digest}
        await asyncio.to_thread(self._store.gc, keep=keep)
        self._progress, self._received = 0.0, 0
        await self._enter("downloading", target=ref)
        bundle = await self._download(release)
        if bundle is None:
            return
        self._progress = 1.0
        self._stage_done("fetching")
        await self._enter("downloaded", target=ref)
        manifest = bundle.manifest
        if (manifest.name, manifest.version, manifest.task) != (ref.name, ref.version, "detection"):
            msg = (
                f"the release names {_words(ref)} for detection, the bundle is {manifest.name} "
                f"v{manifest.version} for {manifest.task}"
            )
            raise ReleaseRefusedError(msg)
        await self._enter("verified", target=ref)
        await self._install(bundle, release)

    async def _install(self, bundle: Bundle, release: Release) -> None:
        """Load a verified bundle beside the serving one, and switch."""
        loads = self._memory.loads + 1 if self._memory.loading == release.sequence else 1
        self._remember(loading=release.sequence, loads=loads)
        self._stage_done("checking")
        await self._enter("updating", target=bundle.ref)
        candidate = await asyncio.to_thread(self._swap.prepare, bundle)
        old = self._swap.current
        # Written first: a crash in between starts with the new model, which has passed its probe.
        self._remember(
            current=candidate.model.ref,
            since=utc_now(),
            previous=old.ref if old is not None else None,
            sequence=release.sequence,
            failed=None,
            loading=0,
            loads=0,
        )
        self._swap_ms = round(self._swap.switch(candidate), 3)
        self._answered = 0
        self._stage_done("loading")
        self._log.info(
            "model switched",
            model=_words(bundle.ref),
            before=_words(old.ref) if old is not None else None,
            sequence=release.sequence,
            load_ms=round(candidate.load_ms, 1),
            warmup_ms=round(candidate.warmup_ms, 1),
            swap_ms=self._swap_ms,
            probe=round(candidate.deviation, 3),
        )
        await self._enter("updated", target=None)

    async def _download(self, release: Release) -> Bundle | None:
        """The bundle, or None when a newer release has come in the meantime."""
        fetching = asyncio.create_task(
            self._fetch(release.bundle, on_progress=self._note_progress), name="detector fetch"
        )
        reporting = asyncio.create_task(self._report_progress(), name="detector progress")
        newer = asyncio.create_task(self._changed.wait(), name="detector newer release")
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
                await self._say()

    async def _newer_within(self, seconds: float) -> bool:
        """Wait; True as soon as a newer release has come."""
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _serve_at_start(self, bundle: Bundle) -> None:
        candidate = await asyncio.to_thread(self._swap.prepare, bundle)
        self._swap.switch(candidate)
        if self._memory.current is None or self._memory.current.digest != bundle.digest:
            self._remember_if_possible(current=candidate.model.ref, since=utc_now(), previous=None)
        self._answered = self._settings.probation_frames
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
        """Change the memory, on disk first.

        Raises:
            OSError: The disk refuses; nothing has changed.
        """
        memory = self._memory.model_copy(update=changes)
        self._file.write(memory)
        self._memory = memory

    def _remember_if_possible(self, **changes: object) -> None:
        """Change the memory, on disk too unless it is full: what serves must not stop for that."""
        try:
            self._remember(**changes)
        except OSError as error:
            self._memory = self._memory.model_copy(update=changes)
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
        await self._say()

    async def _say(self) -> None:
        current = self._swap.current
        self._reported = self._progress
        await self._report(
            ModelStatus(
                traceparent=continue_trace(self._traceparent),
                source=self._identity.source,
                model=self._settings.model,
                stream=self._settings.camera,
                serving=current.ref if current is not None else None,
                since=self._memory.since if current is not None else None,
                previous=self._memory.previous,
                state=self._state,
                target=self._target,
                channel=self._settings.channel,
                sequence=self._memory.sequence,
                progress=self._progress,
                received_bytes=self._received,
                swap_ms=self._swap_ms,
                seconds=dict(self._seconds),
                error=self._error,
            )
        )


def _words(ref: ModelRef) -> str:
    return f"{ref.name} v{ref.version} ({ref.digest[:12]})"
