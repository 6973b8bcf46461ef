"""Names from outside: what may become a topic level."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebus.contracts import Identity, NameRefusedError, check_segment


@pytest.mark.parametrize("name", ["front", "pi-01", "cam_2", "Straße", "v1.2", "a" * 96])
def test_an_ordinary_name_passes_unchanged(name: str) -> None:
    assert check_segment(name) == name


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("", "empty"),
        ("a/b", "'/'"),
        ("+", "'+'"),
        ("front#", "'#'"),
        ("a*", "NATS"),
        ("a>b", "NATS"),
        ("$SYS", "broker"),
        ("two words", "white space"),
        ("tab\t", "control character"),
        ("nul\x00", "control character"),
        ("\u200b", "control character"),
        ("a" * 97, "longer than 96"),
    ],
)
def test_a_name_that_would_break_a_topic_is_refused_with_the_reason(name: str, hint: str) -> None:
    with pytest.raises(NameRefusedError, match="camera name") as caught:
        check_segment(name, what="camera")
    assert hint in str(caught.value)
    assert caught.value.value == name


@given(st.text(max_size=120))
def test_whatever_passes_is_exactly_one_level(name: str) -> None:
    try:
        check_segment(name)
    except NameRefusedError:
        return
    assert len(f"a/{name}/b".split("/")) == 3
    assert not set(name) & set("+#\x00")


def test_an_identity_refuses_a_bad_node_name() -> None:
    with pytest.raises(NameRefusedError, match="node name"):
        Identity(site="lab", node="pi/01", service="camera")


def test_an_identity_knows_its_source_and_prefix() -> None:
    identity = Identity(site="lab", node="pi-01", service="camera")
    assert identity.source == "lab/pi-01/camera"
    assert identity.prefix == "edgebus/lab/pi-01/camera"
