"""A command at a broker that speaks MQTT 3.1.1 only, asked in MQTT 5."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from edgebus.lab import EmbeddedBroker


async def test_the_error_names_the_setting(tmp_path: Path) -> None:
    async with EmbeddedBroker(tmp_path / "nats") as broker:
        command = [sys.executable, "-m", "edgebus.cli", "topics", "watch", "--broker", broker.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "try broker.version '3.1.1'" in " ".join(done.stderr.split())
