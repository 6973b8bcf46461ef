"""Arrays as a payload of the bus: a safetensors file whose metadata holds the record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self, TypeVar, cast

from edgebus.artifacts.errors import ArtifactError
from edgebus.artifacts.tensors import Array, TensorFile, dump_tensors
from edgebus.contracts import Message, PayloadError, RecordPayload

_RECORD = "record"

R = TypeVar("R", bound=Message)


@dataclass(frozen=True, slots=True, eq=False)
class ArrayPayload(RecordPayload[R]):
    """Named arrays with a record; any safetensors library reads both.

    A kind of it names the record::

        class Window(ArrayPayload[WindowRecord]):
            record_type = WindowRecord

    Attributes:
        arrays: Arrays by name; read-only where they came from the bus.
        record: The record.
    """

    content_type: ClassVar[str] = "application/x-safetensors"
    format_name: ClassVar[str] = "safetensors"
    format_doc: ClassVar[str] = (
        "A safetensors file. Its metadata holds a JSON record under the key `record`."
    )
    record_type: ClassVar[type[Message]]

    arrays: Mapping[str, Array]
    record: R

    def with_record(self, record: R) -> Self:
        """The same arrays with another record."""
        return type(self)(arrays=self.arrays, record=record)

    def encode(self) -> bytes:
        """The file.

        Raises:
            TypeError: An array is of a type that safetensors has no name for.
        """
        return dump_tensors(self.arrays, metadata={_RECORD: self.record.encode().decode()})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the record and, without copies, the arrays.

        Raises:
            PayloadError: It is no whole safetensors file, or has no valid record.
        """
        try:
            file = TensorFile.parse(data, file=cls.format_name)
        except ArtifactError as error:
            raise PayloadError(schema=cls.schema_id(), reason=str(error)) from error
        text = file.metadata.get(_RECORD)
        if text is None:
            reason = f"the file's metadata has no {_RECORD!r}"
            raise PayloadError(schema=cls.schema_id(), reason=reason)
        record = cls.record_type.decode(text.encode(errors="surrogatepass"))
        return cls(arrays=file.arrays(), record=cast("R", record))
