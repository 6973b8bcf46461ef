"""Writing of bundles: from parts, or from a parent and an update."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from edgebus.artifacts.bundle import Bundle, ModelSource
from edgebus.artifacts.errors import PatchError
from edgebus.artifacts.index import (
    GRAPH,
    INDEX,
    MANIFEST,
    PATCH,
    PROBE,
    WEIGHTS,
    BundleIndex,
    FileEntry,
    PatchEntry,
)
from edgebus.artifacts.manifest import Manifest, ProbeSpec, TrainedOn
from edgebus.artifacts.split import join_weights
from edgebus.artifacts.tensors import Array, TensorFile, dump_tensors
from edgebus.artifacts.update import (
    Update,
    apply_patch,
    apply_update,
    difference,
    encode_patch,
)
from edgebus.contracts import utc_now
from edgebus.files import write_file, write_folder

ProbeMaker = Callable[[ModelSource], tuple[ProbeSpec, Mapping[str, Array]]]
"""Runs a model on its probe input and gives what came out; `edgebus.serving.make_probe`."""

# A patch that is not much smaller than the file is not worth a second way to fail.
_PATCH_WORTH = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A model that is not written yet: enough for an engine, without digests."""

    manifest: Manifest
    graph: bytes
    weights: Mapping[str, Array]

    def graph_bytes(self) -> bytes:
        """The graph, its weights declared as external data."""
        return self.graph

    def tensors(self) -> dict[str, Array]:
        """The weights by name."""
        return dict(self.weights)


def write_bundle(
    folder: Path | str,
    *,
    manifest: Manifest,
    graph: bytes,
    weights: bytes,
    probe: ProbeMaker | None = None,
    patch: tuple[str, bytes] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Bundle:
    """Write a bundle's folder, whole or not at all.

    The files go to a folder beside it, are flushed to the disk, verified as any reader would,
    made read-only and renamed into place.

    Args:
        folder: Where; it must not exist, or hold the same bundle already.
        manifest: What the model is.
        graph: `graph.onnx`, its weights declared as external data.
        weights: `weights.safetensors`.
        probe: Makes the self-test; without it the manifest's own probe is dropped.
        patch: Digest of the base weights, and the patch that makes `weights` from them.
        files: Further files by name: other graphs, what only the workload reads.

    Raises:
        BundleError: The parts do not make a bundle.
        FileExistsError: The folder holds something else.
    """
    target = Path(folder)
    manifest = manifest.model_copy(update={"probe": None})
    content = {**(files or {}), MANIFEST: b"", GRAPH: graph, WEIGHTS: weights}
    if probe is not None:
        tensors = TensorFile.parse(weights, file=WEIGHTS).arrays()
        spec, values = probe(Draft(manifest=manifest, graph=graph, weights=tensors))
        manifest = manifest.model_copy(update={"probe": spec})
        content[PROBE] = dump_tensors(values)
    content[MANIFEST] = manifest.encode()
    entry = None
    if patch is not None:
        base, data = patch
        described = FileEntry.of(PATCH, data).model_dump()
        entry = PatchEntry(**described, target=WEIGHTS, base=base)
    index = BundleIndex(
        files=tuple(FileEntry.of(name, data) for name, data in sorted(content.items())),
        patch=entry,
    ).encode()
    if patch is not None:
        content[PATCH] = patch[1]
    content[INDEX] = index
    bundle = Bundle.assemble(index, lambda name, _: content.get(name), path=target)
    if target.exists() and any(target.iterdir()):
        if Bundle.open(target).digest == bundle.digest:
            return bundle
        raise FileExistsError(f"{target} is there already and holds something else; name another")
    write_folder(target, content)
    return bundle


def export_bundle(bundle: Bundle, out: Path | str) -> None:
    """Write a verified bundle for others: as a folder, or as a plain ONNX file.

    Args:
        bundle: The model.
        out: A folder, or a file whose name ends with ``.onnx``; neither may exist.

    Raises:
        FileExistsError: It is there already.
    """
    target = Path(out)
    if target.exists():
        raise FileExistsError(f"{target} is there already; name another place")
    if target.suffix.lower() == ".onnx":
        write_file(target, join_weights(bundle))
    else:
        write_folder(target, {**bundle.files, INDEX: bundle.index_bytes})


def derive_bundle(
    parent: Bundle,
    change: Update | Mapping[str, Array],
    *,
    out: Path | str,
    name: str | None = None,
    version: int | None = None,
    metrics: Mapping[str, float] | None = None,
    trained_on: TrainedOn | None = None,
    created: datetime | None = None,
    origin: str = "",
    probe: ProbeMaker | None = None,
) -> Bundle:
    """Write the next version of a model: same graph, changed weights.

    Where the change is small, the bundle carries a patch, so that an edge that has the parent's
    weights fetches only that. The patch is applied here once, and the outcome is what is
    published, so that patched and fetched weights are the same bytes.

    Args:
        parent: The version that the change is relative to.
        change: An update, or all tensors of the new version.
        out: Folder of the new bundle.
        name: Name of its model; the parent's by default.
        version: Its version; the parent's plus one by default.
        metrics: Figures of the gate.
        trained_on: Lineage of the weights.
        created: When; now by default.
        origin: Where it comes from, in words.
        probe: Makes the self-test.

    Raises:
        PatchError: The change does not fit the parent.
        BundleError: The outcome is no bundle, for example NaN weights.
    """
    base = parent.weights
    update = change if isinstance(change, Update) else difference(base.arrays(), change)
    patch: bytes | None = None
    try:
        patch = encode_patch(base, update)
    except PatchError:
        # What no patch can say (a scale along two axes) can still be published in full.
        new = apply_update(base.arrays(), update)
        weights = base.replaced({name: new[name] for name in (*update.replace, *update.scale)})
    else:
        weights = apply_patch(base.data, patch)
        if len(patch) > _PATCH_WORTH * len(weights):
            patch = None
    changes: dict[str, Any] = {
        "name": parent.manifest.name if name is None else name,
        "version": version if version is not None else parent.manifest.version + 1,
        "metrics": dict(metrics or {}),
        "parent": parent.digest,
        "trained_on": trained_on,
        "created": created or utc_now(),
        "origin": origin,
    }
    fields = parent.manifest.model_dump() | changes
    # What else the workload keeps in a bundle goes along unchanged, and no edge fetches it twice.
    made_anew = {MANIFEST, GRAPH, WEIGHTS, PROBE, PATCH}
    return write_bundle(
        out,
        manifest=Manifest.model_validate(fields),
        graph=parent.graph_bytes(),
        weights=weights,
        probe=probe,
        patch=None if patch is None else (parent.index.file(WEIGHTS).digest, patch),
        files={path: data for path, data in parent.files.items() if path not in made_anew},
    )
