"""The service runtime: a class with typed handlers becomes a process that does as it should."""

from edgebus.service.declare import Scope, command, every, on
from edgebus.service.discovery import (
    ENTRY_POINT_GROUP,
    find_services,
    install_command,
    load_service,
    service_entry_points,
)
from edgebus.service.errors import (
    CommandRefusedError,
    DeclarationError,
    DuplicateIdentityError,
    ServiceError,
    ServiceFailedError,
    SettingsError,
    SettingsProblem,
    UnknownServiceError,
)
from edgebus.service.loading import load_node, load_settings
from edgebus.service.log import configure_logging
from edgebus.service.metrics import MetricsRegistry, MetricsSnapshot
from edgebus.service.process import run_service
from edgebus.service.runtime import Runtime
from edgebus.service.service import Service, ServiceContext
from edgebus.service.settings import LogSettings, NodeSettings, ServiceSettings
from edgebus.service.tracing import Step, Tracer, messaging

__all__ = [
    "ENTRY_POINT_GROUP",
    "CommandRefusedError",
    "DeclarationError",
    "DuplicateIdentityError",
    "LogSettings",
    "MetricsRegistry",
    "MetricsSnapshot",
    "NodeSettings",
    "Runtime",
    "Scope",
    "Service",
    "ServiceContext",
    "ServiceError",
    "ServiceFailedError",
    "ServiceSettings",
    "SettingsError",
    "SettingsProblem",
    "Step",
    "Tracer",
    "UnknownServiceError",
    "command",
    "configure_logging",
    "every",
    "find_services",
    "install_command",
    "load_node",
    "load_service",
    "load_settings",
    "messaging",
    "on",
    "run_service",
    "service_entry_points",
]
