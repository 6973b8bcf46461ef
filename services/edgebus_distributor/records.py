"""Records of the registry: decisions, intakes, refusals."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from edgebus.contracts import BundleRef


class RegistryRefusedError(Exception):
    """A version or a release does not fit what the registry has.

    Attributes:
        model: Name of the model.
        version: The version that does not fit.
        reason: Why, and the way out.
    """

    def __init__(self, *, model: str, version: int | None, reason: str) -> None:
        named = model if version is None else f"{model} version {version}"
        super().__init__(f"{named}: {reason}")
        self.model = model
        self.version = version
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A release as the registry has it."""

    bundle: BundleRef
    channel: str
    sequence: int
    reason: str
    decided: datetime
    finished: datetime | None

    @property
    def key(self) -> tuple[str, str]:
        """Model and channel."""
        return self.bundle.model.name, self.channel


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """A bundle to bring in and release.

    Attributes:
        bundle: Which, and who provides it.
        channel: Where to release it.
        origin: Who brought it, in words.
        candidate: Whether it must follow from what the channel serves.
    """

    bundle: BundleRef
    channel: str
    origin: str
    candidate: bool

    @property
    def key(self) -> tuple[str, str]:
        """Digest and channel: what identifies it."""
        return self.bundle.model.digest, self.channel
