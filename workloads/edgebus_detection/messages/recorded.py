"""Pictures and boxes in a recording, as viewers show them: one over the other.

A JPEG is wrapped in foxglove.CompressedImage; beside detections and ground truth stand
foxglove.ImageAnnotations of the same time, by which viewers bring both together.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, ClassVar

from foxglove_schemas_protobuf.Color_pb2 import Color
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.ImageAnnotations_pb2 import ImageAnnotations
from foxglove_schemas_protobuf.Point2_pb2 import Point2
from foxglove_schemas_protobuf.PointsAnnotation_pb2 import PointsAnnotation
from foxglove_schemas_protobuf.TextAnnotation_pb2 import TextAnnotation
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from edgebus.contracts import Message

if TYPE_CHECKING:
    from edgebus_detection.messages.vision import FrameBoxes

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_PREDICTED = Color(r=1.0, g=0.55, b=0.0, a=1.0)
_TRUE = Color(r=1.0, g=1.0, b=1.0, a=1.0)


class AsCompressedImage:
    """Wraps JPEGs; `data` is the file as it was, its record included."""

    schema: ClassVar[str] = CompressedImage.DESCRIPTOR.full_name
    encoding: ClassVar[str] = "protobuf"
    schema_encoding: ClassVar[str] = "protobuf"

    def fits(self, data: bytes) -> bool:
        """Whether it begins like a JPEG."""
        return data.startswith(b"\xff\xd8\xff")

    def definition(self) -> bytes:
        """A serialised FileDescriptorSet."""
        return _definition(CompressedImage.DESCRIPTOR.file)

    def wrap(self, data: bytes, *, record: Message | None, topic: str, sent: datetime) -> bytes:
        """The picture, at the time when the camera took it."""
        return CompressedImage(
            timestamp=_timestamp(getattr(record, "captured", None) or sent),
            frame_id=getattr(record, "camera", topic),
            data=data,
            format="jpeg",
        ).SerializeToString()

    def unwrap(self, data: bytes) -> bytes:
        """The JPEG.

        Raises:
            ValueError: The wrapper is broken.
        """
        try:
            return CompressedImage.FromString(data).data
        except DecodeError as error:
            msg = f"a broken {self.schema}: {error}"
            raise ValueError(msg) from error


class AsImageAnnotations:
    """Draws boxes over the picture of the same time, each with its class and score."""

    schema: ClassVar[str] = ImageAnnotations.DESCRIPTOR.full_name
    encoding: ClassVar[str] = "protobuf"
    schema_encoding: ClassVar[str] = "protobuf"
    level: ClassVar[str] = "annotations"

    def definition(self) -> bytes:
        """A serialised FileDescriptorSet."""
        return _definition(ImageAnnotations.DESCRIPTOR.file)

    def draw(self, message: FrameBoxes) -> bytes:
        """The boxes of a frame: orange where they have a score, white where they are true."""
        time = _timestamp(message.captured)
        size = max(10.0, message.height / 36)
        points: list[PointsAnnotation] = []
        texts: list[TextAnnotation] = []
        for box in message.boxes:
            colour = _TRUE if box.score is None else _PREDICTED
            corners = ((box.x1, box.y1), (box.x2, box.y1), (box.x2, box.y2), (box.x1, box.y2))
            points.append(
                PointsAnnotation(
                    timestamp=time,
                    type=PointsAnnotation.LINE_LOOP,
                    points=[Point2(x=x, y=y) for x, y in corners],
                    outline_color=colour,
                    thickness=max(1.0, message.height / 240),
                )
            )
            score = "" if box.score is None else f" {box.score:.2f}"
            texts.append(
                TextAnnotation(
                    timestamp=time,
                    position=Point2(x=box.x1, y=box.y1),
                    text=f"{box.label}{score}",
                    font_size=size,
                    text_color=colour,
                    background_color=Color(r=0.0, g=0.0, b=0.0, a=0.6),
                )
            )
        drawn = ImageAnnotations(timestamp=time, points=points, texts=texts)
        return drawn.SerializeToString()


def _timestamp(time: datetime) -> Timestamp:
    whole, rest = divmod(max(time, _EPOCH) - _EPOCH, _SECOND)
    return Timestamp(seconds=whole, nanos=rest.microseconds * 1000)


def _definition(file: FileDescriptor) -> bytes:
    """A serialised FileDescriptorSet of a file and of those that it needs."""
    files = FileDescriptorSet()
    added: set[str] = set()

    def add(one: FileDescriptor) -> None:
        for needed in one.dependencies:
            add(needed)
        if one.name not in added:
            added.add(one.name)
            one.CopyToProto(files.file.add())

    add(file)
    return files.SerializeToString()
