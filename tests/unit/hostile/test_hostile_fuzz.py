"""Hostile input, the short version; ``python -m tests.soak fuzz`` runs a million cases."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from random import Random
from typing import Any, TypeVar

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from edgebus.contracts import Message, PayloadError
from edgebus.contracts.registry import all_messages
from tests.soak.making import Maker
from tests.soak.on_artifacts import artifact_targets
from tests.soak.on_files import file_targets
from tests.soak.on_messages import message_targets
from tests.soak.on_services import service_targets
from tests.soak.on_settings import settings_targets
from tests.soak.runner import Plan, report, run
from tests.soak.target import Target

M = TypeVar("M", bound=Message)

KINDS = all_messages()
PARSERS = [*message_targets(), *artifact_targets()]
SLOW = settings_targets()

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def named(targets: list[Target]) -> Any:
    return pytest.mark.parametrize("target", targets, ids=[target.name for target in targets])


@st.composite
def messages(draw: st.DrawFn, kind: type[M]) -> M:
    """Valid messages of a kind; they shrink."""
    return Maker(draw(st.randoms(use_true_random=False))).model(kind)


@pytest.mark.parametrize("identifier", KINDS)
def test_what_is_said_is_what_is_heard(identifier: str) -> None:
    kind = KINDS[identifier]

    @QUICK
    @given(messages(kind))
    def check(message: Message) -> None:
        wire = message.encode()
        assert kind.decode(wire) == message
        assert kind.decode(wire).encode() == wire
        assert json.loads(wire)["schema"] == identifier

    check()


@pytest.mark.parametrize("identifier", KINDS)
@QUICK
@given(data=st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_payload_error(identifier: str, data: bytes) -> None:
    try:
        message = KINDS[identifier].decode(data)
    except PayloadError:
        pass
    else:
        assert KINDS[identifier].decode(message.encode()) == message


@named(PARSERS)
def test_parsers_accept_or_refuse(target: Target) -> None:
    for call in range(120):
        target.attack(Random(f"test/{target.name}/{call}"))


@named(SLOW)
def test_settings_are_read_or_the_mistake_is_named(target: Target) -> None:
    for call in range(15):
        target.attack(Random(f"test/{target.name}/{call}"))


@named(file_targets())
def test_files_are_read_or_refused(target: Target) -> None:
    for call in range(40):
        target.attack(Random(f"test/{target.name}/{call}"))


@named(PARSERS)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(random=st.randoms(use_true_random=False))
def test_hypothesis_finds_nothing_either(target: Target, random: Random) -> None:
    target.attack(random)


@pytest.fixture
def quiet() -> Iterator[None]:
    """The services' complaints stay out of the output, here only."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.mark.parametrize("number", range(5))
def test_services_serve_on(number: int, quiet: None) -> None:
    target = service_targets()[number]
    target.attack(Random(f"test/{target.name}"))


def test_a_run_counts_its_cases_and_finds_nothing() -> None:
    words = io.StringIO()
    console = Console(file=words, width=120)
    result = run(Plan(cases=400, processes=2, only="jpeg"), console=console)
    report(result, console=console)
    assert result.faults == []
    assert result.cases >= 400
    assert set(result.tallies) == {"jpeg frame", "jpeg sample", "jpeg pixels"}
    assert all(0 < t.accepted < t.cases for t in result.tallies.values())
    assert "0 faults" in words.getvalue()
    assert max(result.peak_rss.values()) > 50 * 2**20


def test_a_run_of_nothing_says_so() -> None:
    result = run(Plan(cases=1, only="no such thing"), console=Console(file=io.StringIO()))
    assert "no target has" in result.faults[0].words
