"""Artifact transfer over the bus: block requests, blocks, and bundles put together of them."""

from edgebus.transfer._receiver import BlockReceiver, Patience
from edgebus.transfer._sender import BlockSender
from edgebus.transfer.fetch import ArtifactFetcher, FetchProgress, fetch_bundle
from edgebus.transfer.serve import ArtifactProvider, reference

__all__ = [
    "ArtifactFetcher",
    "ArtifactProvider",
    "BlockReceiver",
    "BlockSender",
    "FetchProgress",
    "Patience",
    "fetch_bundle",
    "reference",
]
