"""Settings of the telemetry service."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from edgebus.service import ServiceSettings


class CsvSettings(ServiceSettings):
    """CSV files."""

    folder: Path | None = None
    """Folder of the files; `csv` in the service's own data folder by default."""
    max_bytes: Annotated[int, Field(ge=1024)] = 64 * 2**20
    """Size in bytes at which a file is put aside and a new one begins."""
    keep: Annotated[int, Field(ge=1)] = 8
    """Number of files per table, the current one included; the oldest is deleted."""


class InfluxSettings(ServiceSettings):
    """An InfluxDB 2.x (or anything that takes its write requests)."""

    url: str
    """Address, such as http://localhost:8086."""
    token: SecretStr = SecretStr("")
    """API token."""
    org: str = ""
    """Organisation."""
    bucket: str = "edgebus"
    """Bucket to write to; it must exist."""
    batch: Annotated[int, Field(ge=1, le=50_000)] = 1000
    """Points per write, at most."""
    buffer: Annotated[int, Field(ge=1)] = 50_000
    """Points kept while InfluxDB is away; beyond it the oldest are dropped and counted."""
    timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """Seconds that a write may take."""
    retry_cap_s: Annotated[float, Field(gt=0)] = 30.0
    """Longest pause in seconds between two attempts while InfluxDB is away."""


class TelemetrySettings(ServiceSettings):
    """Settings of what is written, and where to."""

    leave_out: frozenset[str] = frozenset({"blockrequest", "progress", "truth"})
    """Names of the schemas whose messages are not written."""
    flush_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    """Seconds between two writes, to files and to InfluxDB."""
    csv: CsvSettings | None = CsvSettings()
    """Settings of the CSV files; `null` for none."""
    influx: InfluxSettings | None = None
    """Settings of InfluxDB; `null`, the default, for none."""
