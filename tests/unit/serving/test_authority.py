"""Whose releases and candidates count."""

from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from edgebus.contracts import Identity
from edgebus.serving import Authorities

EDGE = Identity(site="lab", node="pi-01", service="detector")
OWNER, STRANGER = "lab/cloud/distributor", "lab/pi-evil/distributor"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "authorities.json"


def authorities(path: Path | None, *allowed: str) -> Authorities:
    return Authorities(
        EDGE,
        path=path,
        allowed=allowed or None,
        setting="detector.releases_from",
        log=structlog.get_logger(),
    )


def test_the_first_one_decides_also_after_a_restart(path):
    assert authorities(path).accepts("street", OWNER)
    again = authorities(path)
    assert not again.accepts("street", STRANGER)
    assert again.accepts("street", OWNER)
    assert again.accepts("other", STRANGER)  # another model, another first one


def test_who_decides_about_a_model_decides_about_the_streams_own(path):
    one = authorities(path)
    assert one.accepts("street", OWNER)
    assert one.accepts("street@pi-01.front", OWNER)
    assert not one.accepts("street@pi-01.front", STRANGER)


def test_who_is_named_decides_and_nobody_else(path):
    one = authorities(path, OWNER)
    assert not one.accepts("street", STRANGER)
    assert not one.accepts("street", "lab/pi-01/distributor")
    assert one.accepts("street", OWNER)


def test_without_a_memory_only_the_own_node_decides():
    one = authorities(None)
    assert not one.accepts("street", OWNER)
    assert not one.accepts("street", "lab/pi-011/retrainer")
    assert not one.accepts("street", "other/pi-01/retrainer")
    assert one.accepts("street", "lab/pi-01/retrainer")


def test_a_stranger_is_named_once_with_the_way_out(path):
    with capture_logs() as logs:
        one = authorities(path)
        one.accepts("street", OWNER)
        for n in range(1000):
            one.accepts("street", STRANGER)
            one.accepts("street", f"lab/pi-evil/service-{n}")
    warnings = [each for each in logs if each["log_level"] == "warning"]
    assert len(warnings) == 64
    assert warnings[0]["source"] == STRANGER
    assert OWNER in warnings[0]["reason"]
    assert "detector.releases_from" in warnings[0]["reason"]


def test_a_damaged_memory_is_told_and_begun_anew(path):
    path.parent.mkdir()
    path.write_text('{"street": "nobody"}')
    with capture_logs() as logs:
        one = authorities(path)
    assert str(path) in logs[0]["reason"]
    assert one.accepts("street", OWNER)
