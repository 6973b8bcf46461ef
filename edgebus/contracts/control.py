"""What every service says of itself, commands and their replies."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgebus.contracts.models import BundleRef
from edgebus.contracts.names import Digest, Segment
from edgebus.contracts.payload import Count, Message, Ordinal, Record, Timestamp, schema

__all__ = [
    "CaptureCommand",
    "Command",
    "DeadLetter",
    "Metrics",
    "ModelEntry",
    "ModelListCommand",
    "ModelListReply",
    "PublishCommand",
    "Reply",
    "RetrainCommand",
    "RollbackCommand",
    "ServiceState",
    "State",
]

State = Literal["starting", "ready", "degraded", "draining", "stopped", "offline"]


class ServiceState(Message):
    """Whether a service lives; `offline` is the will that the broker sends for it."""

    schema_: Literal["state/1"] = schema("state/1")
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


class Metrics(Message):
    """Counters and gauges of a service, and what it takes from its host."""

    schema_: Literal["metrics/1"] = schema("metrics/1")
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


class DeadLetter(Message):
    """A message that could not be handled. Its bytes follow on the topic below.

    The broker keeps the last few of each service; see `edgebus deadletter`.
    """

    schema_: Literal["deadletter/1"] = schema("deadletter/1")
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
    """Asks a service to do something; the answer goes to `reply_to`."""

    schema_: str = schema("command/1")
    reply_to: str | None = Field(
        default=None, description="Topic of the reply, below the sender's own prefix."
    )
    expires: Timestamp | None = Field(default=None, description="Not to be acted on afterwards.")


class Reply(Message):
    """The answer to a command."""

    schema_: str = schema("reply/1")
    request: str = Field(description="id of the command.")
    ok: bool
    detail: str = Field(default="", description="What was done, or why not.")


class CaptureCommand(Command):
    """Ask a collector to send the next input of a stream as a sample."""

    schema_: Literal["capture/1"] = schema("capture/1")
    stream: Segment


class RetrainCommand(Command):
    """Start a training job now."""

    schema_: Literal["retrain/1"] = schema("retrain/1")


class PublishCommand(Command):
    """Take a bundle over and release it to a channel."""

    schema_: Literal["publish/1"] = schema("publish/1")
    bundle: BundleRef
    channel: Segment = "stable"


class RollbackCommand(Command):
    """Release an earlier version again."""

    schema_: Literal["rollback/1"] = schema("rollback/1")
    model: Segment
    channel: Segment = "stable"
    version: Ordinal | None = Field(
        default=None, description="Without it, the version released before the current one."
    )


class ModelListCommand(Command):
    """Ask for the registry's versions."""

    schema_: Literal["modellist/1"] = schema("modellist/1")
    model: Segment | None = None


class ModelEntry(Record):
    """One version in the registry."""

    bundle: BundleRef
    added: Timestamp
    channels: tuple[Segment, ...] = Field(default=(), description="Channels that serve it now.")
    metrics: dict[str, float] = Field(default_factory=dict)
    origin: str = Field(default="", description="Who brought it: a job, or a person's command.")


class ModelListReply(Reply):
    """The registry's versions, newest first."""

    schema_: Literal["models/1"] = schema("models/1")
    models: tuple[ModelEntry, ...] = ()
