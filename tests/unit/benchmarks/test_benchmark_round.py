"""The arithmetic of the benchmark of rounds, and its tap."""

from __future__ import annotations

import asyncio
import io

import pytest
from rich.console import Console

from benchmarks._learning_round import _Tap
from benchmarks._learning_round_report import LoopRound, Upload, plot_rounds, report_of, tables


def a_round(pace: str, *, gate: float) -> LoopRound:
    stages = {"waiting": 0.25, "training": 4.0, "judging": gate, "loading": 0.25}
    return LoopRound(
        pace=pace,
        whole_s=sum(stages.values()),
        training_s=4.0,
        job_s=4.0 + gate,
        stages=stages,
        told={"training": 4.0},
    )


ROUNDS = [a_round(pace, gate=gate) for pace in ("steady", "burst") for gate in (0.5, 3.0)]
UPLOADS = [
    Upload(script="street", width=299, height=224, samples=50, wire=wire, payload=1, records=1)
    for wire in (1_000_000, 2_000_000)
]


def test_the_training_is_taken_off_and_the_rest_is_told():
    assert ROUNDS[0].overhead_s == pytest.approx(1.0)
    assert ROUNDS[0].without_gate_s == pytest.approx(0.5)
    out = io.StringIO()
    console = Console(file=out, width=120)
    for table in tables(UPLOADS, ROUNDS):
        console.print(table)
    text = out.getvalue()
    assert "30x" in text
    row = next(line for line in text.splitlines() if "without training" in line)
    assert [cell.strip() for cell in row.split("│")][3:7] == ["2", "2.25", "3.48", "3.50"]
    assert "4.000 (4.000)" in text
    assert "0.00%" in text
    assert report_of(UPLOADS, ROUNDS)["rounds"][0]["overhead_s"] == pytest.approx(1.0)


def test_the_picture_is_drawn(tmp_path):
    plot_rounds(ROUNDS, tmp_path / "round.png")
    assert (tmp_path / "round.png").stat().st_size > 5_000


async def test_the_tap_counts_what_goes_up_and_nothing_else():
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1000)
        writer.write(b"down" * 500)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, _Tap(server.sockets[0].getsockname()[1]) as tap:
        reader, writer = await asyncio.open_connection("127.0.0.1", tap.port)
        writer.write(b"u" * 1000)
        assert len(await reader.read(-1)) == 2000
        writer.close()
        assert tap.up == 1000
