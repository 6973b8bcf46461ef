"""What a detector can be set to."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from edgebus.contracts import Segment
from edgebus.service import ServiceSettings
from edgebus.serving import EngineSettings

__all__ = ["DetectorSettings"]

Fraction = Annotated[float, Field(ge=0, le=1)]


class DetectorSettings(ServiceSettings):
    """Settings of the detector, section `detector` of a node's file."""

    model: Segment | None = None
    """Name of the model to serve; by default that of `bundle`."""
    channel: Segment = "stable"
    """Whose releases to follow."""
    bundle: Path | None = None
    """Folder of the bundle to serve until a release says otherwise. Without it the detector waits
    for its first release."""
    stream_models: bool = True
    """Whether a camera that has a model of its own is answered by that one. Each is loaded beside
    the shared one."""
    scope: Literal["node", "site"] = "node"
    """Whose cameras to watch: this node's own, or those of every node of the site."""
    threshold: Fraction | None = None
    """Lowest score that is published; the model's own by default."""
    nms_iou: Fraction | None = None
    """Overlap above which two boxes of a class are one; the model's own by default."""
    novelty: bool = True
    """Say of each frame how unlike the model's reference pictures it is, where the bundle can
    tell."""
    engine: EngineSettings = EngineSettings()
    """How the model is run."""
    fetch_attempts: Annotated[int, Field(ge=1, le=100)] = 5
    """How often a release is tried again when the disk or the store fails; a release that is
    itself wrong is not."""
    retry_s: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """Seconds before the first of those attempts; doubled with each."""
    probation_frames: Annotated[int, Field(ge=0, le=100_000)] = 20
    """Frames that a new model must answer; one that fails before is taken back."""
    store_quota_bytes: Annotated[int, Field(ge=2**20)] = 2 * 2**30
    """Bytes that models may take on disk."""

    @model_validator(mode="after")
    def _knows_its_model(self) -> Self:
        if self.model is None and self.bundle is None:
            msg = "it needs to know its model: set model (to wait for a release) or bundle"
            raise ValueError(msg)
        return self
