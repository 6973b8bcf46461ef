"""What the nodes of a topology would have on their disks."""

from __future__ import annotations

from pathlib import Path

from edgebus.topology.topology import Topology, Tree

__all__ = ["MAX_PACKET_BYTES", "node_configs"]

MAX_PACKET_BYTES = 8 * 2**20


def node_configs(topology: Topology, *, url: str, data: Path) -> dict[str, Tree]:
    """The settings file of every node, as it would lie on a device."""
    return {
        node: {
            "base": topology.base,
            "site": topology.site,
            "node": node,
            "broker": {
                "url": url,
                "version": topology.broker.mqtt_version,
                "max_packet_bytes": MAX_PACKET_BYTES,
            },
            "data_dir": str(data / node),
            **topology.node_settings,
            **services,
        }
        for node, services in topology.nodes.items()
    }
