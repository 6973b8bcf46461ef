"""Topologies: machines, the services on them and their settings."""

from edgebus.topology.checking import check_services
from edgebus.topology.overrides import override
from edgebus.topology.topology import (
    MAX_PACKET_BYTES,
    BrokerChoice,
    Topology,
    TopologyError,
    Tree,
    Until,
    fill_placeholders,
    node_configs,
    take_secrets,
)

__all__ = [
    "MAX_PACKET_BYTES",
    "BrokerChoice",
    "Topology",
    "TopologyError",
    "Tree",
    "Until",
    "check_services",
    "fill_placeholders",
    "node_configs",
    "override",
    "take_secrets",
]
