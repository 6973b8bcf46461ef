"""Recordings of the bus: MCAP files that are written, replayed and read."""

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
