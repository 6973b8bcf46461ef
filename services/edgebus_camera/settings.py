"""Settings of the camera service."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from edgebus.addresses import local_path, public_address, read_address
from edgebus.contracts import Segment
from edgebus.service import ServiceSettings
from edgebus_detection.emulation.drift import DriftStep

Side = Annotated[int, Field(ge=64, le=8192)]


class ViewSettings(ServiceSettings):
    """Settings of one camera."""

    source: str | int = Field(default="scene", repr=False)
    """Source of the pictures: `scene` for the procedural street, the path (or `file://` address) of
    a video, of a folder of pictures or of a text file that lists such, an RTSP address, an HTTP
    address of a stream, a snapshot or a video, or the number of a USB camera."""
    seed: int = 0
    """Seed of the street and of the effects' noise."""
    fps: Annotated[float, Field(gt=0, le=240)] | None = None
    """Frames per second. By default a video's own, 10 for the street and for pictures, as they come
    from a live camera, and 1 for a snapshot address, which is polled at this rate."""
    stride: Annotated[int, Field(ge=1)] = 1
    """Send one picture of a video or folder in this many."""
    width: Side | None = None
    """Width of the frames in pixels; alone, the height follows. By default the source's own; 320
    for the street."""
    height: Side | None = None
    """Height of the frames in pixels; alone, the width follows. By default the source's own; 240
    for the street."""
    quality: Annotated[int, Field(ge=1, le=100)] = 85
    """JPEG quality."""
    loop: bool = True
    """Start over at the end of a video or folder; otherwise the camera ends there."""
    frames: Annotated[int, Field(ge=1)] | None = None
    """End the camera after this many frames, skipped ones included."""
    start_at: float | None = None
    """Time at which frame 0 leaves, in seconds since 1970 (UTC). Cameras with the same `start_at`
    run in phase, and one that is restarted goes on where it would be. By default, at once."""
    drift: tuple[DriftStep, ...] = ()
    """Effects over time: steps of `effect`, `start_s` (from frame 0), `ramp_s` and `to`."""
    truth: Path | None = None
    """Ground truth of a video (MOTChallenge text) or a folder (a label file or a folder of them).
    A folder's own labels are found without it."""
    classes: tuple[str, ...] | Literal["coco"] | None = None
    """Class names by number, for YOLO and MOTChallenge text, from 0; `coco` for the 80 of COCO. By
    default from the data set's `data.yaml` or `classes.txt`, and the classes of MOT16."""
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Lowest score of the boxes that are read from MOTChallenge text."""

    @field_validator("source")
    @classmethod
    def _not_empty(cls, value: str | int) -> str | int:
        if isinstance(value, str) and not value.strip():
            msg = "is empty; give 'scene', a path, an address or a USB camera's number"
            raise ValueError(msg)
        if isinstance(value, int):
            if value < 0:
                msg = f"is {value}; USB cameras count from 0"
                raise ValueError(msg)
            return value
        if value.isdecimal():
            return int(value)
        value = local_path(value)
        return read_address(value).url if "://" in value else value

    @model_validator(mode="after")
    def _live_has_no_truth(self) -> Self:
        if self.truth is not None and (self.is_live or self.source == "scene"):
            msg = f"truth is for videos and folders; remove it, source is {self.public_source}"
            raise ValueError(msg)
        return self

    @property
    def public_source(self) -> str:
        """The source as it may be shown: of an address, no more than scheme, host and port."""
        if isinstance(self.source, int):
            return f"USB camera {self.source}"
        return public_address(self.source)

    @property
    def is_live(self) -> bool:
        """Whether the source is a camera with its own clock."""
        return isinstance(self.source, int) or "://" in self.source


class CameraSettings(ServiceSettings):
    """Settings of the camera service: all cameras of a node."""

    cameras: Annotated[dict[Segment, ViewSettings], Field(min_length=1)] = Field(
        default_factory=lambda: {"front": ViewSettings()}
    )
    """Cameras by name, which becomes a level of their topics."""
    retry_first_s: Annotated[float, Field(gt=0)] = 1.0
    """Seconds until a lost camera is tried again; they double with each failure."""
    retry_cap_s: Annotated[float, Field(gt=0)] = 30.0
    """Most seconds between two such tries."""
