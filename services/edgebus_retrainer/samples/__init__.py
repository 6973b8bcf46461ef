"""What the edges sent: rows and files on disk, and queries over them."""

from edgebus_retrainer.samples._catalog import Catalog, Entry, Query, SampleUnreadableError, Sight
from edgebus_retrainer.samples._database import StoreVersionError, open_database
from edgebus_retrainer.samples._labelbook import LabelBook, SampleUnknownError
from edgebus_retrainer.samples._onset import onset
from edgebus_retrainer.samples._rows import SampleRefusedError, check_picture, row_of
from edgebus_retrainer.samples._store import SampleStore, StoredSample
from edgebus_retrainer.samples._tables import JobRow, SampleRow

__all__ = [
    "Catalog",
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
    "check_picture",
    "onset",
    "open_database",
    "row_of",
]
