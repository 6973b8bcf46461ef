"""The detection part of a manifest: pictures in, boxes with names out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from edgebus.artifacts import BundleFormatError, GraphSpec, Manifest, TensorSpec
from edgebus.contracts import Count, Record, explain
from edgebus_detection.vision.spec import DecoderSpec, InputSpec, PictureSpec

TASK = "detection"


class NoveltySpec(Record):
    """A graph that measures how unlike the pictures that the model knows a picture is.

    It takes the model's own input and makes `novelty`, one number from 0; 1 is the 95th percentile
    on the reference pictures. See `make_novelty`.
    """

    file: Literal["novelty.onnx"] = "novelty.onnx"
    pictures: Count = Field(default=0, description="Reference pictures that it was fitted to.")


class DetectionSpec(Record):
    """The part of a manifest that only this workload understands.

    Attributes:
        picture: How a picture becomes the graph's input.
        decoder: How the outputs become boxes.
        classes: Names of the labels, in the model's order.
        novelty: What measures novelty, where the bundle has it.
    """

    picture: PictureSpec = PictureSpec()
    decoder: DecoderSpec
    classes: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=96)], ...],
        Field(min_length=1, max_length=4096),
    ]
    novelty: NoveltySpec | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            double = sorted({name for name in self.classes if self.classes.count(name) > 1})
            msg = f"classes named twice: {', '.join(double)}"
            raise ValueError(msg)
        return self


def detection_spec(manifest: Manifest) -> DetectionSpec:
    """The detection part of a manifest.

    Raises:
        BundleFormatError: It is for another workload, or a field is missing or wrong.
    """
    if manifest.task != TASK:
        raise _refused(f"task: is {manifest.task!r}, not {TASK!r}; use a detection model")
    try:
        return DetectionSpec.model_validate(manifest.workload)
    except ValidationError as error:
        reason = f"workload: {explain(error)}"
    raise _refused(reason)


def input_spec(manifest: Manifest) -> InputSpec:
    """The model's one input as a picture.

    Raises:
        BundleFormatError: The manifest describes no input for one picture.
    """
    picture = detection_spec(manifest).picture
    port = manifest.inputs[0]
    shape = port.concrete()
    planes = shape[1:] if picture.layout == "NCHW" else (*shape[3:], *shape[1:3])
    if len(manifest.inputs) != 1 or len(shape) != 4 or shape[0] != 1 or planes[0] != 3:
        names = ", ".join(f"{item.name} {list(item.shape)}" for item in manifest.inputs)
        raise _refused(f"graphs.0.inputs: {names} is not one {picture.layout} picture")
    try:
        return InputSpec(
            **dict(picture), name=port.name, height=planes[1], width=planes[2], dtype=port.dtype
        )
    except ValidationError as error:
        reason = f"graphs.0.inputs: {explain(error)}"
    raise _refused(reason)


def detection_manifest(
    *,
    picture: InputSpec,
    outputs: Sequence[TensorSpec],
    decoder: DecoderSpec,
    classes: Sequence[str],
    novelty: NoveltySpec | None = None,
    **fields: Any,
) -> Manifest:
    """The manifest of a detection model.

    Args:
        picture: Its input.
        outputs: Its outputs.
        decoder: How they become boxes.
        classes: Names of the labels.
        novelty: What measures novelty.
        **fields: Of `Manifest`: name, version, engine and so on.

    Raises:
        pydantic.ValidationError: A field is missing or wrong.
    """
    how = PictureSpec.model_validate(picture.model_dump(include=set(PictureSpec.model_fields)))
    spec = DetectionSpec(picture=how, decoder=decoder, classes=tuple(classes), novelty=novelty)
    taken = TensorSpec(name=picture.name, dtype=picture.dtype, shape=picture.shape)
    return Manifest(
        task=TASK,
        graphs=(GraphSpec(inputs=(taken,), outputs=tuple(outputs)),),
        workload=spec.model_dump(mode="json", exclude_none=True),
        **fields,
    )


def _refused(reason: str) -> BundleFormatError:
    return BundleFormatError(file="manifest.json", reason=reason)
