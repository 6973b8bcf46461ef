"""What a log line shows, and figures of the host."""

from __future__ import annotations

import io
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from edgebus.service.host import HostSampler
from edgebus.service.log import configure_logging
from edgebus.service.settings import LogSettings


@pytest.mark.parametrize("form", ["json", "console"])
def test_times_and_paths_are_written_as_people_write_them(form: str) -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(format=form), stream=stream)  # type: ignore[arg-type]
    since = datetime(2026, 11, 30, 12, 5, 7, 99, tzinfo=UTC)
    structlog.get_logger().info("drift", since=since, file=Path("/var/lib/x"))
    text = stream.getvalue()
    assert "2026-11-30T12:05:07+00:00" in text
    assert "/var/lib/x" in text
    assert "datetime" not in text
    assert "Path" not in text


def test_no_sample_of_the_cpu_is_thousands_of_percent() -> None:
    """Ticks of a hundredth of a second, seen over a millisecond."""
    sampler = HostSampler()
    until = time.monotonic() + 0.7
    seen = []
    while time.monotonic() < until:
        sum(range(20_000))
        seen.append(sampler.sample().cpu_percent)
    assert max(seen) <= 150  # one thread that computes; a clock's tick aside
    assert seen[0] == 0.0
    assert seen[-1] > 1
