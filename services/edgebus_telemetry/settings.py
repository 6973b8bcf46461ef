"""What the telemetry service can be set to."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from edgebus.service import ServiceSettings

__all__ = ["CsvSettings", "InfluxSettings", "TelemetrySettings"]


class CsvSettings(ServiceSettings):
    """The CSV files."""

    folder: Path | None = None
    """Where they lie; `csv` in the service's own data folder by default."""
    max_bytes: Annotated[int, Field(ge=1024)] = 64 * 2**20
    """A file is put aside when it is larger, and a new one begins."""
    keep: Annotated[int, Field(ge=1)] = 8
    """Files per table, the current one included; the oldest is deleted."""


class InfluxSettings(ServiceSettings):
    """An InfluxDB 2.x (or anything that takes its write requests)."""

    url: str
    """For example http://localhost:8086."""
    token: SecretStr = SecretStr("")
    """API token."""
    org: str = ""
    """Organisation."""
    bucket: str = "edgebus"
    """Bucket, which must exist."""
    batch: Annotated[int, Field(ge=1, le=50_000)] = 1000
    """Most points per write."""
    buffer: Annotated[int, Field(ge=1)] = 50_000
    """Points kept while InfluxDB is away; beyond it the oldest are dropped and counted."""
    timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """How long a write may take."""
    retry_cap_s: Annotated[float, Field(gt=0)] = 30.0
    """Longest pause between two attempts while InfluxDB is away."""


class TelemetrySettings(ServiceSettings):
    """What is written, and where to."""

    leave_out: frozenset[str] = frozenset({"blockrequest", "progress", "truth"})
    """Kinds of message that are not written, by the names of their schemas."""
    flush_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    """Seconds between two writes, to files and to InfluxDB."""
    csv: CsvSettings | None = CsvSettings()
    """CSV files; `null` for none."""
    influx: InfluxSettings | None = None
    """InfluxDB; none by default."""
