"""Feedback of operators on a model's answers: from a phone, Home Assistant or a console."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from edgebus.contracts import samples
from edgebus.contracts.names import Segment
from edgebus.contracts.payload import Count, Key, Message, Record
from edgebus_detection.messages.boxes import Box

Opinion = Literal["wrong", "wrong_box", "missed", "label"]


class _Opinion(Record):
    """An opinion, without its object. Everything but the verdict may be left out."""

    verdict: Opinion = Field(
        description="wrong: something is; wrong_box: a box has nothing in it; missed: an object "
        "has no box; label: a box is right, its class is not."
    )
    box: Count | None = Field(
        default=None, description="Which box: its number in the frame's detections, from 0."
    )
    label: Annotated[str, Field(min_length=1, max_length=96)] | None = Field(
        default=None, description="Class of what is really there."
    )
    at: Box | None = Field(
        default=None, description="Or exactly: the object that is really there, with its class."
    )
    note: Annotated[str, Field(max_length=500)] = Field(default="", description="In words.")


class Verdict(_Opinion, samples.Verdict):
    """Verdict of one operator on one frame, as a sample's record keeps it."""

    @property
    def summary(self) -> str:
        """The verdict in a few words, with the class where one was named."""
        return self.verdict.replace("_", " ") + (f" ({self.label})" if self.label else "")


class Feedback(Message, _Opinion, version=1):
    """An operator says what was wrong with a frame; the frame becomes a sample.

    Only `camera` and `verdict` have to be given. Without `frame`, the newest frame of that camera
    is meant that has been answered.
    """

    # A person's name, whichever device it comes from.
    SOURCE_IS_PREFIX: ClassVar[bool] = False

    source: Key = Field(default="operator", description="The person.")
    camera: Segment
    node: Segment | None = Field(
        default=None, description="The camera's node, where several nodes have one of that name."
    )
    frame: Key | None = Field(default=None, description="id of the frame.")

    @property
    def stream(self) -> str:
        """The camera."""
        return self.camera

    @property
    def input(self) -> str | None:
        """The frame's id."""
        return self.frame

    def to_verdict(self) -> Verdict:
        """The verdict for the record of the sample."""
        fields = {name: getattr(self, name) for name in _Opinion.model_fields}
        return Verdict(by=self.source, time=self.time, **fields)
