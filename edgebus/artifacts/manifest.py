"""The manifest of a bundle, `manifest.json`: what a model version is, all but its tensors."""

from __future__ import annotations

import json
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator

from edgebus.artifacts.errors import BundleFormatError
from edgebus.artifacts.index import GRAPH, MANIFEST, FileName
from edgebus.contracts import (
    Count,
    Digest,
    Figures,
    Ordinal,
    Record,
    Segment,
    Timestamp,
    explain,
    utc_now,
)

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
DType = Literal["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]


class TensorSpec(Record):
    """One input or output of a graph.

    Attributes:
        name: Its name in the graph.
        dtype: Type of its elements.
        shape: Its dimensions; null is open, for example the batch. ``[]`` is a scalar.
    """

    name: Annotated[str, Field(min_length=1)]
    dtype: DType = "float32"
    shape: Annotated[tuple[Ordinal | None, ...], Field(max_length=16)]

    def concrete(self, *, open_as: int = 1) -> tuple[int, ...]:
        """The shape with a number for each open dimension."""
        return tuple(open_as if size is None else size for size in self.shape)

    def fits(self, shape: tuple[int | None, ...]) -> bool:
        """Check the shape of a tensor, or of a graph's declaration, against this one.

        A dimension that the graph leaves open may be fixed here; none that it fixes may be open.
        """
        return len(shape) == len(self.shape) and all(
            have is None or have == want for have, want in zip(shape, self.shape, strict=True)
        )


class GraphSpec(Record):
    """One graph of a model: its file, inputs and outputs, in the order of the graph.

    All graphs of a bundle take their weights from the one weights file.
    """

    file: FileName = GRAPH
    inputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1, max_length=64)]
    outputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1, max_length=64)]

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        for what, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            names = [tensor.name for tensor in tensors]
            if len(set(names)) != len(names):
                msg = f"{what} named twice: {', '.join(names)}"
                raise ValueError(msg)
        return self


class TrainedOn(Record):
    """Lineage of a version's weights, beyond its parent."""

    samples: Count = Field(default=0, description="New samples that were trained on.")
    replay: Count = Field(default=0, description="Earlier samples that were mixed in.")
    digest: Digest | None = Field(
        default=None, description="SHA-256 of the sorted list of the samples' digests."
    )
    datasets: tuple[str, ...] = ()
    job: str = ""


class EngineRequirements(Record):
    """Versions and operators that an engine must support to run the graphs."""

    opset: Ordinal
    ir_version: Ordinal
    operators: tuple[str, ...] = Field(default=(), description="Operators in use, sorted.")


class ProbeSpec(Record):
    """A self-test: inputs that the seed generates, and what must come out.

    The expected values lie in `file` as tensors ``index/{output}`` (int64, flat positions) and
    ``value/{output}`` (float32).
    """

    file: Literal["probe.safetensors"] = "probe.safetensors"
    seed: Count = 0
    atol: Positive = 1e-3
    rtol: Fraction = 1e-3


class Manifest(Record):
    """Everything about a model version but its tensors.

    Attributes:
        name: Name of the model; versions of it replace each other.
        version: Grows by one with each bundle of that name.
        task: The workload that makes sense of inputs and outputs, for example ``detection``.
        graphs: The graphs; the first is the model.
        workload: What only the workload knows of the model; it validates its own part.
        metrics: Figures of the gate, by name.
        parent: Digest of the bundle it was derived from.
        trained_on: Lineage of the weights.
        engine: What runs it.
        created: When.
        probe: Self-test, where there is one.
        trainable: Whether the graph can be trained further.
        trainable_reason: Why not.
        origin: Where it came from, in words.
    """

    format: Literal["bundle/1"] = "bundle/1"
    name: Segment
    version: Ordinal
    task: Segment
    graphs: Annotated[tuple[GraphSpec, ...], Field(min_length=1, max_length=16)]
    workload: dict[str, JsonValue] = Field(default_factory=dict)
    metrics: Figures = Field(default_factory=dict)
    parent: Digest | None = None
    trained_on: TrainedOn | None = None
    engine: EngineRequirements
    created: Timestamp = Field(default_factory=utc_now)
    probe: ProbeSpec | None = None
    trainable: bool = True
    trainable_reason: str | None = None
    origin: str = ""

    @field_validator("workload")
    @classmethod
    def _finite(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        json.dumps(value, allow_nan=False)  # JSON reads 1e999 as infinity, and has no word for it
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        files = [graph.file for graph in self.graphs]
        if files[0] != GRAPH or len(set(files)) != len(files):
            msg = f"graphs {', '.join(files)}: the first must be {GRAPH}, and each named once"
            raise ValueError(msg)
        return self

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs of the first graph."""
        return self.graphs[0].inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs of the first graph."""
        return self.graphs[0].outputs

    def encode(self) -> bytes:
        """JSON, UTF-8, fields that are None left out, one trailing newline."""
        return (self.model_dump_json(exclude_none=True, indent=1) + "\n").encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read `manifest.json`.

        Raises:
            BundleFormatError: It is no JSON, or a field is missing or wrong.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            reason = explain(error)
        raise BundleFormatError(file=MANIFEST, reason=reason)  # its cause: see Message.decode
