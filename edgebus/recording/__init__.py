"""Record what is said on the bus into an MCAP file, replay it, and look into it."""

from edgebus.recording.errors import (
    RecordingError,
    RecordingExistsError,
    RecordingUnreadableError,
    RecordingWriteError,
)
from edgebus.recording.reader import Recorded, Recording
from edgebus.recording.record import RecordReport, record
from edgebus.recording.replay import (
    MappingError,
    PrefixMap,
    ReplayOptions,
    ReplayReport,
    replay,
)
from edgebus.recording.writer import RecordingWriter

__all__ = [
    "MappingError",
    "PrefixMap",
    "RecordReport",
    "Recorded",
    "Recording",
    "RecordingError",
    "RecordingExistsError",
    "RecordingUnreadableError",
    "RecordingWriteError",
    "RecordingWriter",
    "ReplayOptions",
    "ReplayReport",
    "record",
    "replay",
]
