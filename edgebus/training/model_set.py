"""The shared model of a retrainer and the streams' own that are made from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from edgebus.artifacts import ArtifactError
from edgebus.contracts import NameRefusedError, Release, shared_model, stream_model
from edgebus.serving import Authorities
from edgebus.training.incumbent import Incumbent
from edgebus.training.job_runner import JobRunner, RetrainingContext
from edgebus.training.trained_model import TrainedModel
from edgebus.transfer import ArtifactFetcher

if TYPE_CHECKING:
    pass


class Spawn(Protocol):
    """Runs a task, supervised."""

    def __call__(self, coroutine: Coroutine[Any, Any, None], /, *, name: str) -> None:
        """Start it."""
        ...


class ModelSet:
    """All models of one retrainer, by their names; made as streams turn out to need them.

    Args:
        context: What the models share.
        model: Name of the shared model.
        changed: Awaited after what serves has changed, or could not be had.
        spawn: Starts tasks.
    """

    def __init__(
        self,
        context: RetrainingContext,
        *,
        model: str,
        changed: Callable[[], Awaitable[None]],
        spawn: Spawn,
    ) -> None:
        self._context, self._changed, self._spawn = context, changed, spawn
        self._fetcher = ArtifactFetcher(context.bus, context.identity, context.bundles)
        self._authorities = Authorities(
            context.identity,
            path=context.folder / "authorities.json",
            allowed=context.settings.releases_from,
            setting=f"{context.identity.service}.releases_from",
            log=context.log,
        )
        self._nameless: set[str] = set()
        self.models: dict[str, TrainedModel] = {}
        """All of them, the shared one first."""
        self.shared = self._make(model, "")

    async def start(self) -> None:
        """Follow the releases of the shared model, and take up the own ones of the last run."""
        self._follow(self.shared)
        if self._context.settings.stream_models is not None:
            for name in await self._context.disk(self._context.journal.models, self.shared.name):
                await self.of(shared_model(name)[1])
        for trained in self.models.values():
            await self._offer_again(trained)

    async def of(self, stream_id: str) -> TrainedModel | None:
        """The own model of a stream, ``node.stream``; None where it may have none."""
        own = self._context.settings.stream_models
        if own is None or stream_id in self._nameless or not own.takes(stream_id):
            return None
        try:
            name = stream_model(self.shared.name, stream_id)
        except NameRefusedError as error:
            self._deny(stream_id, str(error))
            return None
        if name in self.models:
            return self.models[name]
        if len(self.models) > own.max_models:
            limit = f"there are {own.max_models} (retrainer.stream_models.max_models)"
            self._deny(stream_id, limit)
            return None
        trained = await self._context.disk(self._make, name, stream_id)
        self._follow(trained)
        return trained

    async def release(self, release: Release) -> None:
        """A release was announced; those of other models are no concern of this family."""
        shared, stream_id = shared_model(release.bundle.model.name)
        if shared != self.shared.name:
            return
        if not self._authorities.accepts(shared, release.source):
            return
        trained = await self.of(stream_id) if stream_id else self.shared
        if trained is not None:
            trained.observe(release.bundle.model)
            trained.incumbent.release(release)

    async def kept(self) -> set[str]:
        """Digests of the bundles that any of the models needs."""
        limit = self._context.settings.store.results
        kept = await self._context.disk(
            self._context.journal.candidates, list(self.models), limit=limit
        )
        for trained in self.models.values():
            kept |= trained.incumbent.digests
        return kept

    def _make(self, name: str, stream_id: str) -> TrainedModel:
        """A model to look after; reads the disk."""

        async def changed() -> None:
            trained.settle(fetched=True)
            await self._changed()

        incumbent = Incumbent(
            model=name,
            task=self._context.settings.workload,
            identity=self._context.identity,
            channel=self._context.settings.channel,
            authorities=self._authorities,
            folder=self._context.folder / "streams" / stream_id
            if stream_id
            else self._context.folder,
            store=self._context.bundles,
            fetcher=self._fetcher,
            changed=changed,
        )
        incumbent.restore()
        runner = JobRunner(
            context=self._context,
            model=name,
            shared=self.shared.incumbent if stream_id else incumbent,
            incumbent=incumbent,
            kept=self.kept,
        )
        trained = TrainedModel(name=name, stream_id=stream_id, incumbent=incumbent, runner=runner)
        self.models[name] = trained
        return trained

    def _follow(self, trained: TrainedModel) -> None:
        self._spawn(trained.incumbent.follow(), name=f"follow releases of {trained.name}")

    def _deny(self, stream_id: str, why: str) -> None:
        self._nameless.add(stream_id)
        self._context.log.warning(
            "no model of its own for this stream", stream=stream_id, error=why
        )

    async def _offer_again(self, trained: TrainedModel) -> None:
        """Publish the last result of a model again: a crash may have come before."""
        last = await self._context.disk(self._context.journal.last, trained.name)
        if last is None:
            return
        try:
            await trained.runner.offer(last)
        except ArtifactError as error:
            self._context.log.warning("candidate lost", job=last.job, error=str(error))
            return
        trained.offered = last.candidate
