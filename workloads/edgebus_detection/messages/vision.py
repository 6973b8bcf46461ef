"""Frames, their ground truth, detections and samples."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from edgebus.contracts import samples
from edgebus.contracts.models import ModelRef
from edgebus.contracts.names import Segment
from edgebus.contracts.payload import (
    MOST,
    Amount,
    Count,
    Key,
    Message,
    Overlay,
    Record,
    Text,
    Timestamp,
)
from edgebus_detection.messages.boxes import MOST_BOXES, Box
from edgebus_detection.messages.feedback import Verdict
from edgebus_detection.messages.jpeg import JpegPayload, PictureRecord, Side

Fraction = Annotated[float, Field(ge=0, le=1)]
Boxes = Annotated[tuple[Box, ...], Field(max_length=MOST_BOXES)]


def _inside(boxes: tuple[Box, ...], width: int, height: int) -> None:
    for number, box in enumerate(boxes):
        # One pixel of grace: rounding, not a mistake.
        if box.x2 > width + 1 or box.y2 > height + 1:
            msg = (
                f"box {number} ({box.label}) reaches ({box.x2}, {box.y2}), "
                f"outside its frame of {width} x {height}; clip it"
            )
            raise ValueError(msg)


class FrameRecord(PictureRecord, version=1, name="frame"):
    """The record inside a frame's JPEG. `time` is when the frame was sent."""

    camera: Segment
    index: Count = Field(description="Frame number of this camera, from 0.")
    captured: Timestamp = Field(description="When the camera took it.")

    @property
    def stream(self) -> str:
        """The camera."""
        return self.camera

    @property
    def input(self) -> str:
        """The frame's own id."""
        return self.id


class Frame(JpegPayload[FrameRecord]):
    """One picture of a camera: JPEG with a `FrameRecord` inside."""

    record_type: ClassVar[type[PictureRecord]] = FrameRecord


class FrameBoxes(Message):
    """The boxes of one frame, and which frame that is."""

    frame: Key = Field(description="id of the frame.")
    camera: Segment
    index: Count
    captured: Timestamp = Field(description="When the camera took the frame.")
    width: Side
    height: Side
    boxes: Boxes

    @property
    def stream(self) -> str:
        """The camera."""
        return self.camera

    @property
    def input(self) -> str:
        """The frame's id."""
        return self.frame

    @classmethod
    def overlay(cls) -> Overlay | None:
        """As foxglove.ImageAnnotations over the camera's picture."""
        from edgebus_detection.messages.recorded import AsImageAnnotations

        return AsImageAnnotations()

    @model_validator(mode="after")
    def _boxes_inside(self) -> Self:
        _inside(self.boxes, self.width, self.height)
        return self


class GroundTruth(FrameBoxes, version=1, name="truth"):
    """Ground truth of a frame; only emulated cameras and labelled data know it."""

    condition: Text = Field(default="normal", description="Name of the scripted condition.")
    effects: Annotated[dict[Key, Fraction], Field(max_length=MOST)] = Field(
        default_factory=dict, description="Strength of each scripted drift effect, 0 to 1."
    )


class StageTimes(Record):
    """Milliseconds of the stages of one detection."""

    decode_ms: Amount = 0.0
    preprocess_ms: Amount = 0.0
    inference_ms: Amount = 0.0
    postprocess_ms: Amount = 0.0


class Detections(FrameBoxes, version=1):
    """Objects that a model saw in a frame.

    The clock stamps are in this order for every frame: captured, sent, received, detected.
    """

    model: ModelRef = Field(description="The one model that answered this frame.")
    sent: Timestamp = Field(description="When the camera sent it.")
    received: Timestamp = Field(description="When the detector had it.")
    detected: Timestamp = Field(description="When the boxes were there.")
    stages: StageTimes = StageTimes()
    dropped: Count = Field(
        default=0, description="Frames of this camera that were dropped for newer ones so far."
    )
    novelty: Amount | None = Field(
        default=None,
        description="How unlike the model's reference pictures this one looks to its first layers: "
        "a Mahalanobis distance, in units of the 95th percentile on the reference. Absent where "
        "the bundle has no reference.",
    )


class SampleRecord(PictureRecord, samples.SampleRecord, version=1, name="sample"):
    """The record in a sample's JPEG, with what the model saw and what is really there."""

    detections: Boxes
    truth: Boxes | None = Field(
        default=None, description="Ground truth, where the camera knows it."
    )
    feedback: Annotated[tuple[Verdict, ...], Field(max_length=16)] = Field(
        default=(), description="Verdicts of operators on this frame."
    )

    @model_validator(mode="after")
    def _boxes_inside(self) -> Self:
        _inside(self.detections, self.width, self.height)
        _inside(self.truth or (), self.width, self.height)
        return self


class Sample(JpegPayload[SampleRecord]):
    """A hard example: the frame's JPEG with a `SampleRecord` inside."""

    record_type: ClassVar[type[PictureRecord]] = SampleRecord
