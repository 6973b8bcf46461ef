"""What a delivery is told, what it needs, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from edgebus.artifacts import Bundle
from edgebus.contracts import BundleRef
from edgebus.transfer import FetchProgress

__all__ = ["DeliverySettings", "Fetch", "ReleaseRefusedError"]


class ReleaseRefusedError(Exception):
    """A release that can never serve here; trying again would not help."""


class Fetch(Protocol):
    """Brings a bundle into the store; `edgebus.artifacts.ArtifactFetcher.fetch` behind it."""

    def __call__(
        self, ref: BundleRef, /, *, on_progress: Callable[[FetchProgress], None]
    ) -> Coroutine[Any, Any, Bundle]:
        """Fetch and verify a bundle; waits while its provider is away."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    """Which releases are followed, and how stubbornly.

    Attributes:
        model: Name of the model.
        channel: Channel of its releases.
        attempts: Tries per release when the disk or the store fails.
        retry_s: Seconds before the second try; doubled with each.
        probation_frames: Frames that a new model must answer before it is trusted.
        camera: The camera whose own model it is; None: the shared one. Where an own model is taken
            back and there is none before it, the shared one answers.
    """

    model: str
    channel: str
    attempts: int
    retry_s: float
    probation_frames: int
    camera: str | None = None
