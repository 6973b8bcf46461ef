"""Topics as objects."""

from __future__ import annotations

from typing import Any

import pytest

from edgebus.contracts import ContractError, Identity, NameRefusedError, Topic
from edgebus.contracts.registry import all_topics
from edgebus_detection.messages import DETECTIONS

PI = Identity(site="lab", node="pi-01", service="detector")


def test_a_publisher_fills_its_own_prefix() -> None:
    assert str(DETECTIONS.at(PI, camera="front")) == ("edgebus/lab/pi-01/detector/front/detections")


def test_a_subscriber_leaves_the_rest_open() -> None:
    assert str(DETECTIONS.any(site="lab")) == "edgebus/lab/+/+/+/detections"
    assert str(DETECTIONS.any(base="plant")) == "plant/+/+/+/+/detections"


def test_a_missing_name_is_an_error_that_names_it() -> None:
    with pytest.raises(ContractError, match="needs camera="):
        DETECTIONS.at(PI)


def test_an_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ContractError, match=r"has no kamera.*'camera'"):
        DETECTIONS.any(kamera="front")


@pytest.mark.parametrize("camera", ["a/b", "+", "#", "x\n"])
def test_a_wildcard_cannot_be_smuggled_in(camera: str) -> None:
    with pytest.raises(NameRefusedError):
        DETECTIONS.at(PI, camera=camera)
    with pytest.raises(NameRefusedError):
        DETECTIONS.any(camera=camera)


@pytest.mark.parametrize(("name", "topic"), all_topics().items())
def test_parse_undoes_at_for_every_topic(name: str, topic: Topic[Any]) -> None:
    del name
    names = {
        part: f"some-{part}"
        for part in topic.names
        if part not in ("base", "site", "node", "service")
    }
    address = str(topic.at(PI, **names))
    parsed = topic.parse(address)
    assert parsed is not None
    assert parsed["node"] == "pi-01"
    assert {key: parsed[key] for key in names} == names
    assert topic.parse(address + "/more") is None
    assert topic.parse("other/" + address.split("/", 2)[2]) is None


def test_every_message_on_the_wire_names_its_own_schema() -> None:
    ids = [topic.payload.schema_id() for topic in all_topics().values()]
    assert all("/" in identifier for identifier in ids)
    assert len({t.address for t in all_topics().values()}) == len(ids)
