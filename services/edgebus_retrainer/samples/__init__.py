"""What the edges sent: rows and files on disk, and queries over them."""

from edgebus_retrainer.samples._catalog import Catalog, Entry, Query, SampleUnreadableError, Sight
from edgebus_retrainer.samples._database import StoreVersionError, open_database
from edgebus_retrainer.samples._labelbook import LabelBook, SampleUnknownError
from edgebus_retrainer.samples._onset import onset
from edgebus_retrainer.samples._rows import (
    SampleRefusedError,
    check_picture,
    edge_of,
    place_of,
    row_of,
)
from edgebus_retrainer.samples._store import Counts, SampleStore, StoredSample
from edgebus_retrainer.samples._tables import JobRow, SampleRow, UseRow

__all__ = [
    "Catalog",
    "Counts",
    "Entry",
    "JobRow",
    "LabelBook",
    "Query",
    "SampleRefusedError",
    "SampleRow",
    "SampleStore",
    "SampleUnknownError",
    "SampleUnreadableError",
    "Sight",
    "StoreVersionError",
    "StoredSample",
    "UseRow",
    "check_picture",
    "edge_of",
    "onset",
    "open_database",
    "place_of",
    "row_of",
]
