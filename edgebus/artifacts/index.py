"""The index of a bundle: its files, their digests and the digests of their blocks.

The bundle's own digest is the SHA-256 of the index's bytes, so one digest pins every byte.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Annotated, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from edgebus.artifacts.errors import BundleFormatError
from edgebus.contracts import Count, Digest, Record, explain

BLOCK_SIZE: Final = 65536
"""Bytes of a block: far below every broker's limit, small enough that control traffic passes."""

INDEX: Final = "index.json"
MANIFEST: Final = "manifest.json"
GRAPH: Final = "graph.onnx"
WEIGHTS: Final = "weights.safetensors"
PROBE: Final = "probe.safetensors"
PATCH: Final = "weights.patch.safetensors"

# One level, no dot in front: such a name cannot leave the bundle's folder.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")]


def sha256(data: bytes | memoryview) -> str:
    """SHA-256 in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def block_digests(data: bytes | memoryview, *, block_size: int = BLOCK_SIZE) -> tuple[str, ...]:
    """SHA-256 of each block; the last one may be shorter, and zero bytes have no block."""
    view = memoryview(data)
    return tuple(sha256(view[at : at + block_size]) for at in range(0, len(view), block_size))


class BlobEntry(Record):
    """Bytes that are named by their digest and delivered in blocks.

    Attributes:
        size: Bytes.
        digest: SHA-256 of all of it.
        blocks: SHA-256 of each block.
    """

    size: Count
    digest: Digest
    blocks: tuple[Digest, ...]


class FileEntry(BlobEntry):
    """One file of the bundle."""

    path: FileName

    @classmethod
    def of(cls, path: str, data: bytes, *, block_size: int = BLOCK_SIZE) -> Self:
        """Describe a file's bytes."""
        return cls(
            path=path,
            size=len(data),
            digest=sha256(data),
            blocks=block_digests(data, block_size=block_size),
        )


class PatchEntry(FileEntry):
    """A shorter way to one file, for who has an earlier one.

    The patch is no part of the model: a bundle without the patch's file is complete.

    Attributes:
        target: The file that the patch makes.
        base: Digest of the file that it is applied to.
    """

    target: FileName
    base: Digest


class BundleIndex(Record):
    """`index.json`."""

    format: Literal["index/1"] = "index/1"
    block_size: Literal[65536] = BLOCK_SIZE
    files: Annotated[tuple[FileEntry, ...], Field(min_length=1, max_length=64)]
    patch: PatchEntry | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        paths = [entry.path for entry in self.files]
        if len(set(paths)) != len(paths) or INDEX in paths:
            msg = f"a file is named twice, or the index names itself: {', '.join(paths)}"
            raise ValueError(msg)
        missing = {MANIFEST, GRAPH, WEIGHTS} - set(paths)
        if missing:
            msg = f"does not name {', '.join(sorted(missing))}"
            raise ValueError(msg)
        if self.patch is not None and (self.patch.target not in paths or self.patch.path in paths):
            msg = f"its patch {self.patch.path} is for {self.patch.target}"
            raise ValueError(msg)
        for entry in self.blobs():
            blocks = -(-entry.size // self.block_size)
            if len(entry.blocks) != blocks:
                msg = f"{entry.path} has {blocks} blocks, not {len(entry.blocks)}"
                raise ValueError(msg)
        return self

    @property
    def size(self) -> int:
        """Bytes of all files, without the index and the patch."""
        return sum(entry.size for entry in self.files)

    def blobs(self) -> Iterator[FileEntry]:
        """Every file, the patch last."""
        yield from self.files
        if self.patch is not None:
            yield self.patch

    def file(self, path: str) -> FileEntry:
        """One file's entry.

        Raises:
            KeyError: The index does not name it.
        """
        for entry in self.files:
            if entry.path == path:
                return entry
        raise KeyError(path)

    def encode(self) -> bytes:
        """Canonical JSON: sorted keys, no white space, ASCII."""
        fields = self.model_dump(mode="json", exclude_none=True)
        return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read `index.json`.

        Raises:
            BundleFormatError: It is no index, or contradicts itself.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            reason = explain(error)
        raise BundleFormatError(file=INDEX, reason=reason)  # without its cause: see Message.decode
