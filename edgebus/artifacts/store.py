"""A content-addressed store: bytes by their SHA-256, and bundles made of them.

Layout below the root::

    blobs/ab/abcd…      bytes whose SHA-256 is abcd…
    bundles/<digest>    empty; all blobs of this bundle are there
    partial/<digest>    a blob on its way in; its blocks are checked again after a restart

Everything is written beside its place and renamed, so a crash leaves either nothing or the whole.
Versions share what they have in common, for example the graph. One process uses a store.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from edgebus.artifacts.bundle import Bundle, Limits
from edgebus.artifacts.errors import BlobMissingError, BundleDigestError, QuotaExceededError
from edgebus.artifacts.index import INDEX, BundleIndex, sha256
from edgebus.files import drop_leftovers, sync_folder, write_file, write_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class GarbageCollected:
    """Counts of what `gc` removed."""

    bundles: int
    blobs: int
    bytes: int


class Store:
    """Blobs and bundles in a folder.

    Args:
        root: The folder; it is made.
        quota: Bytes that may lie in it; None for no bound but the disk's.
        limits: The largest that a bundle may have.
    """

    def __init__(
        self, root: Path | str, *, quota: int | None = None, limits: Limits | None = None
    ) -> None:
        self.root = Path(root)
        self.quota = quota
        self.limits = limits or Limits()
        self._blobs = self.root / "blobs"
        self._bundles = self.root / "bundles"
        self._partial = self.root / "partial"
        for folder in (self._blobs, self._bundles, self._partial):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in (self._blobs, self._bundles):
            drop_leftovers(folder)
        self._used = sum(
            file.stat().st_size
            for folder in (self._blobs, self._partial)
            for file in folder.rglob("*")
            if file.is_file()
        )

    @property
    def used(self) -> int:
        """Bytes of all blobs, unfinished ones included."""
        return self._used

    def has(self, digest: str) -> bool:
        """Whether the store holds a blob."""
        return self._blob(digest).is_file()

    def size(self, digest: str) -> int:
        """Bytes of a blob.

        Raises:
            BlobMissingError: It is not there.
        """
        try:
            return self._blob(digest).stat().st_size
        except FileNotFoundError:
            raise BlobMissingError(digest=digest) from None

    def get(self, digest: str) -> bytes:
        """A blob, verified.

        Raises:
            BlobMissingError: It is not there.
            BundleDigestError: The disk gave other bytes than were written; the blob is dropped, so
                that it is fetched again.
        """
        data = self.read(digest)
        found = sha256(data)
        if found != digest:
            self._remove(self._blob(digest))
            raise BundleDigestError(file=digest, expected=digest, found=found)
        return data

    def read(self, digest: str, *, offset: int = 0, count: int = -1) -> bytes:
        """Bytes of a blob as they lie there; the receiver of a block checks it.

        Raises:
            BlobMissingError: It is not there.
        """
        try:
            with self._blob(digest).open("rb") as file:
                file.seek(offset)
                return file.read(count)
        except FileNotFoundError:
            raise BlobMissingError(digest=digest) from None

    def put(self, data: bytes) -> str:
        """Add a blob.

        Returns:
            Its digest.

        Raises:
            QuotaExceededError: It does not fit.
        """
        digest = sha256(data)
        if not self.has(digest):
            self._reserve(len(data))
            path = self._blob(digest)
            path.parent.mkdir(exist_ok=True)
            write_file(path, data)
            self._used += len(data)
        return digest

    def partial(self, digest: str, *, size: int) -> PartialBlob:
        """A blob that comes in by and by, with what an earlier process left of it.

        Raises:
            QuotaExceededError: It would not fit.
        """
        path = self._partial / digest
        have = path.stat().st_size if path.exists() else 0
        if have != size:
            self._reserve(size - have)
            self._used += size - have
        return PartialBlob(self, path, digest=digest, size=size)

    def put_bundle(self, bundle: Bundle) -> None:
        """Add all blobs of a bundle, then the bundle.

        Raises:
            QuotaExceededError: It does not fit.
        """
        for data in bundle.files.values():
            self.put(data)
        self.put(bundle.index_bytes)
        self.complete_bundle(bundle.digest)

    def complete_bundle(self, digest: str) -> None:
        """Note that all blobs of a bundle are there.

        Raises:
            BlobMissingError: One is not.
        """
        for entry in self.index(digest).files:
            self.size(entry.digest)
        write_file(self._bundles / digest, b"")

    def has_bundle(self, digest: str) -> bool:
        """Whether a bundle is complete."""
        return (self._bundles / digest).is_file()

    def bundles(self) -> tuple[str, ...]:
        """Digests of the complete bundles, sorted."""
        return tuple(sorted(item.name for item in self._bundles.iterdir()))

    def index(self, digest: str) -> BundleIndex:
        """The index of a bundle, complete or not.

        Raises:
            BlobMissingError: It is not there.
            BundleError: It is no index.
        """
        return BundleIndex.decode(self.get(digest))

    def open_bundle(self, digest: str) -> Bundle:
        """Read and verify a bundle, as `Bundle.open` does.

        Raises:
            BlobMissingError: It, or a part of it, is not there.
            BundleError: It must not serve.
        """
        index = self.index(digest)
        digests = {entry.path: entry.digest for entry in index.blobs()}

        def read(name: str, _size: int) -> bytes | None:
            if index.patch is not None and name == index.patch.path and not self.has(digests[name]):
                return None
            return self.get(digests[name])

        return Bundle.assemble(self.get(digest), read, limits=self.limits)

    def checkout(self, digest: str, folder: Path | str) -> Bundle:
        """Write a bundle as a folder, whole or not at all.

        Raises:
            BlobMissingError: It is not in the store.
            BundleError: It must not serve.
            OSError: The folder holds something already.
        """
        bundle = self.open_bundle(digest)
        write_folder(Path(folder), {**bundle.files, INDEX: bundle.index_bytes})
        return Bundle.open(folder, limits=self.limits)

    def gc(self, *, keep: Collection[str]) -> GarbageCollected:
        """Remove every bundle but those to keep, and every blob that none of those needs.

        Args:
            keep: Digests of bundles: what serves, the last good one, what is being fetched.
        """
        needed: set[str] = set(keep)
        for digest in keep:
            if self.has(digest):
                needed |= {entry.digest for entry in self.index(digest).blobs()}
        # The marks first: a crash in between leaves blobs too many, never a bundle with holes.
        marks = [item for item in self._bundles.iterdir() if item.name not in keep]
        for mark in marks:
            mark.unlink()
        sync_folder(self._bundles)
        before = self._used
        files = (*self._blobs.rglob("*"), *self._partial.iterdir())
        doomed = [item for item in files if item.is_file() and item.name not in needed]
        for item in doomed:
            self._remove(item)
        return GarbageCollected(bundles=len(marks), blobs=len(doomed), bytes=before - self._used)

    def _blob(self, digest: str) -> Path:
        return self._blobs / digest[:2] / digest

    def _reserve(self, size: int) -> None:
        if self.quota is not None and self._used + size > self.quota:
            raise QuotaExceededError(needed=size, used=self._used, quota=self.quota)

    def _remove(self, path: Path) -> None:
        self._used -= path.stat().st_size
        path.unlink()

    def _adopt(self, partial: Path, digest: str) -> None:
        """Move a finished partial blob to its place."""
        path = self._blob(digest)
        path.parent.mkdir(exist_ok=True)
        if path.exists():
            self._remove(partial)
            return
        partial.replace(path)
        sync_folder(path.parent)


class PartialBlob:
    """A blob on its way in: a file of its final size, filled block by block.

    Which blocks are there is not written down: after a crash, a list could promise a block that the
    disk never got. The reader compares digests instead.

    Attributes:
        fresh: No earlier process left anything of it.
    """

    def __init__(self, store: Store, path: Path, *, digest: str, size: int) -> None:
        self.digest = digest
        self.size = size
        self._store = store
        self._path = path
        self.fresh = not path.exists()
        self._file = path.open("w+b" if self.fresh else "r+b")
        self._file.truncate(size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, offset: int, data: bytes) -> None:
        """Put verified bytes in their place."""
        self._file.seek(offset)
        self._file.write(data)

    def read(self, offset: int, count: int) -> bytes:
        """Bytes at an offset, zeros where nothing came yet."""
        self._file.seek(offset)
        return self._file.read(count)

    def finish(self) -> None:
        """Verify the whole and move it into the store.

        Raises:
            BundleDigestError: The blocks were right and the whole is not: the index contradicts
                itself. The partial blob is dropped.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        # In pieces: a large model does not have to fit into memory at once.
        self._file.seek(0)
        found = hashlib.file_digest(self._file, "sha256").hexdigest()
        self._file.close()
        if found != self.digest:
            self._store._remove(self._path)
            raise BundleDigestError(file=self.digest, expected=self.digest, found=found)
        self._store._adopt(self._path, self.digest)
