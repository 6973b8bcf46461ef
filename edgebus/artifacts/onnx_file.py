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
from edgebus.artifacts.split import (
    fold_half_weights,
    is_quantized,
    sort_nodes,
    split_weights,
    widen_halves,
)
from edgebus.artifacts.tensors import DTYPES, TensorFile
from edgebus.artifacts.write import Draft, ProbeMaker, write_bundle
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
    file.require_trainable()
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
        metadata: What the exporter wrote beside the graph, such as the task and its classes.
        trainable: Whether the graph can be trained further, as far as that was checked.
        trainable_reason: Why not, or why it is not known.
    """

    path: Path
    digest: str
    graph: bytes = field(repr=False)
    weights: bytes = field(repr=False)
    facts: GraphFacts = field(repr=False)
    metadata: Mapping[str, str] = field(repr=False)
    trainable: bool
    trainable_reason: str | None
    _trouble: ValueError | None = field(repr=False)

    @classmethod
    def open(cls, path: Path | str, *, check: TrainableCheck | None = None) -> Self:
        """Read a file.

        What is stored in float16 is read as float32, nodes in any order are sorted, and an open
        batch becomes one.

        Args:
            path: The file, with its external data beside it if it has any.
            check: Raises ValueError, naming the operators, for a graph that cannot be trained:
                `edgebus.training.graph.check_supported` where torch is installed.

        Raises:
            ImportRefusedError: It is no ONNX model.
        """
        source = Path(path)
        data = _read(source)
        model = _load(source, data)
        fold_half_weights(model)
        widen_halves(model)
        _close_batch(model)
        _infer_shapes(model)
        try:
            reason, trouble = _untrainable(model, check)
            graph, weights = split_weights(model)
        except ValueError as error:  # protobuf's 2 GB, or a tensor without data
            raise _refused(source, str(error)) from error
        return cls(
            path=source,
            digest=sha256(data),
            graph=graph,
            weights=weights,
            facts=inspect_graph(graph),
            metadata={item.key: item.value for item in model.metadata_props},
            trainable=reason is None or check is None,
            trainable_reason=reason,
            _trouble=trouble,
        )

    def require_trainable(self) -> None:
        """Refuse what was found to be untrainable.

        Raises:
            UnsupportedOperatorError: It is.
        """
        if self._trouble is not None:
            detail = self.trainable_reason or str(self._trouble)
            raise UnsupportedOperatorError(path=str(self.path), detail=detail) from self._trouble

    def draft(self) -> Draft:
        """The model for an engine, before anything is known of what its outputs mean."""
        manifest = Manifest(
            name="draft",
            version=1,
            task="draft",
            graphs=(GraphSpec(inputs=self.inputs, outputs=self.outputs),),
            engine=self._requirements(),
        )
        tensors = TensorFile.parse(self.weights, file=WEIGHTS).arrays()
        return Draft(manifest=manifest, graph=self.graph, weights=tensors)

    def _requirements(self) -> EngineRequirements:
        facts = self.facts
        return EngineRequirements(
            opset=facts.opset, ir_version=facts.ir_version, operators=facts.operators
        )

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs of the graph."""
        return tuple(map(self._spec, self.facts.inputs))

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs of the graph."""
        return tuple(map(self._spec, self.facts.outputs))

    def _spec(self, port: PortFacts) -> TensorSpec:
        if port.dtype not in DTYPES:
            raise self.refused(f"{port.name} is of a type that no bundle has; export it in float32")
        dtype = DTYPES[port.dtype].name
        return TensorSpec.model_validate({"name": port.name, "dtype": dtype, "shape": port.shape})

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
        try:
            made = manifest(
                version=version,
                engine=self._requirements(),
                created=created or utc_now(),
                trainable=self.trainable,
                trainable_reason=self.trainable_reason,
                origin=f"imported from {self.path.name}, SHA-256 {self.digest}",
                **fields,
            )
        except ValidationError as error:
            raise self.refused(explain(error)) from error
        return write_bundle(out, manifest=made, graph=self.graph, weights=self.weights, probe=probe)


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
        sort_nodes(model)
        onnx.checker.check_model(model)
    except DecodeError as error:
        raise _refused(path, "is no ONNX file, or is cut off") from error
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        reason = " ".join(str(error).split("==>")[0].split())
        raise _refused(path, f"is no valid ONNX model: {reason[:400]}") from error
    return model


def _close_batch(model: onnx.ModelProto) -> None:
    """Make an open batch one: an edge asks about one input at a time."""
    weights = {tensor.name for tensor in model.graph.initializer}
    closed = False
    for item in model.graph.input:
        shape = item.type.tensor_type.shape.dim
        if item.name not in weights and len(shape) > 1 and shape[0].dim_value <= 0:
            shape[0].dim_value = 1
            closed = True
    if closed:  # what the exporter inferred names the open batch
        del model.graph.value_info[:]


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
    model: onnx.ModelProto, check: TrainableCheck | None
) -> tuple[str | None, ValueError | None]:
    """Why the graph cannot be trained, in short and with every reason; None if it can."""
    if check is None:
        return "not checked at import: torch was not installed", None
    try:
        check(model.SerializeToString())
    except ValueError as error:
        if integers := [node.op_type for node in model.graph.node if is_quantized(node)]:
            nodes = f"{integers[0]} and {len(integers) - 1} more"
            return f"it is quantized to int8 ({nodes}); export it in float32 to train it", error
        return str(getattr(error, "summary", error)), error
    return None, None
