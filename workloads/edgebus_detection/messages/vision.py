"""What cameras, detectors and collectors say."""

from __future__ import annotations

import hashlib
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from edgebus.contracts.models import ModelRef
from edgebus.contracts.names import Segment
from edgebus.contracts.payload import Count, Message, Ordinal, Record, Timestamp
from edgebus_detection.messages.boxes import Box
from edgebus_detection.messages.feedback import Verdict
from edgebus_detection.messages.jpeg import JpegPayload, PictureRecord, Side

__all__ = [
    "Consent",
    "Detections",
    "Drift",
    "DriftState",
    "Frame",
    "FrameRecord",
    "GroundTruth",
    "Sample",
    "SampleRecord",
    "Split",
    "StageTimes",
    "split_of",
]

Fraction = Annotated[float, Field(ge=0, le=1)]
Split = Literal["train", "holdout"]
Consent = Literal["unstated", "given", "refused"]


def split_of(camera: str, index: int, *, block: int = 20, every: int = 4) -> Split:
    """Whether a frame may be trained on, the same answer everywhere on the bus.

    Whole blocks of consecutive frames are held out, not single frames: neighbours in a video are
    near-duplicates, and training on one leaks the other.

    Args:
        camera: Name of the camera; cameras hold out different blocks.
        index: Frame number, from 0.
        block: Frames per block.
        every: One block in this many is held out.
    """
    digest = hashlib.sha256(camera.encode()).digest()
    offset = int.from_bytes(digest[:4], "big") % every
    return "holdout" if (index // block + offset) % every == every - 1 else "train"


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


class Frame(JpegPayload[FrameRecord]):
    """One picture of a camera: JPEG with a `FrameRecord` inside."""

    record_type: ClassVar[type[PictureRecord]] = FrameRecord


class GroundTruth(Message, version=1, name="truth"):
    """What is really in a frame; only emulated cameras and labelled data know it."""

    frame: str = Field(description="id of the frame.")
    camera: Segment
    index: Count
    captured: Timestamp
    width: Side
    height: Side
    boxes: tuple[Box, ...]
    condition: str = Field(default="normal", description="Name of the scripted condition.")
    effects: dict[str, Fraction] = Field(
        default_factory=dict, description="Strength of each scripted drift effect, 0 to 1."
    )

    @model_validator(mode="after")
    def _boxes_inside(self) -> Self:
        _inside(self.boxes, self.width, self.height)
        return self


class StageTimes(Record):
    """Where the milliseconds of one detection went."""

    decode_ms: float = Field(default=0.0, ge=0)
    preprocess_ms: float = Field(default=0.0, ge=0)
    inference_ms: float = Field(default=0.0, ge=0)
    postprocess_ms: float = Field(default=0.0, ge=0)


class Detections(Message, version=1):
    """What a model saw in a frame.

    The clock stamps are in this order for every frame: captured, sent, received, detected.
    """

    frame: str = Field(description="id of the frame.")
    camera: Segment
    index: Count
    width: Side
    height: Side
    boxes: tuple[Box, ...]
    model: ModelRef = Field(description="The one model that answered this frame.")
    captured: Timestamp = Field(description="When the camera took the frame.")
    sent: Timestamp = Field(description="When the camera sent it.")
    received: Timestamp = Field(description="When the detector had it.")
    detected: Timestamp = Field(description="When the boxes were there.")
    stages: StageTimes = StageTimes()
    dropped: Count = Field(
        default=0, description="Frames of this camera that were dropped for newer ones so far."
    )
    feature: float | None = Field(
        default=None,
        ge=0,
        description="How unlike the model's reference pictures this one looks to its first layers: "
        "a Mahalanobis distance, in units of the 95th percentile on the reference. Absent where "
        "the bundle has no reference.",
    )

    @model_validator(mode="after")
    def _boxes_inside(self) -> Self:
        _inside(self.boxes, self.width, self.height)
        return self


class DriftState(Record):
    """Whether a camera's pictures, or the model's answers to them, are what they were."""

    drifted: tuple[Segment, ...] = Field(
        default=(), description="Statistics that have changed and not come back; empty: stable."
    )
    since: Timestamp | None = Field(
        default=None, description="When the first of these changes began, by the camera's clock."
    )
    means: dict[str, float] = Field(
        default_factory=dict, description="Recent mean of each watched statistic."
    )


class Drift(Message, version=1):
    """A statistic of one camera has changed: a reason to look, and to retrain.

    `returned` tells the two directions apart: away from what was normal when the model began to
    serve, or back to it.
    """

    camera: Segment
    statistic: Segment = Field(
        description="What has changed: confidence (mean score of a frame's boxes) or feature."
    )
    detector: Segment = Field(description="What noticed it: adwin, page-hinkley, kswin.")
    before: float = Field(description="Mean before the change.")
    after: float = Field(description="Mean since the change.")
    frames: Ordinal = Field(description="Frames since the change, of which `after` is the mean.")
    frame: str = Field(description="id of the frame at which it was noticed.")
    index: Count = Field(description="Number of that frame.")
    since: Timestamp = Field(description="When the change began, by the camera's clock.")
    returned: bool = Field(
        default=False, description="The statistic is back to normal: no reason to retrain."
    )
    model: ModelRef = Field(description="The model that served then.")


class SampleRecord(PictureRecord, version=1, name="sample"):
    """The record in a sample's JPEG: the frame, what was said of it, why it was collected."""

    frame: str = Field(description="id of the frame.")
    camera: Segment
    index: Count
    captured: Timestamp
    split: Split = Field(description="Held-out samples are measured on, never trained on.")
    policy: str = Field(description="The policy that chose it.")
    reason: str = Field(description="What was wrong, in words.")
    score: float = Field(description="How wrong: higher is worse, comparable within a policy.")
    model: ModelRef = Field(description="The model whose detections these are.")
    detections: tuple[Box, ...]
    truth: tuple[Box, ...] | None = Field(
        default=None, description="Ground truth, where the camera knows it."
    )
    opinions: dict[str, float] = Field(
        default_factory=dict, description="Score of every policy that could tell, by its name."
    )
    feature: float | None = Field(
        default=None, ge=0, description="As in the detections: how unlike the reference it looks."
    )
    drift: DriftState | None = Field(
        default=None, description="Of its camera at that time; absent where nobody watched."
    )
    feedback: tuple[Verdict, ...] = Field(
        default=(), description="What operators said of this frame."
    )
    consent: Consent = Field(
        default="unstated", description="What the persons in front of this camera agreed to."
    )
    retention: Segment = Field(
        default="standard", description="Name of the class that says how long it may be kept."
    )

    @model_validator(mode="after")
    def _boxes_inside(self) -> Self:
        _inside(self.detections, self.width, self.height)
        _inside(self.truth or (), self.width, self.height)
        return self


class Sample(JpegPayload[SampleRecord]):
    """A hard example: the frame's JPEG with a `SampleRecord` inside."""

    record_type: ClassVar[type[PictureRecord]] = SampleRecord
