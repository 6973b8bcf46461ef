"""Payloads: JSON messages, bytes with a record inside, and raw bytes."""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    Literal,
    Protocol,
    Self,
    TypeVar,
    cast,
    runtime_checkable,
)

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
)
from uuid_utils import uuid7

from edgebus.contracts.errors import PayloadError
from edgebus.contracts.names import Source
from edgebus.contracts.trace import Traceparent


def utc_now() -> datetime:
    """The wall clock, aware, UTC."""
    return datetime.now(UTC)


def new_id() -> str:
    """A new UUIDv7 (RFC 9562 §5.7): unique, and sorts by creation time."""
    return str(uuid7())


def rfc3339(time: datetime) -> str:
    """`time` as RFC 3339 in UTC with microseconds, for example 2026-11-22T10:56:41.000125Z."""
    return time.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


_FIRST_YEAR = 1970
_END_YEAR = 2200


def _check_instant(value: datetime) -> datetime:
    """`value` in UTC, if every part of a system can count with it.

    Stores keep nanoseconds since 1970 in 64 bits, which end in 2262; sums of times and durations
    overflow near the years 1 and 9999.
    """
    # First roughly, in whatever zone it is: near the ends of the calendar no other zone exists.
    if _FIRST_YEAR - 1 <= value.year <= _END_YEAR:
        instant = value.astimezone(UTC)
        if _FIRST_YEAR <= instant.year < _END_YEAR:
            return instant
    msg = (
        f"{value.isoformat()} is not between {_FIRST_YEAR} and {_END_YEAR}; set the sender's clock"
    )
    raise ValueError(msg)


Timestamp = Annotated[
    AwareDatetime,
    AfterValidator(_check_instant),
    PlainSerializer(rfc3339, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""An instant between 1970 and 2200; on the wire RFC 3339, UTC, microseconds."""

_SHOWN = 300

# RFC 8259 §6: larger integers do not survive readers that keep numbers as doubles (JavaScript,
# jq), and not every store.
_LARGEST = 2**53 - 1

Count = Annotated[int, Field(ge=0, le=_LARGEST)]
"""A whole number from 0."""

Ordinal = Annotated[int, Field(ge=1, le=_LARGEST)]
"""A whole number from 1: a version, a sequence number."""

Number = Annotated[float, Field(ge=-1e15, le=1e15)]
"""A measured or computed figure. Sums and differences of any number of them stay finite."""

Amount = Annotated[float, Field(ge=0, le=1e15)]
"""A figure from 0: a duration, a size, a tolerance."""

MOST = 256
"""Entries that a list or a map in a message has at most, where nothing else is stated."""

_OTHERS = "(others)"
_TEXT = 500
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def shorten(text: str, *, limit: int = _TEXT) -> str:
    """`text` without control characters, and cut where it is longer than `limit` characters.

    A reason may quote anything. It goes on into logs, terminals and the messages of whoever sums
    up, so it is made harmless once, where it enters.
    """
    text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def largest(counts: Mapping[str, int]) -> dict[str, int]:
    """The largest of many counts, and the sum of the rest as one entry named ``(others)``."""
    if len(counts) <= MOST:
        return dict(counts)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = min(_LARGEST, sum(count for _, count in ordered[MOST - 1 :]))
    return {**dict(ordered[: MOST - 1]), _OTHERS: rest}


Text = Annotated[
    str,
    AfterValidator(shorten),
    WithJsonSchema({"type": "string", "maxLength": _TEXT}),
]
"""Words for people: a reason, an error. Longer ones are cut, not refused."""

Key = Annotated[str, Field(max_length=200)]
"""A name that is no topic level: an input's id, a job, a policy, a figure."""

Figures = Annotated[dict[Key, Number], Field(max_length=MOST)]
"""Figures by name."""

Tally = Annotated[
    dict[Key, Count], AfterValidator(largest), Field(json_schema_extra={"maxProperties": MOST})
]
"""Counts by name, of whatever others have sent: the largest, and the sum of the rest."""

Uuid = Annotated[
    str, Field(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$")
]


@runtime_checkable
class Payload(Protocol):
    """Anything that a topic can carry."""

    content_type: ClassVar[str]
    """MIME type, sent as an MQTT 5 property."""

    @classmethod
    def schema_id(cls) -> str:
        """Name and major version, for example ``detections/1``."""
        ...

    def encode(self) -> bytes:
        """The bytes on the wire."""
        ...

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read bytes from the wire.

        Raises:
            PayloadError: They are not this kind of payload.
        """
        ...


P = TypeVar("P", bound=Payload)
T = TypeVar("T", bound="Record")


class Record(BaseModel):
    """A part of a message: frozen, finite numbers only, unknown fields ignored.

    Unknown fields are ignored so that an old reader understands a newer minor version.
    """

    model_config = ConfigDict(
        frozen=True, extra="ignore", allow_inf_nan=False, populate_by_name=True
    )


def stamped(*, description: str) -> Any:
    """A field that the bus fills in where it is empty, and that no message on the wire lacks."""

    def required(field: dict[str, Any]) -> None:
        field.pop("default", None)

    return Field(default="", description=description, json_schema_extra=required)


class Message(Record):
    """A JSON message that stands alone.

    A subclass declares the major version of its schema, and so the schema's name::

        class PersonCount(Message, version=1): ...  # personcount/1

    Without `version` it is a base that nobody sends.

    Args:
        version: Major version: grows when an old reader cannot read a new message.
        name: Name of the schema, where it is not that of the class in lower case.
    """

    STAMPED: ClassVar[tuple[str, ...]] = ("source",)
    """Fields that the bus fills in; a message without one of them is refused."""

    SOURCE_IS_PREFIX: ClassVar[bool] = True
    """Whether `source` must be the prefix of its topic. Not where somebody else's name is in it."""

    OPTIONAL: ClassVar[tuple[str, ...]] = ()
    """Fields of every message that a sender may leave out; a reader fills them in."""

    content_type: ClassVar[str] = "application/json"

    id: Uuid = Field(default_factory=new_id, description="UUIDv7 of this message.")
    time: Timestamp = Field(default_factory=utc_now, description="When it was sent.")
    source: Source = stamped(description="Publisher: site/node/service.")
    schema_: Key = Field(
        default="message/1", alias="schema", description="Schema name and major version."
    )
    traceparent: Traceparent = Field(
        default=None, description="W3C trace context: what it was made because of."
    )

    def __init_subclass__(
        cls, *, version: int | None = None, name: str | None = None, **config: Any
    ) -> None:
        super().__init_subclass__(**config)
        if version is None:
            return
        # Generic classes are named after their parameters: Reading[int].
        identifier = f"{name or re.split(r'[^a-zA-Z0-9]', cls.__name__)[0].lower()}/{version}"
        cls.__annotations__ = inspect.get_annotations(cls) | {"schema_": Literal[identifier]}
        cls.schema_ = Field(
            default=identifier, alias="schema", description="Schema name and major version."
        )

    @classmethod
    def schema_id(cls) -> str:
        """Name and major version, for example ``detections/1``."""
        return str(cls.model_fields["schema_"].default)

    def stamp(self, values: Mapping[str, str | None]) -> Self:
        """The same message with those of these fields filled in that are empty."""
        missing = {n: value for n, value in values.items() if value and not getattr(self, n)}
        return self.model_copy(update=missing) if missing else self

    def encode(self) -> bytes:
        """Flat JSON, UTF-8; fields that are None are left out."""
        # What model_dump_json() does, without the way through a str.
        data: bytes = self.__pydantic_serializer__.to_json(self, by_alias=True, exclude_none=True)
        return data

    @classmethod
    def overlay(cls) -> Overlay | None:
        """What draws it over the input that it is about, in a recording; by default nothing."""
        return None

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read JSON.

        Raises:
            PayloadError: It is no JSON, or a field is missing, wrong or of another schema.
        """
        try:
            message = cast("Self", cls.__pydantic_validator__.validate_json(data))
        except ValidationError as error:
            reason = explain(error)
        else:
            given = message.__pydantic_fields_set__
            if given.issuperset(cls.STAMPED):
                return message
            missing = [f for f in cls.STAMPED if f not in given and not getattr(message, f)]
            if not missing:
                return message
            reason = "; ".join(f"{field}: Field required" for field in missing)
        # Raised here and without its cause: a ValidationError holds the errors of our validators
        # where Python's garbage collector cannot see them, and those hold, by their tracebacks,
        # the frames of whoever called. One chained to what a frame keeps would stay for ever.
        raise PayloadError(schema=cls.schema_id(), reason=reason)


def explain(error: ValidationError, *, limit: int = 3) -> str:
    """The first few problems of a validation error in one line: ``field: problem; …``."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    words = [
        # A place may hold a name out of the payload, as long as its sender pleased.
        f"{_short('.'.join(str(part) for part in problem['loc']) or 'payload')}: "
        f"{_short(problem['msg'])}"
        for problem in problems[:limit]
    ]
    if len(problems) > limit:
        words.append(f"and {len(problems) - limit} more")
    return "; ".join(words)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def fitting(parts: Iterable[T], *, size: int = 2**18) -> tuple[T, ...]:
    """As many records as fit into `size` bytes of JSON, the first of them.

    For summaries of what any number of others have sent: no broker takes packets without end.
    """
    found: list[T] = []
    for part in parts:
        size -= len(part.__pydantic_serializer__.to_json(part)) + 1
        if size < 0:
            break
        found.append(part)
    return tuple(found)


R = TypeVar("R", bound=Message)


class Overlay(Protocol):
    """A second form of a message in a recording, which viewers draw over the input it is about.

    Attributes:
        schema: Name of the form's schema.
        encoding: MCAP's encoding of its messages.
        schema_encoding: MCAP's encoding of its schema.
        level: Last level of its topic, below the message's own.
    """

    schema: ClassVar[str]
    encoding: ClassVar[str]
    schema_encoding: ClassVar[str]
    level: ClassVar[str]

    def definition(self) -> bytes:
        """The schema."""
        ...

    def draw(self, message: Any) -> bytes:
        """The form of a message."""
        ...


class Wrapper(Protocol):
    """Another format around a payload's bytes in a recording, one that viewers can show.

    Attributes:
        schema: Name of the format's schema.
        encoding: MCAP's encoding of its messages.
        schema_encoding: MCAP's encoding of its schema.
    """

    schema: ClassVar[str]
    encoding: ClassVar[str]
    schema_encoding: ClassVar[str]

    def fits(self, data: bytes) -> bool:
        """Check whether these bytes, a third party's too, can be wrapped."""
        ...

    def definition(self) -> bytes:
        """The schema."""
        ...

    def wrap(self, data: bytes, *, record: Message | None, topic: str, sent: datetime) -> bytes:
        """The bytes in the format; they have no record where none could be read."""
        ...

    def unwrap(self, data: bytes) -> bytes:
        """The bytes as they were.

        Raises:
            ValueError: The format is broken.
        """
        ...


class RecordPayload(ABC, Generic[R]):
    """Bytes of any format with their own record inside, so that they stand alone like a message.

    A picture, an array or a table carries its record where its format has room for text. A kind of
    payload implements `with_record`, `encode` and `decode` once; a class of it names the record.

    Attributes:
        record: The record inside.
        format_name: The format in a word, for people.
        format_doc: One or two sentences: which format it is, and where the record stands in it.
    """

    content_type: ClassVar[str]
    format_name: ClassVar[str]
    format_doc: ClassVar[str]
    record_type: ClassVar[type[Message]]

    record: R

    @classmethod
    def schema_id(cls) -> str:
        """The schema of the record."""
        return cls.record_type.schema_id()

    @classmethod
    def recorded_as(cls) -> Wrapper | None:
        """The format that recordings wrap it in; by default they keep the bytes as they are."""
        return None

    def stamp(self, values: Mapping[str, str | None]) -> Self:
        """The same payload with those of these fields of its record filled in that are empty.

        Raises:
            PayloadError: The record does not fit any more.
        """
        record = self.record.stamp(values)
        return self if record is self.record else self.with_record(record)

    @abstractmethod
    def with_record(self, record: R) -> Self:
        """The same bytes around another record.

        Raises:
            PayloadError: The record does not fit.
        """

    @abstractmethod
    def encode(self) -> bytes:
        """The whole, record included."""

    @classmethod
    @abstractmethod
    def decode(cls, data: bytes) -> Self:
        """Read the bytes from the wire, the record checked.

        Raises:
            PayloadError: They are not this kind of payload, or have no valid record.
        """


def record_of(payload: RecordPayload[R] | R) -> R:
    """The message that describes a payload: the record inside, or the message itself."""
    return payload.record if isinstance(payload, RecordPayload) else payload


@dataclass(frozen=True, slots=True)
class RawBytes:
    """Bytes as they are: one block of an artifact, or the payload of a dead letter."""

    content_type: ClassVar[str] = "application/octet-stream"

    data: bytes

    @classmethod
    def schema_id(cls) -> str:
        """Raw bytes carry no record; their schema is only a name."""
        return "bytes/1"

    def encode(self) -> bytes:
        """The bytes themselves."""
        return self.data

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Any bytes are fine; who asked for them checks their digest."""
        return cls(data)
