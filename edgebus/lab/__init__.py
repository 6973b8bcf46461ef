"""A whole fleet on one machine: embedded broker, supervisor, observer, view and report."""

from edgebus.lab.broker import BrokerNotInstalledError, BrokerStartError, EmbeddedBroker

__all__ = [
    "BrokerNotInstalledError",
    "BrokerStartError",
    "EmbeddedBroker",
]
