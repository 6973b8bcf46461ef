"""Model bundles: what they are, how they are made, stored and delivered."""

from edgebus.artifacts.bundle import Bundle, Limits, ModelSource
from edgebus.artifacts.errors import (
    ArtifactError,
    BlobMissingError,
    BundleDigestError,
    BundleError,
    BundleFileMissingError,
    BundleFormatError,
    BundleLimitError,
    BundlePathError,
    BundleTensorError,
    DeliveryError,
    ImportRefusedError,
    PatchError,
    QuotaExceededError,
    StoreError,
    UnsupportedOperatorError,
)
from edgebus.artifacts.graph import inspect_graph
from edgebus.artifacts.index import BLOCK_SIZE, BundleIndex, FileEntry, PatchEntry
from edgebus.artifacts.manifest import (
    EngineRequirements,
    GraphSpec,
    Manifest,
    ProbeSpec,
    TensorSpec,
    TrainedOn,
)
from edgebus.artifacts.onnx_file import OnnxFile, bundle_from_onnx
from edgebus.artifacts.payload import ArrayPayload
from edgebus.artifacts.store import GarbageCollected, Store
from edgebus.artifacts.tensors import Array
from edgebus.artifacts.update import Update, apply_update
from edgebus.artifacts.write import Draft, ProbeMaker, derive_bundle, export_bundle, write_bundle

__all__ = [
    "BLOCK_SIZE",
    "Array",
    "ArrayPayload",
    "ArtifactError",
    "BlobMissingError",
    "Bundle",
    "BundleDigestError",
    "BundleError",
    "BundleFileMissingError",
    "BundleFormatError",
    "BundleIndex",
    "BundleLimitError",
    "BundlePathError",
    "BundleTensorError",
    "DeliveryError",
    "Draft",
    "EngineRequirements",
    "FileEntry",
    "GarbageCollected",
    "GraphSpec",
    "ImportRefusedError",
    "Limits",
    "Manifest",
    "ModelSource",
    "OnnxFile",
    "PatchEntry",
    "PatchError",
    "ProbeMaker",
    "ProbeSpec",
    "QuotaExceededError",
    "Store",
    "StoreError",
    "TensorSpec",
    "TrainedOn",
    "UnsupportedOperatorError",
    "Update",
    "apply_update",
    "bundle_from_onnx",
    "derive_bundle",
    "export_bundle",
    "inspect_graph",
    "write_bundle",
]
