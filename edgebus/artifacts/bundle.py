"""A bundle: an immutable model version, verified byte by byte before anything uses it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from edgebus.artifacts.errors import (
    BundleDigestError,
    BundleFileMissingError,
    BundleFormatError,
    BundleLimitError,
    BundlePathError,
    BundleTensorError,
)
from edgebus.artifacts.graph import GraphFacts, PortFacts, inspect_graph, verify_weights
from edgebus.artifacts.index import (
    GRAPH,
    INDEX,
    MANIFEST,
    PROBE,
    WEIGHTS,
    BundleIndex,
    sha256,
)
from edgebus.artifacts.manifest import Manifest, TensorSpec
from edgebus.artifacts.tensors import Array, TensorFile, dtype_name
from edgebus.contracts import ModelRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The largest that is accepted, in bytes: nothing larger is even read."""

    index: int = 16 * 2**20
    manifest: int = 2**20
    graph: int = 64 * 2**20
    weights: int = 2**30
    other: int = 64 * 2**20

    def of(self, path: str) -> int:
        """The limit for one file of a bundle."""
        names = {
            INDEX: self.index,
            MANIFEST: self.manifest,
            GRAPH: self.graph,
            WEIGHTS: self.weights,
        }
        return names.get(path, self.other)

    def check(self, path: str, size: int) -> None:
        """Refuse a file that is too large.

        Raises:
            BundleLimitError: It is.
        """
        if size > self.of(path):
            raise BundleLimitError(file=path, size=size, limit=self.of(path))


class ModelSource(Protocol):
    """Source of a model for an engine or a trainer; a `Bundle` is one."""

    @property
    def manifest(self) -> Manifest:
        """The model's manifest."""
        ...

    def graph_bytes(self) -> bytes:
        """The graph, its weights declared as external data."""
        ...

    def tensors(self) -> dict[str, Array]:
        """The weights by name, read-only."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A verified model version in memory.

    Nothing is memory-mapped: a file that changes under a running engine changes its answers, and
    one that gets shorter kills it.

    Attributes:
        manifest: What the model is.
        index: Its files and their digests.
        digest: SHA-256 of the index: the bundle's identity.
        facts: What the first graph declares.
        weights: The weights file.
        files: The bytes of each file, the patch included where it is there.
        path: The folder it was opened from; None if it came from a store.
    """

    manifest: Manifest
    index: BundleIndex
    index_bytes: bytes = field(repr=False)
    digest: str
    facts: GraphFacts = field(repr=False)
    weights: TensorFile = field(repr=False)
    files: Mapping[str, bytes] = field(repr=False)
    path: Path | None = None

    @classmethod
    def open(cls, path: Path | str, *, limits: Limits | None = None) -> Self:
        """Read and verify a bundle's folder.

        Every digest is checked, every tensor has the dtype, shape and place that the graph
        declares, and all weights are finite.

        Args:
            path: The folder; it may be a symbolic link, its files may not.
            limits: The largest that is accepted.

        Raises:
            BundleError: The bundle must not serve; the subclass and its text say why.
        """
        folder = Path(path)
        bounds = limits or Limits()
        index_bytes = read_plain_file(folder, INDEX, limit=bounds.of(INDEX))
        index = BundleIndex.decode(index_bytes)

        def read(name: str, size: int) -> bytes | None:
            try:
                return read_plain_file(
                    folder, name, limit=size, says="of the index; it was changed"
                )
            except BundleFileMissingError:
                if index.patch is not None and name == index.patch.path:
                    return None
                raise

        return cls.assemble(index_bytes, read, limits=bounds, path=folder)

    @classmethod
    def assemble(
        cls,
        index_bytes: bytes,
        read: Callable[[str, int], bytes | None],
        *,
        limits: Limits | None = None,
        path: Path | None = None,
    ) -> Self:
        """Verify a bundle whose files lie anywhere.

        Args:
            index_bytes: `index.json`.
            read: Gives a file's bytes by name and expected size; None for a patch that is absent.
            limits: The largest that is accepted.
            path: Folder of the bundle, if it has one.

        Raises:
            BundleError: The bundle must not serve.
        """
        bounds = limits or Limits()
        index = BundleIndex.decode(index_bytes)
        files: dict[str, bytes] = {}
        for entry in index.blobs():
            bounds.check(entry.path, entry.size)
            data = read(entry.path, entry.size)
            if data is None:
                continue
            found = sha256(data)
            if found != entry.digest:
                raise BundleDigestError(file=entry.path, expected=entry.digest, found=found)
            files[entry.path] = data
        manifest = Manifest.decode(files[MANIFEST])
        facts = _verify_graphs(manifest, files)
        weights = TensorFile.parse(files[WEIGHTS], file=WEIGHTS)
        external = {name: entry for each in facts for name, entry in each.external.items()}
        verify_weights(external, weights)
        _verify_finite(weights)
        return cls(
            manifest=manifest,
            index=index,
            index_bytes=index_bytes,
            digest=sha256(index_bytes),
            facts=facts[0],
            weights=weights,
            files=files,
            path=path,
        )

    @property
    def ref(self) -> ModelRef:
        """Name, version and digest, as messages carry them."""
        return ModelRef(name=self.manifest.name, version=self.manifest.version, digest=self.digest)

    @property
    def size(self) -> int:
        """Bytes of all files, without the index and the patch."""
        return self.index.size

    def graph_bytes(self) -> bytes:
        """The first graph, its weights declared as external data: an ONNX model."""
        return self.files[GRAPH]

    def tensors(self) -> dict[str, Array]:
        """The weights by name, read-only, in the order of the file."""
        return self.weights.arrays()

    def probe(self) -> dict[str, Array] | None:
        """The tensors of the self-test, or None.

        Raises:
            BundleError: The file is no safetensors file.
        """
        data = self.files.get(PROBE)
        return None if data is None else TensorFile.parse(data, file=PROBE).arrays()


def read_plain_file(
    folder: Path, name: str, *, limit: int, says: str = "that Limits allows"
) -> bytes:
    """Read a file of a bundle: no link, no device, not larger than `limit`.

    Args:
        folder: The bundle's folder.
        name: The file in it.
        limit: Most bytes.
        says: Who says so, for the error.

    Raises:
        BundleFileMissingError: It is not there.
        BundlePathError: It is no plain file.
        BundleLimitError: It is too large.
    """
    try:
        # O_NOFOLLOW: a link could point anywhere; O_NONBLOCK: a pipe would hang the open.
        handle = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        missing = BundleFileMissingError(file=name, where=str(folder), folder=folder.is_dir())
        raise missing from None
    except OSError as error:
        reason = f"cannot be opened as a plain file: {error.strerror}"
        raise BundlePathError(file=name, reason=reason) from error
    with os.fdopen(handle, "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise BundlePathError(file=name, reason="is no plain file")
        if facts.st_size > limit:
            raise BundleLimitError(file=name, size=facts.st_size, limit=limit, says=says)
        return file.read(limit + 1)


def _verify_graphs(manifest: Manifest, files: Mapping[str, bytes]) -> list[GraphFacts]:
    """Facts of each graph, whose inputs and outputs are those of the manifest."""
    found = []
    for spec in manifest.graphs:
        if spec.file not in files:
            raise BundleFileMissingError(file=spec.file, where="the index")
        facts = inspect_graph(files[spec.file])
        _verify_tensors(spec.file, "input", spec.inputs, facts.inputs)
        _verify_tensors(spec.file, "output", spec.outputs, facts.outputs)
        extra = {port.name for port in facts.inputs} - {item.name for item in spec.inputs}
        if extra:
            reason = f"does not describe input {', '.join(sorted(extra))} of {spec.file}"
            raise BundleFormatError(file=MANIFEST, reason=reason)
        found.append(facts)
    if manifest.probe is not None and manifest.probe.file not in files:
        raise BundleFileMissingError(file=manifest.probe.file, where="the index")
    return found


def _verify_tensors(
    file: str, what: str, specs: tuple[TensorSpec, ...], ports: tuple[PortFacts, ...]
) -> None:
    there = {port.name: port for port in ports}
    for spec in specs:
        port = there.get(spec.name)
        if (
            port is None
            or dtype_name(np.dtype(spec.dtype)) != port.dtype
            or not spec.fits(port.shape)
        ):
            have = [f"{port.name} {port.dtype} {list(port.shape)}" for port in ports]
            reason = (
                f"describes {what} {spec.name} {spec.dtype} {list(spec.shape)}, {file} has "
                f"{', '.join(have)}"
            )
            raise BundleFormatError(file=MANIFEST, reason=reason)


def _verify_finite(weights: TensorFile) -> None:
    for name in weights.entries:
        values = weights.array(name)
        if values.dtype.kind == "f" and not bool(np.isfinite(values).all()):
            bad = int(np.size(values) - np.count_nonzero(np.isfinite(values)))
            raise BundleTensorError(
                file=WEIGHTS, tensor=name, reason=f"holds {bad} values that are NaN or infinite"
            )
