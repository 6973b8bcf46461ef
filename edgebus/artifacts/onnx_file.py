"""ONNX files as bundles of any workload."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import onnx
from google.protobuf.message import DecodeError
from pydantic import JsonValue, ValidationError

from edgebus.artifacts.bundle import Bundle, Limits
from edgebus.artifacts.errors import ImportRefusedError, UnsupportedOperatorError
from edgebus.artifacts.graph import GraphFacts, PortFacts, inspect_graph
from edgebus.artifacts.index import WEIGHTS, sha256
from edgebus.artifacts.manifest import EngineRequirements, GraphSpec, Manifest, TensorSpec
from edgebus.artifacts.split import fold_half_weights, split_weights
from edgebus.artifacts.tensors import DTYPES, TensorFile
from edgebus.artifacts.write import ProbeMaker, write_bundle
from edgebus.contracts import explain, utc_now

TrainableCheck = Callable[[bytes], None]


def bundle_from_onnx(
    path: Path | str,
    *,
    name: str,
    task: str,
    out: Path | str,
    workload: Mapping[str, JsonValue] | None = None,
    check: TrainableCheck | None = None,
    probe: ProbeMaker | None = None,
) -> Bundle:
    """Make the first bundle of a model; its inputs and outputs are those of the graph.

    Args:
        path: The file, with its external data beside it if it has any.
        name: Name of the model on the bus.
        task: Name of its workload.
        out: Folder of the bundle.
        workload: The workload's part of the manifest.
        check: As for `OnnxFile.open`.
        probe: Makes the self-test.

    Raises:
        ImportRefusedError: The file is no ONNX model, or cannot become a bundle.
        UnsupportedOperatorError: It cannot be trained, though `check` is given.
        BundleError: Its weights are not finite or absurdly large.
    """
    file = OnnxFile.open(path, check=check)
    graph = GraphSpec(inputs=file.inputs, outputs=file.outputs)
    return file.write(
        out, probe=probe, name=name, task=task, graphs=(graph,), workload=dict(workload or {})
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxFile:
    """An ONNX file that was read and checked, its weights apart from its graph.

    Attributes:
        path: The file.
        digest: SHA-256 of its bytes.
        graph: The graph, without weights.
        weights: The weights file.
        facts: Declarations of the graph.
        trainable: Whether the graph can be trained further, as far as that was checked.
        trainable_reason: Why not, or why it is not known.
    """

    path: Path
    digest: str
    graph: bytes = field(repr=False)
    weights: bytes = field(repr=False)
    facts: GraphFacts = field(repr=False)
    trainable: bool
    trainable_reason: str | None

    @classmethod
    def open(
        cls, path: Path | str, *, check: TrainableCheck | None = None, serve_only: bool = False
    ) -> Self:
        """Read a file.

        Args:
            path: The file, with its external data beside it if it has any.
            check: Raises ValueError, naming the operators, for a graph that cannot be trained:
                `edgebus.training.graph.check_supported` where torch is installed.
            serve_only: Take a graph that cannot be trained.

        Raises:
            ImportRefusedError: It is no ONNX model, or has no float32 weights.
            UnsupportedOperatorError: It cannot be trained, and `serve_only` is not set.
        """
        source = Path(path)
        data = _read(source)
        model = _load(source, data)
        fold_half_weights(model)
        _infer_shapes(model)
        try:
            reason = _untrainable(source, model, check, serve_only=serve_only)
            graph, weights = split_weights(model)
        except ValueError as error:  # protobuf's 2 GB, or a tensor without data
            raise _refused(source, str(error)) from error
        if not TensorFile.parse(weights, file=WEIGHTS).entries:
            detail = "has no float32 weights; restore full precision before importing"
            raise _refused(source, detail)
        return cls(
            path=source,
            digest=sha256(data),
            graph=graph,
            weights=weights,
            facts=inspect_graph(graph),
            trainable=reason is None or check is None,
            trainable_reason=reason,
        )

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs of the graph."""
        return tuple(map(_spec, self.facts.inputs))

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs of the graph."""
        return tuple(map(_spec, self.facts.outputs))

    def refused(self, reason: str) -> ImportRefusedError:
        """An error that names the file and why it is refused."""
        return _refused(self.path, reason)

    def write(
        self,
        out: Path | str,
        *,
        manifest: Callable[..., Manifest] = Manifest,
        probe: ProbeMaker | None = None,
        version: int = 1,
        created: datetime | None = None,
        **fields: Any,
    ) -> Bundle:
        """Write the bundle.

        Args:
            out: Its folder.
            manifest: Makes the manifest.
            probe: Makes the self-test.
            version: Version of the bundle.
            created: When; now by default.
            **fields: What `manifest` takes besides, such as the name of the model.

        Raises:
            ImportRefusedError: A field of the manifest is wrong.
            BundleError: Weights are not finite or absurdly large.
        """
        facts = self.facts
        try:
            made = manifest(
                version=version,
                engine=EngineRequirements(
                    opset=facts.opset, ir_version=facts.ir_version, operators=facts.operators
                ),
                created=created or utc_now(),
                trainable=self.trainable,
                trainable_reason=self.trainable_reason,
                origin=f"imported from {self.path.name}, SHA-256 {self.digest}",
                **fields,
            )
        except ValidationError as error:
            raise self.refused(explain(error)) from error
        return write_bundle(out, manifest=made, graph=self.graph, weights=self.weights, probe=probe)


def _spec(port: PortFacts) -> TensorSpec:
    dtype = DTYPES[port.dtype].name
    return TensorSpec.model_validate({"name": port.name, "dtype": dtype, "shape": port.shape})


def _refused(path: Path, reason: str) -> ImportRefusedError:
    return ImportRefusedError(path=str(path), reason=reason)


def _read(path: Path) -> bytes:
    limit = Limits().weights
    try:
        if path.stat().st_size > limit:
            raise _refused(path, f"has {path.stat().st_size} bytes, more than {limit}")
        return path.read_bytes()
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from error


def _load(path: Path, data: bytes) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(data)
        onnx.load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(model)
    except DecodeError as error:
        raise _refused(path, "is no ONNX file, or is cut off") from error
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        raise _refused(path, f"is no valid ONNX model: {error}") from error
    return model


def _infer_shapes(model: onnx.ModelProto) -> None:
    """Fill in the shapes of outputs that the exporter left open but that follow."""
    closed = all(
        dim.dim_value > 0 for item in model.graph.output for dim in item.type.tensor_type.shape.dim
    )
    if closed and all(item.type.tensor_type.shape.dim for item in model.graph.output):
        return
    known = {item.name: item for item in onnx.shape_inference.infer_shapes(model).graph.output}
    for item in model.graph.output:
        item.CopyFrom(known[item.name])


def _untrainable(
    path: Path,
    model: onnx.ModelProto,
    check: Callable[[bytes], None] | None,
    *,
    serve_only: bool,
) -> str | None:
    """The reason why the graph cannot be trained; None if it can."""
    if check is None:
        return "not checked at import: torch was not installed"
    try:
        check(model.SerializeToString())
    except ValueError as error:
        if serve_only:
            return str(error)
        raise UnsupportedOperatorError(path=str(path), detail=str(error)) from error
    return None
