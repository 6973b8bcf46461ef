"""The version that is trained further: the one that is released, once it is here."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
from pydantic import ValidationError

from edgebus.artifacts import ArtifactError, Bundle, Store
from edgebus.contracts import Record, Release
from edgebus.files import write_file
from edgebus.transfer import ArtifactFetcher

__all__ = ["Incumbent", "WrongModelError"]


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


class _Pointer(Record):
    """What survives a restart.

    Attributes:
        digest: The incumbent.
        sequence: Sequence of the release that made it so.
        highest: The highest version ever released.
    """

    digest: str
    sequence: int = 0
    highest: int = 0


class Incumbent:
    """Follows the releases of one model and fetches what is released.

    Args:
        folder: Keeps the pointer and the bundle's folder for the trainer.
        store: Where bundles are.
        fetcher: Brings them in.
        changed: Awaited after the incumbent has changed, or could not be had.
    """

    def __init__(
        self,
        *,
        folder: Path,
        store: Store,
        fetcher: ArtifactFetcher,
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        self._folder = folder
        self._store = store
        self._fetcher = fetcher
        self._changed = changed
        self._pointer = _Pointer(digest="")
        self._wanted: Release | None = None
        self._news = asyncio.Event()
        self._log = structlog.get_logger().bind(service="retrainer")
        self.bundle: Bundle | None = None
        """The version that is trained further; None before the first."""
        self.trouble = ""
        """Why the newest release is not here."""

    @property
    def highest_version(self) -> int:
        """The highest version number that was ever released, or that the incumbent has."""
        own = self.bundle.manifest.version if self.bundle is not None else 0
        return max(own, self._pointer.highest)

    @property
    def digests(self) -> set[str]:
        """Digests of the bundles that it needs, on their way or here."""
        found = set() if self.bundle is None else {self.bundle.digest}
        return found | (set() if self._wanted is None else {self._wanted.bundle.model.digest})

    def restore(self) -> None:
        """Take up what the last run had; reads the disk."""
        path = self._folder / "incumbent.json"
        try:
            pointer = _Pointer.model_validate_json(path.read_bytes())
            bundle = self._store.open_bundle(pointer.digest)
        except FileNotFoundError:
            return
        except (ValidationError, ArtifactError) as error:
            # Releases are retained: the incumbent comes again over the bus.
            self._log.warning("incumbent lost", error=str(error))
            return
        self._pointer, self.bundle = pointer, bundle

    def adopt(self, bundle: Bundle, *, sequence: int = 0) -> None:
        """Make a bundle the incumbent; writes the disk."""
        self._store.put_bundle(bundle)
        self._pointer = _Pointer(
            digest=bundle.digest,
            sequence=max(sequence, self._pointer.sequence),
            highest=max(bundle.manifest.version, self._pointer.highest),
        )
        self._folder.mkdir(parents=True, exist_ok=True)
        write_file(self._folder / "incumbent.json", self._pointer.model_dump_json().encode())
        self.bundle = bundle

    def release(self, release: Release) -> None:
        """A release was announced; the newest sequence counts."""
        newest = self._wanted.sequence if self._wanted is not None else self._pointer.sequence
        if release.sequence > newest:
            self._wanted = release
            self._news.set()

    async def follow(self) -> None:
        """Bring in what is released, for ever; a newer release ends the delivery of an older."""
        while True:
            await self._news.wait()
            self._news.clear()
            release = self._wanted
            if release is None or release.sequence <= self._pointer.sequence:
                continue
            fetching = asyncio.create_task(self._fetch(release), name="fetch release")
            superseded = asyncio.create_task(self._news.wait(), name="newer release")
            try:
                await asyncio.wait({fetching, superseded}, return_when=asyncio.FIRST_COMPLETED)
                if fetching.done():
                    await fetching
            finally:
                fetching.cancel()
                superseded.cancel()
                await asyncio.gather(fetching, superseded, return_exceptions=True)

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

    async def _fetch(self, release: Release) -> None:
        model = release.bundle.model
        try:
            bundle = await self._fetcher.fetch(release.bundle)
            await asyncio.to_thread(self.adopt, bundle, sequence=release.sequence)
        except (ArtifactError, OSError) as error:
            self.trouble = f"release {model.name} v{model.version} cannot be had: {error}"
            self._log.warning("release not adopted", sequence=release.sequence, error=str(error))
        else:
            self.trouble = ""
            self._log.info(
                "incumbent", model=model.name, version=model.version, sequence=release.sequence
            )
        await self._changed()
