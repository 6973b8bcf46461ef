"""Published contracts: JSON Schema and AsyncAPI, their pages, and their compatibility."""

from edgebus.schema.compatibility import Change, Contracts, compare, refusals
from edgebus.schema.files import (
    ServiceTopics,
    asyncapi_document,
    schema_documents,
    schema_files,
    service_topics,
    topics_page,
)
from edgebus.schema.page import asyncapi_page
from edgebus.schema.published import ContractsNotFoundError, current, published
from edgebus.schema.settings import settings_page, settings_schema, topology_schema

__all__ = [
    "Change",
    "Contracts",
    "ContractsNotFoundError",
    "ServiceTopics",
    "asyncapi_document",
    "asyncapi_page",
    "compare",
    "current",
    "published",
    "refusals",
    "schema_documents",
    "schema_files",
    "service_topics",
    "settings_page",
    "settings_schema",
    "topics_page",
    "topology_schema",
]
