"""`edgebus up` in a terminal: what it prints to be copied, and the terminal that goes away."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import socket
import sys
import termios
from pathlib import Path

import pytest

from edgebus.lab import broker
from program import EDGEBUS, clean_environment

TOPOLOGY = """
name: small
broker: {embedded: true, port: 0}
nodes: {home: {telemetry: {csv: {folder: "{run}/csv"}}}}
"""


async def read_until(master: int, wanted: bytes, *, seconds: float = 60) -> bytes:
    """What the program wrote to its terminal, as far as some words."""
    seen = b""
    async with asyncio.timeout(seconds):
        while wanted not in seen:
            seen += await asyncio.to_thread(os.read, master, 4096)
    return seen


async def start_in_terminal(
    folder: Path, *arguments: str
) -> tuple[asyncio.subprocess.Process, int]:
    """`edgebus up` in a terminal of 80 columns; the process and the terminal's other end."""
    (folder / "topology.yaml").write_text(TOPOLOGY)
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    process = await asyncio.create_subprocess_exec(
        *EDGEBUS,
        "up",
        str(folder / "topology.yaml"),
        "--out",
        str(folder / "runs"),
        *arguments,
        stdout=slave,
        stderr=slave,
        env=clean_environment(TERM="xterm"),
    )
    os.close(slave)
    return process, master


@pytest.mark.skipif(sys.platform != "linux", reason="terminals differ")
async def test_a_terminal_that_goes_away_leaves_a_report(tmp_path: Path) -> None:
    process, master = await start_in_terminal(tmp_path)
    try:
        await read_until(master, b"telemetry")
        os.close(master)
        process.send_signal(signal.SIGHUP)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    finally:
        if process.returncode is None:
            process.kill()
    run = tmp_path / "runs" / "latest"
    assert "stopped" in (run / "summary.json").read_text()
    assert (run / "report.html").is_file()


async def test_commands_to_copy_work_as_they_stand(tmp_path: Path) -> None:
    process, master = await start_in_terminal(tmp_path, "--plain")
    try:
        seen = (await read_until(master, b"ready")).decode()
        [line] = re.findall(r"look: (edgebus topics watch .*)\r\n", seen)
        assert "'edgebus/lab/+/+/state' --broker mqtt://127.0.0.1:" in line
        command = line.replace("edgebus", f"{sys.executable} -m edgebus.cli", 1)
        watch = await asyncio.create_subprocess_shell(
            f"{command} -n 1", stdout=asyncio.subprocess.PIPE, env=clean_environment()
        )
        out, _ = await asyncio.wait_for(watch.communicate(), 60)
        assert b"state/1" in out
        [line] = re.findall(r"look: (mosquitto_sub .*/detections')\r\n", seen)
        assert re.search(r" -p \d+ -t 'edgebus/lab/\+/", line)
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 60)
        os.close(master)


def test_the_usual_port_is_the_first_free_one(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = broker.free_ports(2, host="127.0.0.1")
    monkeypatch.setattr(broker, "_USUAL_PORTS", (first, second))
    assert broker.usual_port("127.0.0.1") == first
    with socket.socket() as taken, socket.socket() as other:
        taken.bind(("127.0.0.1", first))
        taken.listen()
        assert broker.usual_port("127.0.0.1") == second
        other.bind(("127.0.0.1", second))
        other.listen()
        assert broker.usual_port("127.0.0.1") == 0
