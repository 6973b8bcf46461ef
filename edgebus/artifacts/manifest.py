"""What a bundle says of itself: `manifest.json`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from edgebus.artifacts.errors import BundleFormatError
from edgebus.contracts import (
    Count,
    Digest,
    Ordinal,
    Record,
    Segment,
    Timestamp,
    explain,
    utc_now,
)

__all__ = [
    "DecoderSpec",
    "EngineRequirements",
    "InputSpec",
    "Manifest",
    "NoveltySpec",
    "OutputSpec",
    "ProbeSpec",
    "TrainedOn",
]

Side = Annotated[int, Field(ge=8, le=8192)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class InputSpec(Record):
    """The graph's input and how a picture becomes it.

    A pixel value x (0 to 255) of channel c enters as ``(x - mean[c]) / std[c]``; channels are in
    the order of `color`.

    Attributes:
        name: The graph's input.
        height, width: Pixels.
        dtype: ``uint8`` inputs take the pixels as they are.
        layout: ``NCHW`` or ``NHWC``, always with a batch of one picture.
        color: Order of the channels.
        mean, std: Per channel, on the scale 0 to 255.
        pad_value: Grey of the border, 0 to 255.
        anchor: Where the picture lies in the padded input.
        resize: ``letterbox`` keeps the aspect ratio and pads; ``stretch`` does not.
    """

    name: str
    height: Side
    width: Side
    dtype: Literal["float32", "uint8"] = "float32"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    color: Literal["BGR", "RGB"] = "BGR"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)
    pad_value: Annotated[int, Field(ge=0, le=255)] = 114
    anchor: Literal["top-left", "center"] = "top-left"
    resize: Literal["letterbox", "stretch"] = "letterbox"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the input tensor, batch of one included."""
        if self.layout == "NCHW":
            return (1, 3, self.height, self.width)
        return (1, self.height, self.width, 3)


class OutputSpec(Record):
    """One output of the graph: its name and shape, batch of one included."""

    name: str
    shape: tuple[Ordinal, ...]


class DecoderSpec(Record):
    """How the outputs become boxes.

    Attributes:
        kind: Name of the decoder, for example ``yolox``.
        strides: Pixels per grid cell, per level.
        score_threshold: Boxes below are dropped.
        nms_iou: Boxes of one class that overlap more than this are one.
        extra: What only this kind needs.
    """

    kind: Segment
    strides: tuple[Ordinal, ...] = ()
    score_threshold: Fraction = 0.25
    nms_iou: Fraction = 0.5
    extra: dict[str, float | int | str | bool] = Field(default_factory=dict)


class TrainedOn(Record):
    """Where the weights of a version come from, beyond its parent."""

    samples: Count = Field(default=0, description="New samples that were trained on.")
    replay: Count = Field(default=0, description="Earlier samples that were mixed in.")
    digest: Digest | None = Field(
        default=None, description="SHA-256 of the sorted list of the samples' digests."
    )
    datasets: tuple[str, ...] = ()
    job: str = ""


class EngineRequirements(Record):
    """What an engine must know to run the graph."""

    opset: Ordinal
    ir_version: Ordinal
    operators: tuple[str, ...] = Field(default=(), description="Operators in use, sorted.")


class ProbeSpec(Record):
    """A self-test: an input that the seed generates, and what must come out.

    The expected values lie in `file` as tensors ``index/{output}`` (int64, flat positions) and
    ``value/{output}`` (float32).
    """

    file: Literal["probe.safetensors"] = "probe.safetensors"
    seed: Count = 0
    atol: Positive = 1e-3
    rtol: Fraction = 1e-3


class NoveltySpec(Record):
    """A graph that says how unlike the pictures that the model knows a picture is.

    It takes the model's own input and makes `novelty`, one number from 0; 1 is the 95th percentile
    on the reference pictures. See `edgebus.serving.make_novelty`.
    """

    file: Literal["novelty.onnx"] = "novelty.onnx"
    pictures: Count = Field(default=0, description="Reference pictures that it was fitted to.")


class Manifest(Record):
    """Everything about a model version but its tensors.

    Attributes:
        name: Name of the model; versions of it replace each other.
        version: Grows by one with each bundle of that name.
        task: What it is for; ``detection`` is the first.
        input, outputs, decoder, classes: From pictures to boxes with names.
        metrics: Figures of the gate, for example ``map50_new``.
        parent: Digest of the bundle it was derived from.
        trained_on: Lineage of the weights.
        engine: What runs it.
        created: When.
        probe: Self-test, where there is one.
        novelty: What tells strange pictures, where there is something.
        trainable: Whether the graph can be trained further.
        trainable_reason: Why not.
        origin: Where it came from, in words.
    """

    format: Literal["bundle/1"] = "bundle/1"
    name: Segment
    version: Ordinal
    task: Segment = "detection"
    input: InputSpec
    outputs: Annotated[tuple[OutputSpec, ...], Field(min_length=1, max_length=64)]
    decoder: DecoderSpec
    classes: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=96)], ...],
        Field(min_length=1, max_length=4096),
    ]
    metrics: dict[str, float] = Field(default_factory=dict)
    parent: Digest | None = None
    trained_on: TrainedOn | None = None
    engine: EngineRequirements
    created: Timestamp = Field(default_factory=utc_now)
    probe: ProbeSpec | None = None
    novelty: NoveltySpec | None = None
    trainable: bool = True
    trainable_reason: str | None = None
    origin: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            double = sorted({name for name in self.classes if self.classes.count(name) > 1})
            msg = f"classes named twice: {', '.join(double)}"
            raise ValueError(msg)
        names = [output.name for output in self.outputs]
        if len(set(names)) != len(names):
            msg = f"outputs named twice: {', '.join(names)}"
            raise ValueError(msg)
        return self

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
        raise BundleFormatError(
            file="manifest.json", reason=reason
        )  # without its cause: see Message.decode
