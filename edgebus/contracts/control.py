"""Messages of every service: state, metrics, dead letters, commands and their replies."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from edgebus.contracts.models import BundleRef
from edgebus.contracts.names import Digest, Segment
from edgebus.contracts.payload import Count, Message, Ordinal, Record, Timestamp, stamped

State = Literal["starting", "ready", "degraded", "draining", "stopped", "offline"]


class ServiceState(Message, version=1, name="state"):
    """State of a service; the broker publishes `offline` for it, as its will."""

    state: State
    session: Count = Field(
        description="Grows with each connection: an old will has an older session than the birth."
    )
    instance: str = Field(description="One process: two services with one identity differ here.")
    reason: str = ""
    since: Timestamp
    version: str = Field(description="Version of the service's package.")
    host: str = ""
    pid: Count = 0


class Metrics(Message, version=1):
    """Counters and gauges of a service, and what it takes from its host."""

    session: Count
    uptime_s: float = Field(ge=0)
    counters: dict[str, float] = Field(
        default_factory=dict, description="Monotonic since the start of the process."
    )
    gauges: dict[str, float] = Field(default_factory=dict)
    cpu_percent: float = Field(default=0.0, ge=0, description="Of one core, by this process.")
    rss_bytes: Count = 0
    host_cpu_percent: float = Field(default=0.0, ge=0, le=100)
    host_memory_percent: float = Field(default=0.0, ge=0, le=100)


class DeadLetter(Message, version=1):
    """A message that could not be handled. Its bytes follow on the topic below.

    The broker keeps the last few of each service; see `edgebus deadletter`.
    """

    topic: str = Field(description="Where it came from.")
    expected: str = Field(description="The schema that was expected there.")
    reason: Literal["invalid", "failed"] = Field(
        description="invalid: does not validate; failed: its handler failed for good."
    )
    error: str
    attempts: Count
    size: Count
    media_type: str = Field(description="MIME type of the payload.")
    handler: str = Field(default="", description="The subscription that gave up.")
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

    reply_to: str | None = Field(
        default=None,
        description="Topic of the answer: {base}/{source}/replies/{name} with the sender's own "
        "source, or the asked service's {base}/{site}/{node}/{service}/replies/{name}; absent: "
        "no answer.",
    )
    expires: Timestamp | None = Field(default=None, description="Not to be acted on afterwards.")


class Reply(Message):
    """The answer to a command; a command may ask for a subclass with more to say."""

    STAMPED: ClassVar[tuple[str, ...]] = ("source", "request")

    # Any answer is also a plain yes or no, so the name of its schema is open.
    schema_: str = Field(
        default="reply/1", alias="schema", description="Schema name and major version."
    )
    request: str = stamped(description="id of the command.")
    ok: bool
    detail: str = Field(default="", description="What was done, or why not.")


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
    channels: tuple[Segment, ...] = Field(default=(), description="Channels that serve it now.")
    metrics: dict[str, float] = Field(default_factory=dict)
    origin: str = Field(default="", description="Who brought it: a job, or a person's command.")


class ModelListReply(Reply, version=1, name="models"):
    """The registry's versions, newest first."""

    models: tuple[ModelEntry, ...] = ()
