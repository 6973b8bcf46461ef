"""Pictures in a recording: foxglove.CompressedImage around the JPEG, which viewers show."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import ClassVar

from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from edgebus.contracts import Message

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)


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
        files = FileDescriptorSet()
        added: set[str] = set()

        def add(file: FileDescriptor) -> None:
            for needed in file.dependencies:
                add(needed)
            if file.name not in added:
                added.add(file.name)
                file.CopyToProto(files.file.add())

        add(CompressedImage.DESCRIPTOR.file)
        return files.SerializeToString()

    def wrap(self, data: bytes, *, record: Message | None, topic: str, sent: datetime) -> bytes:
        """The picture, at the time when the camera took it."""
        taken: datetime = getattr(record, "captured", None) or sent
        whole, rest = divmod(max(taken, _EPOCH) - _EPOCH, _SECOND)
        return CompressedImage(
            timestamp=Timestamp(seconds=whole, nanos=rest.microseconds * 1000),
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
