"""The incumbent: the released version, which is trained further and has to be beaten."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from edgebus.artifacts import Bundle, Store
from edgebus.contracts import Identity, ModelStatus, Release
from edgebus.serving import (
    Authorities,
    LoadedModel,
    ReleaseFollower,
    ReleaseSettings,
    StateFile,
    Swap,
)
from edgebus.transfer import ArtifactFetcher

INCUMBENT = "incumbent.json"
"""File in a folder with the digest of the incumbent's bundle."""


class WrongModelError(ValueError):
    """The configured bundle is another model than the configured one.

    Attributes:
        path: The bundle's folder.
        found: Name of its model.
        wanted: The configured name.
    """

    def __init__(self, *, path: Path, found: str, wanted: str) -> None:
        super().__init__(f"{path} is model {found!r}, retrainer.model says {wanted!r}")
        self.path = path
        self.found = found
        self.wanted = wanted


class Incumbent:
    """Follows the releases of one model and has the released bundle at hand.

    Args:
        model: Name of the model.
        task: Its workload.
        identity: Who follows.
        channel: Channel whose releases are followed.
        authorities: Whose releases count.
        folder: Keeps the state and the bundle's folder for the trainer.
        store: Where bundles are.
        fetcher: Brings them in.
        changed: Awaited after the incumbent has changed, or could not be had.
    """

    def __init__(
        self,
        *,
        model: str,
        task: str,
        identity: Identity,
        channel: str,
        authorities: Authorities,
        folder: Path,
        store: Store,
        fetcher: ArtifactFetcher,
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        self._folder = folder
        self._store = store
        self._changed = changed
        self._log = structlog.get_logger().bind(service=identity.service)
        # Nothing runs here: a bundle that was verified is as good as loaded.
        self._follower = ReleaseFollower[Bundle](
            ReleaseSettings(channel=channel),
            identity=identity,
            model=model,
            task=task,
            authorities=authorities,
            store=store,
            state=StateFile(folder / INCUMBENT),
            swap=Swap[Bundle](LoadedModel),
            fetch=fetcher.fetch,
            report=self._report,
            log=self._log,
        )
        self.trouble = ""
        """Why the newest release is not here."""

    @property
    def bundle(self) -> Bundle | None:
        """The version that is trained further; None before the first."""
        serving = self._follower.serving
        return None if serving is None else serving.model

    @property
    def highest_version(self) -> int:
        """The highest version number that was ever released, or that the incumbent has."""
        return self._follower.state.highest

    @property
    def digests(self) -> set[str]:
        """Digests of the bundles that it needs, on their way or here."""
        found = (self.bundle and self.bundle.ref, self._follower.target)
        return {ref.digest for ref in found if ref is not None}

    def restore(self) -> None:
        """Take up what the last run had; reads the disk."""
        for problem in self._follower.recall():
            # Releases are retained: the incumbent comes again over the bus.
            self._log.warning("incumbent lost", error=problem)

    def adopt(self, bundle: Bundle) -> None:
        """Make a bundle the incumbent that no release names; writes the disk."""
        self._follower.adopt(bundle)

    def release(self, release: Release) -> None:
        """A release was announced; the newest sequence counts."""
        self._follower.offer(release)

    async def follow(self) -> None:
        """Bring in what is released, for ever; a newer release ends the delivery of an older."""
        await self._follower.run()

    async def folder_of(self, bundle: Bundle) -> Path:
        """The bundle as a folder, for the trainer's process."""
        path = self._folder / "bundles" / bundle.digest[:16]
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_dir():
            await asyncio.to_thread(self._store.checkout, bundle.digest, path)
        return path

    def tidy(self, *, keep: set[str]) -> None:
        """Forget bundles that nobody needs; writes the disk."""
        keep = keep | self.digests
        self._store.gc(keep=keep)
        folders = self._folder / "bundles"
        for path in folders.iterdir() if folders.is_dir() else ():
            if not any(digest.startswith(path.name) for digest in keep):
                shutil.rmtree(path, ignore_errors=True)

    async def _report(self, status: ModelStatus) -> None:
        self.trouble = ""
        if status.error is not None and status.target is not None:
            target = status.target
            self.trouble = f"release {target.name} v{target.version} cannot be had: {status.error}"
        if status.state in ("updated", "failed"):
            await self._changed()
