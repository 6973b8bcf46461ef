"""Samples of any workload that a service stores: payloads as files, facts and labels in SQLite."""

from edgebus.samples.catalog import Catalog, Entry, NoStoreError, Query
from edgebus.samples.label_book import LabelBook, SampleUnknownError
from edgebus.samples.store import (
    Counts,
    SampleFiles,
    SampleKind,
    SampleStore,
    edge_of,
    onset,
    row_of,
    stream_id,
)
from edgebus.samples.tables import JobRow, SampleRow, UseRow, open_database

__all__ = [
    "Catalog",
    "Counts",
    "Entry",
    "JobRow",
    "LabelBook",
    "NoStoreError",
    "Query",
    "SampleFiles",
    "SampleKind",
    "SampleRow",
    "SampleStore",
    "SampleUnknownError",
    "UseRow",
    "edge_of",
    "onset",
    "open_database",
    "row_of",
    "stream_id",
]
