"""Settings of the distributor."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from edgebus.contracts import Segment, Source
from edgebus.service import ServiceSettings


class DistributorSettings(ServiceSettings):
    """Settings of the distributor, section `distributor` of a node's file."""

    publish: tuple[Path, ...] = ()
    """Folders of bundles to take over at the start and to release where they are new."""
    channel: Segment = "stable"
    """Channel that those are released to."""
    candidates_from: Annotated[tuple[Source, ...], Field(min_length=1)] | None = None
    """Services whose candidates are released, each as `site/node/service`; null: those of the
    distributor's own node. A retrainer on another node has to be named: what it offers, every edge
    serves."""
    keep_versions: Annotated[int, Field(ge=2, le=10_000)] = 10
    """Newest versions of each model that stay on the disk, for a rollback; whatever a channel
    serves, or served before that, stays as well."""
    store_quota_bytes: Annotated[int, Field(ge=2**20)] = 20 * 2**30
    """Bytes that models may take on disk."""
    fetch_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    """Seconds that a published bundle may take to come in; candidates are waited for until a newer
    one comes."""
    blocks_in_flight: Annotated[int, Field(ge=1, le=256)] = 4
    """Blocks on their way to the broker at a time. More fill a long link better, and make other
    messages wait longer."""
    blocks_bytes_per_s: Annotated[float, Field(ge=65_536)] | None = 16 * 2**20
    """Bytes of blocks that leave per second, for all edges together; null: as fast as they can.
    Without a limit a large model takes the processors of a small host for itself while it
    passes."""
    report_s: Annotated[float, Field(gt=0, le=3600)] = 0.5
    """Seconds between two reports of a roll-out while only its progress changes."""
