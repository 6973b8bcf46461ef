"""`edgebus samples`: tool for the samples of the detection workload on the retrainer's host."""

from edgebus_samples.app import app
from edgebus_samples.contact_sheet import contact_sheet, one_picture
from edgebus_samples.details import (
    DetailQuery,
    PictureCatalog,
    SampleDetail,
    SampleUnreadableError,
    picture_of,
)
from edgebus_samples.importing import ImportReport, import_dataset
from edgebus_samples.page import sample_page

__all__ = [
    "DetailQuery",
    "ImportReport",
    "PictureCatalog",
    "SampleDetail",
    "SampleUnreadableError",
    "app",
    "contact_sheet",
    "import_dataset",
    "one_picture",
    "picture_of",
    "sample_page",
]
