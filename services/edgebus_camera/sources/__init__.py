"""Sources of pictures: the procedural street, videos, folders, lists of both, live cameras."""

from edgebus_camera.sources.base import (
    PASS_PERIOD,
    PictureSkippedError,
    Source,
    SourceError,
    SourceFrame,
    SourceLostError,
)
from edgebus_camera.sources.folder import FolderSource
from edgebus_camera.sources.listing import ListSource
from edgebus_camera.sources.live import Capture, LiveSource
from edgebus_camera.sources.opening import StreetSource, open_source
from edgebus_camera.sources.video import VideoSource

__all__ = [
    "PASS_PERIOD",
    "Capture",
    "FolderSource",
    "ListSource",
    "LiveSource",
    "PictureSkippedError",
    "Source",
    "SourceError",
    "SourceFrame",
    "SourceLostError",
    "StreetSource",
    "VideoSource",
    "open_source",
]
