"""`edgebus topics stats`: rates, sizes and ages of what goes over the bus."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from edgebus.cli.console import output
from edgebus.cli.options import Broker, Config, Overrides, node_settings

if TYPE_CHECKING:
    from edgebus.bus import RawMessage
    from edgebus.inspect import Traffic, TrafficLine
    from edgebus.inspect.tables import FittedTable
    from edgebus.service import NodeSettings

_HEADERS = ("topic", "messages", "msg/s", "bytes/s", "size p50", "size max", "age p50", "age max")
_REDRAW_S = 0.5


def stats(
    filter: Annotated[  # noqa: A002 MQTT's word for it
        str, typer.Argument(help="MQTT topic filter; + is one level, # the rest.")
    ] = "edgebus/#",
    *,
    seconds: Annotated[
        float | None, typer.Option("--seconds", "--for", min=0.1, help="Stop after so long.")
    ] = None,
    every: Annotated[
        float, typer.Option("--every", min=0.1, help="Without a terminal: seconds between prints.")
    ] = 10.0,
    broker: Broker = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Show how much goes over the bus, per topic: rate, size, and age on arrival.

    Rates are of the last 10 seconds. Age is from sent to received: across hosts it is only as good
    as their clocks. Without a terminal the table is printed plainly, now and then and at the end.

    Example: edgebus topics stats 'edgebus/+/pi-01/#' --seconds 30
    """
    node = node_settings(config=config, overrides=overrides, broker=broker)
    asyncio.run(_stats(filter, node, seconds=seconds, every=every))


async def _stats(filter_: str, node: NodeSettings, *, seconds: float | None, every: float) -> None:
    from edgebus.cli.connect import connect
    from edgebus.inspect import Traffic

    traffic = Traffic()

    async def take(message: RawMessage) -> None:
        traffic.add(
            message.topic,
            message.payload,
            now=time.monotonic(),
            received=message.received.timestamp(),
            retained=message.retained,
        )

    async with connect(node) as bus:
        traffic.start(time.monotonic())
        await bus.tap(filter_, take)
        try:
            async with asyncio.timeout(seconds):
                if sys.stdout.isatty():
                    await _draw(traffic)
                else:
                    await _print(traffic, every)
        except TimeoutError:
            if not sys.stdout.isatty():
                output().print(_table(traffic.lines(time.monotonic())))


async def _draw(traffic: Traffic) -> None:
    """A live table, for ever."""
    from rich.live import Live

    with Live(console=output(), auto_refresh=False) as live:
        while True:
            live.update(_table(traffic.lines(time.monotonic())), refresh=True)
            await asyncio.sleep(_REDRAW_S)


async def _print(traffic: Traffic, every: float) -> None:
    """Plain tables, for ever."""
    while True:
        await asyncio.sleep(every)
        output().print(_table(traffic.lines(time.monotonic())))


def _table(lines: list[TrafficLine]) -> FittedTable:
    from edgebus.inspect.tables import FittedTable

    drawn = FittedTable(_HEADERS)
    for line in lines:
        drawn.add_row(*_row(line))
    return drawn


def _row(line: TrafficLine) -> tuple[str, ...]:
    from edgebus.inspect import human_bytes, printable

    return (
        printable(line.name),
        str(line.messages),
        f"{line.rate:.1f}",
        human_bytes(line.bytes_per_s),
        human_bytes(line.size_p50),
        human_bytes(line.size_max),
        _milliseconds(line.age_p50_ms),
        _milliseconds(line.age_max_ms),
    )


def _milliseconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f} ms" if abs(value) < 10_000 else f"{value / 1000:.0f} s"
