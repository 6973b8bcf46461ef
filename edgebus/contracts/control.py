"""Messages of every service: state, metrics, dead letters, commands and their replies."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from edgebus.contracts.models import BundleRef
from edgebus.contracts.names import Digest, Segment
from edgebus.contracts.payload import (
    MOST,
    Amount,
    Count,
    Figures,
    Key,
    Message,
    Number,
    Ordinal,
    Record,
    Text,
    Timestamp,
    stamped,
)

MOST_FIGURES = 2000
"""Counters, and gauges, of a service at most."""

ServiceFigures = Annotated[dict[Key, Number], Field(max_length=MOST_FIGURES)]

State = Literal["starting", "ready", "degraded", "draining", "stopped", "offline"]


class ServiceState(Message, version=1, name="state"):
    """State of a service; the broker publishes `offline` for it, as its will."""

    state: State
    session: Count = Field(
        description="Grows with each connection: an old will has an older session than the birth."
    )
    instance: Key = Field(description="One process: two services with one identity differ here.")
    reason: Text = ""
    since: Timestamp
    version: Key = Field(description="Version of the service's package.")
    host: Key = ""
    pid: Count = 0


class Metrics(Message, version=1):
    """Counters and gauges of a service, and what it takes from its host."""

    session: Count
    uptime_s: Amount
    counters: ServiceFigures = Field(
        default_factory=dict, description="Monotonic since the start of the process."
    )
    gauges: ServiceFigures = Field(default_factory=dict)
    cpu_percent: Amount = Field(default=0.0, description="Of one core, by this process.")
    rss_bytes: Count = 0
    host_cpu_percent: float = Field(default=0.0, ge=0, le=100)
    host_memory_percent: float = Field(default=0.0, ge=0, le=100)


class DeadLetter(Message, version=1):
    """A message that could not be handled. Its bytes follow on the topic below.

    The broker keeps the last few of each service; see `edgebus deadletter`.
    """

    topic: Annotated[str, Field(max_length=65_535)] = Field(description="Where it came from.")
    expected: Key = Field(description="The schema that was expected there.")
    reason: Literal["invalid", "failed"] = Field(
        description="invalid: does not validate; failed: its handler failed for good."
    )
    error: Text
    attempts: Count
    size: Count
    media_type: Text = Field(description="MIME type of the payload.")
    handler: Text = Field(default="", description="The subscription that gave up.")
    qos: Literal[0, 1] = Field(default=0, description="Quality of service it came with.")
    digest: Digest | None = Field(
        default=None, description="SHA-256 of the payload; absent where it is too large to keep."
    )
    suppressed: Count = Field(
        default=0, description="Letters of this subscription before this one that were not written."
    )
    text: str | None = Field(
        default=None, max_length=4096, description="The start of the payload where it is text."
    )


class Command(Message):
    """Asks a service to do something; the answer goes to `reply_to`.

    A sender may leave out `id`, `time` and `schema`: the service that is asked fills them in.
    """

    OPTIONAL: ClassVar[tuple[str, ...]] = ("id", "time", "schema")

    # Its topic is that of the service which it asks.
    SOURCE_IS_PREFIX: ClassVar[bool] = False

    reply_to: Annotated[str, Field(max_length=1000)] | None = Field(
        default=None,
        description="Topic of the answer: {base}/{source}/replies/{name} with the sender's own "
        "source, or the asked service's {base}/{site}/{node}/{service}/replies/{name}; absent: "
        "no answer.",
    )
    expires: Timestamp | None = Field(default=None, description="Not to be acted on afterwards.")


class Reply(Message):
    """The answer to a command; a command may ask for a subclass with more to say."""

    STAMPED: ClassVar[tuple[str, ...]] = ("source", "request")
    # Its topic is that of whoever asked, or of whoever answers.
    SOURCE_IS_PREFIX: ClassVar[bool] = False

    # Any answer is also a plain yes or no, so the name of its schema is open.
    schema_: Key = Field(
        default="reply/1", alias="schema", description="Schema name and major version."
    )
    request: Key = stamped(description="id of the command.")
    ok: bool
    detail: Text = Field(default="", description="What was done, or why not.")


class CaptureCommand(Command, version=1, name="capture"):
    """Ask a collector to send the next input of a stream as a sample."""

    stream: Segment


class RetrainCommand(Command, version=1, name="retrain"):
    """Start a training job now."""


class PublishCommand(Command, version=1, name="publish"):
    """Take a bundle over and release it to a channel."""

    bundle: BundleRef
    channel: Segment = "stable"


class RollbackCommand(Command, version=1, name="rollback"):
    """Release an earlier version again."""

    model: Segment
    channel: Segment = "stable"
    version: Ordinal | None = Field(
        default=None, description="Without it, the version released before the current one."
    )


class ModelListCommand(Command, version=1, name="modellist"):
    """Ask for the registry's versions."""

    model: Segment | None = None


class ModelEntry(Record):
    """One version in the registry."""

    bundle: BundleRef
    added: Timestamp
    channels: Annotated[tuple[Segment, ...], Field(max_length=MOST)] = Field(
        default=(), description="Channels that serve it now."
    )
    metrics: Figures = Field(default_factory=dict)
    origin: Text = Field(default="", description="Who brought it: a job, or a person's command.")


class ModelListReply(Reply, version=1, name="models"):
    """The registry's versions, newest first."""

    models: Annotated[tuple[ModelEntry, ...], Field(max_length=4096)] = Field(
        default=(), description="Of many, as many as fit into 256 KiB."
    )
    total: Count = Field(default=0, description="Versions in the registry, all of them.")
