"""Telemetry service: every message of a site in files and in InfluxDB, on one clock."""

from edgebus_telemetry.service import Telemetry
from edgebus_telemetry.settings import TelemetrySettings

__all__ = ["Telemetry", "TelemetrySettings"]
