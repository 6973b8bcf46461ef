"""Samples drawn for people: one picture, a sheet, a page."""

from edgebus_retrainer.pictures._page import sample_page
from edgebus_retrainer.pictures._sheet import contact_sheet, one_picture

__all__ = [
    "contact_sheet",
    "one_picture",
    "sample_page",
]
