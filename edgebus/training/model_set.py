"""The shared model of a retrainer and the cameras' own that are made from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgebus.artifacts import ArtifactError, Store
from edgebus.bus import Bus
from edgebus.contracts import Identity, NameRefusedError, Release, shared_model, stream_model
from edgebus.samples import SampleStore
from edgebus.training.disk_thread import DiskThread
from edgebus.training.incumbent import Incumbent
from edgebus.training.job_runner import Campaign
from edgebus.training.journal import JobJournal
from edgebus.training.trained_model import Line
from edgebus.transfer import ArtifactFetcher
from edgebus_retrainer.settings import RetrainerSettings

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

__all__ = ["Family"]


class Spawn(Protocol):
    """Runs a task, supervised."""

    def __call__(self, coroutine: Coroutine[Any, Any, None], /, *, name: str) -> None:
        """Start it."""
        ...


class Family:
    """All models of one retrainer, by their names; made as cameras turn out to need them.

    Args:
        bus: The bus.
        identity: Who publishes.
        settings: The retrainer's.
        model: Name of the shared model.
        samples: The sample store.
        journal: Remembers jobs.
        bundles: Gets the candidates.
        disk: Where stores are used.
        folder: The retrainer's data folder.
        changed: Awaited after what serves has changed, or could not be had.
        spawn: Starts tasks.
        log: A logger.
    """

    def __init__(
        self,
        *,
        bus: Bus,
        identity: Identity,
        settings: RetrainerSettings,
        model: str,
        samples: SampleStore,
        journal: JobJournal,
        bundles: Store,
        disk: DiskThread,
        folder: Path,
        changed: Callable[[], Awaitable[None]],
        spawn: Spawn,
        log: FilteringBoundLogger,
    ) -> None:
        self._bus, self._identity, self._settings = bus, identity, settings
        self._samples, self._journal, self._bundles = samples, journal, bundles
        self._disk, self._folder, self._changed = disk, folder, changed
        self._spawn, self._log = spawn, log
        self._fetcher = ArtifactFetcher(bus, identity, bundles)
        self._nameless: set[str] = set()
        self.lines: dict[str, Line] = {}
        """All of them, the shared one first."""
        self.shared = self._make(model, "")

    async def start(self) -> None:
        """Follow the releases of the shared model, and take up the own ones of the last run."""
        self._follow(self.shared)
        if self._settings.stream_models is not None:
            for name in await self._disk(self._journal.models, self.shared.name):
                await self.of(shared_model(name)[1])
        for line in self.lines.values():
            await self._offer_again(line)

    async def of(self, place: str) -> Line | None:
        """The own model of a camera, ``node.camera``; None where it may have none."""
        own = self._settings.stream_models
        if own is None or place in self._nameless or not own.takes(place):
            return None
        try:
            name = stream_model(self.shared.name, place)
        except NameRefusedError as error:
            self._deny(place, str(error))
            return None
        if name in self.lines:
            return self.lines[name]
        if len(self.lines) > own.max_models:
            self._deny(place, f"there are {own.max_models} (retrainer.stream_models.max_models)")
            return None
        line = await self._disk(self._make, name, place)
        self._follow(line)
        return line

    async def release(self, release: Release) -> None:
        """A release was announced; those of other models are no concern of this family."""
        shared, place = shared_model(release.bundle.model.name)
        if shared != self.shared.name:
            return
        line = await self.of(place) if place else self.shared
        if line is not None:
            line.hear(release.bundle.model)
            line.incumbent.release(release)

    async def kept(self) -> set[str]:
        """Digests of the bundles that any of the models needs."""
        limit = self._settings.store.results
        kept = await self._disk(self._journal.candidates, list(self.lines), limit=limit)
        for line in self.lines.values():
            kept |= line.incumbent.digests
        return kept

    def _make(self, name: str, place: str) -> Line:
        """A model to look after; reads the disk."""

        async def changed() -> None:
            line.settle(fetched=True)
            await self._changed()

        incumbent = Incumbent(
            model=name,
            identity=self._identity,
            channel=self._settings.channel,
            folder=self._folder / "cameras" / place if place else self._folder,
            store=self._bundles,
            fetcher=self._fetcher,
            changed=changed,
        )
        incumbent.restore()
        campaign = Campaign(
            bus=self._bus,
            identity=self._identity,
            settings=self._settings,
            model=name,
            samples=self._samples,
            journal=self._journal,
            bundles=self._bundles,
            shared=self.shared.incumbent if place else incumbent,
            incumbent=incumbent,
            disk=self._disk,
            folder=self._folder,
            kept=self.kept,
            log=self._log,
        )
        line = Line(name=name, place=place, incumbent=incumbent, campaign=campaign)
        self.lines[name] = line
        return line

    def _follow(self, line: Line) -> None:
        self._spawn(line.incumbent.follow(), name=f"follow releases of {line.name}")

    def _deny(self, place: str, why: str) -> None:
        self._nameless.add(place)
        self._log.warning("no model of its own for this stream", stream=place, error=why)

    async def _offer_again(self, line: Line) -> None:
        """Publish the last result of a model again: a crash may have come before."""
        last = await self._disk(self._journal.last, line.name)
        if last is None:
            return
        try:
            await line.campaign.offer(last)
        except ArtifactError as error:
            self._log.warning("candidate lost", job=last.job, error=str(error))
            return
        line.offered = last.candidate
