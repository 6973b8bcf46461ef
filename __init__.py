"""TODO ."""

from nats_cluster import EmbeddedCluster

__all__ = [
    "EmbeddedCluster",
]
