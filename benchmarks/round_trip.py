"""Where a round trip's time goes: the stages of a typed ping and its echo, at several rates.

Two processes, one core each, stamp what happens on the way: CLOCK_MONOTONIC is one clock for both.
At a low rate every message meets a processor whose caches hold something else, and the same code
takes many times as long as in a loop; so the stages are shown at several rates.

Run ``python benchmarks/round_trip.py`` (about half a minute).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import sys
import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks._bus_clients import EdgeBusClient  # noqa: E402
from benchmarks._bus_job import Job, say, wait_for_go  # noqa: E402
from benchmarks.bus import Side, broker  # noqa: E402
from edgebus.mqtt._connection import MqttConnection, Writer  # noqa: E402

STAGES = [
    "ping: make, encode, frame",
    "ping: socket",
    "broker and network",
    "echo: parse",
    "echo: route, queue, task, decode",
    "echo: encode, frame",
    "echo: socket",
    "network and broker",
    "ping: parse",
    "ping: route, queue, task, decode",
]
_WARM_UP = 20
Stamps = dict[str, list[float]]


def _stamp_everything(stamps: Stamps) -> None:
    """Put stamps around reading and writing."""
    updated, flush = MqttConnection.buffer_updated, Writer.flush

    def stamped_updated(self: MqttConnection, nbytes: int) -> None:
        stamps["read"].append(time.monotonic())
        updated(self, nbytes)
        stamps["parsed"].append(time.monotonic())

    def stamped_flush(self: Writer) -> None:
        start = time.monotonic()
        bytes_waiting = bool(self._waiting)
        flush(self)
        if bytes_waiting:
            stamps["flush"].append(start)
            stamps["flushed"].append(time.monotonic())

    MqttConnection.buffer_updated = stamped_updated  # type: ignore[method-assign]
    Writer.flush = stamped_flush  # type: ignore[method-assign]


async def _play(job: Job, stamps: Stamps) -> None:
    answers = f"{job.topic}/back"
    loop = asyncio.get_running_loop()

    async def echo(_n: int, message: Any) -> None:
        stamps["handle"].append(time.monotonic())
        await opened.publish_again(answers, message)

    def count(_n: int, _message: Any) -> None:
        stamps["handle"].append(time.monotonic())

    listen, handler = (job.topic, echo) if job.role == "echo" else (answers, count)
    async with EdgeBusClient().open(job, listen=listen, on_message=handler) as opened:
        say("ready")
        await loop.run_in_executor(None, wait_for_go)
        if job.role == "ping":
            start = time.monotonic()
            for n in range(int(job.rate * job.seconds)):
                await asyncio.sleep(max(0.0, start + n / job.rate - time.monotonic()))
                stamps["publish"].append(time.monotonic())
                await opened.publish(job.topic, n)
            await asyncio.sleep(0.5)
        say("done", **stamps)


def _child(job: Job) -> None:
    if job.core is not None:
        os.sched_setaffinity(0, {job.core})
    stamps: Stamps = defaultdict(list)
    _stamp_everything(stamps)
    gc.freeze()
    asyncio.run(_play(job, stamps))


def measure(rate: int, *, qos: Any, seconds: float) -> list[list[float]]:
    """Seconds of each stage, one list per ping."""
    cores = sorted(os.sched_getaffinity(0))
    with broker() as (port, _):
        shared: dict[str, Any] = {
            "client": "edgebus",
            "port": port,
            "payload": "json",
            "qos": qos,
            "topic": "bench/1",
            "rate": rate,
            "seconds": seconds,
        }
        module = "benchmarks.round_trip"
        echo = Side(Job(role="echo", core=cores[-1], **shared), module=module)
        ping = Side(Job(role="ping", core=cores[0], **shared), module=module)
        try:
            echo.expect("ready")
            ping.expect("ready")
            ping.go()
            there = ping.expect("done")
            echo.go()
            return _stages(there, echo.expect("done"))
        finally:
            ping.end()
            echo.end()


def _stages(ping: dict[str, Any], echo: dict[str, Any]) -> list[list[float]]:
    def after(times: list[float], moment: float) -> float:
        return times[bisect_left(times, moment)]

    def before(times: list[float], moment: float) -> float:
        return times[bisect_right(times, moment) - 1]

    rows: list[list[float]] = []
    for start in ping["publish"][_WARM_UP:]:
        try:
            flush = after(ping["flush"], start)
            flushed = after(ping["flushed"], flush)
            handle = after(echo["handle"], flush)
            read, parsed = before(echo["read"], handle), before(echo["parsed"], handle)
            answer = after(echo["flush"], handle)
            answered = after(echo["flushed"], answer)
            end = after(ping["handle"], answer)
            back, taken = before(ping["read"], end), before(ping["parsed"], end)
        except IndexError:
            break
        marks = [start, flush, flushed, read, parsed, handle, answer, answered, back, taken, end]
        spans = [later - sooner for sooner, later in pairwise(marks)]
        if min(spans) >= 0:  # else two pings were under way at a time
            rows.append(spans)
    return rows


def show(found: dict[int, list[list[float]]], *, qos: int, console: Console) -> None:
    """One table: stages by rates."""
    table = Table("stage, µs (median)", title=f"A typed round trip, 256 B JSON, QoS {qos}")
    for rate in found:
        table.add_column(f"{rate}/s", justify="right")
    columns = {rate: list(zip(*rows, strict=True)) for rate, rows in found.items()}
    for number, stage in enumerate(STAGES):
        cells = [_percentile(column[number], 0.5) for column in columns.values()]
        table.add_row(stage, *(f"{cell * 1e6:,.0f}" for cell in cells))
    for words, share in (("whole trip, p50", 0.5), ("whole trip, p99", 0.99)):
        cells = [_percentile([sum(row) for row in rows], share) for rows in found.values()]
        table.add_row(words, *(f"{cell * 1e6:,.0f}" for cell in cells), style="bold")
    console.print(table)


def _percentile(values: Any, share: float) -> float:
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, int(len(ordered) * share))])


def main() -> None:
    """Measure and tell; with a job as argument: play one side of it."""
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        _child(Job(**json.loads(sys.argv[1])))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rates", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--qos", type=int, choices=[0, 1], default=0)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 110)
    found = {
        rate: measure(rate, qos=arguments.qos, seconds=arguments.seconds)
        for rate in arguments.rates
    }
    show(found, qos=arguments.qos, console=console)
    console.print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
