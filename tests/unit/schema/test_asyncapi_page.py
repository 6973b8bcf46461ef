"""The page of the contracts stands alone and leaves nothing out."""

from __future__ import annotations

import copy
from html.parser import HTMLParser
from typing import Any

import pytest

from edgebus.schema import asyncapi_document, asyncapi_page

VOID = {"meta", "input", "br", "link", "img"}


class Page(HTMLParser):
    """What is in a page, and whether its elements close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self.tags: set[str] = set()
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name == "href" and tag == "a":
                self.links.append(value or "")
            elif name in {"src", "href", "srcset", "action"}:
                self.loads.append(value or "")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return asyncapi_document()


@pytest.fixture(scope="module")
def text(document: dict[str, Any]) -> str:
    return asyncapi_page(document)


def test_it_loads_nothing_from_anywhere(text: str) -> None:
    page = Page(text)
    assert page.loads == []
    for call in ("@import", "url(", "fetch(", "XMLHttpRequest", "http://", "https://"):
        assert call not in text


def test_every_link_leads_somewhere_and_only_to_one_place(text: str) -> None:
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)


def test_every_topic_message_and_field_is_there(text: str, document: dict[str, Any]) -> None:
    page = Page(text)
    for name, channel in document["channels"].items():
        assert f"topic-{name}" in page.ids
        assert channel["description"] in page.words
    for name, message in document["components"]["messages"].items():
        assert name in page.ids
        assert message["name"] in page.words
    for body in document["components"]["schemas"].values():
        assert set(body.get("properties", {})) <= set(page.words)
    assert "retained" in page.words


def test_text_from_a_document_cannot_become_markup(document: dict[str, Any]) -> None:
    hostile = copy.deepcopy(document)
    hostile["channels"]["cameraFrame"]["description"] = "<script>alert(1)</script><img src=x>"
    page = Page(asyncapi_page(hostile))
    assert page.loads == []
    assert "<script>alert(1)</script><img src=x>" in page.words


def test_the_same_contracts_make_the_same_page(text: str) -> None:
    assert asyncapi_page(asyncapi_document()) == text
