"""Input and output of a detection model: the vision half of its manifest."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgebus.contracts import Ordinal, Record, Segment

Side = Annotated[int, Field(ge=8, le=8192)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class PictureSpec(Record):
    """Transformation of a picture into the graph's input.

    A pixel value x (0 to 255) of channel c enters as ``(x - mean[c]) / std[c]``; channels are in
    the order of `color`.

    Attributes:
        layout: ``NCHW`` or ``NHWC``, always with a batch of one picture.
        color: Order of the channels.
        mean, std: Per channel, on the scale 0 to 255.
        pad_value: Grey of the border, 0 to 255.
        anchor: Where the picture lies in the padded input.
        resize: ``letterbox`` keeps the aspect ratio and pads; ``stretch`` does not.
    """

    layout: Literal["NCHW", "NHWC"] = "NCHW"
    color: Literal["BGR", "RGB"] = "BGR"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)
    pad_value: Annotated[int, Field(ge=0, le=255)] = 114
    anchor: Literal["top-left", "center"] = "top-left"
    resize: Literal["letterbox", "stretch"] = "letterbox"


class InputSpec(PictureSpec):
    """A picture's way into one graph input.

    Attributes:
        name: The graph's input.
        height, width: Pixels.
        dtype: ``uint8`` inputs take the pixels as they are.
    """

    name: str
    height: Side
    width: Side
    dtype: Literal["float32", "uint8"] = "float32"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the input tensor, batch of one included."""
        if self.layout == "NCHW":
            return (1, 3, self.height, self.width)
        return (1, self.height, self.width, 3)


class DecoderSpec(Record):
    """Transformation of the outputs into boxes.

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
