"""Telemetry: listens to all, and writes it down on one clock."""

from edgebus_telemetry.service import Telemetry
from edgebus_telemetry.settings import TelemetrySettings

__all__ = ["Telemetry", "TelemetrySettings"]
