"""A thread of a stranger's code that never ends: the service stops when it is asked to."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from program import clean_environment

# The thread hangs in a handler's place, in a task's, or in the start's.
PROGRAM = """
import asyncio, sys, time
from pathlib import Path
from edgebus.bus import BrokerSettings
from edgebus.service import NodeSettings, Service, ServiceSettings, every, run_service

async def hang():
    print("hangs", flush=True)
    await asyncio.to_thread(time.sleep, 600)

class Hanging(Service[ServiceSettings]):
    '''Hangs.'''
    name = "hanging"
    async def start(self):
        if sys.argv[3] == "start":
            await hang()
        if sys.argv[3] == "task":
            self.spawn(hang(), name="hang")
    @every(seconds=0.1)
    async def tick(self):
        if sys.argv[3] == "tick":
            await hang()

node = NodeSettings(data_dir=Path(sys.argv[2]), broker=BrokerSettings(url=sys.argv[1]))
sys.exit(run_service(Hanging, node, ServiceSettings()))
"""


@pytest.mark.parametrize("where", ["start", "task", "tick"])
async def test_a_service_stops_although_a_thread_of_it_hangs(
    mosquitto: Any, tmp_path: Path, where: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, mosquitto.url, str(tmp_path), where),
        env=clean_environment(EDGEBUS_SITE=f"hanging-{where}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            while b"hangs" not in await process.stdout.readline():
                pass
        process.send_signal(signal.SIGTERM)
        out, err = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    assert b"leaving threads behind that do not end" in out + err
