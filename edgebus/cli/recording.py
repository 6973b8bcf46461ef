"""`edgebus record`, `edgebus replay`: what is said on the bus, kept in a file and said again."""

from __future__ import annotations

import asyncio
import math
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgebus.cli.console import note
from edgebus.cli.options import Broker, Config, Overrides, node_settings

if TYPE_CHECKING:
    from rich.status import Status

    from edgebus.recording import (
        Recording,
        RecordingWriter,
        RecordReport,
        ReplayOptions,
        ReplayReport,
    )
    from edgebus.service import NodeSettings

Filters = Annotated[
    list[str] | None,
    typer.Option(
        "--filter", "-f", metavar="FILTER", help="MQTT topic filter, repeatable; default: all."
    ),
]
_REDRAW_S = 0.5


def add_to(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command("record", rich_help_panel="Look")(record)
    app.command("replay", rich_help_panel="Look")(replay)


def record(
    file: Annotated[Path, typer.Argument(metavar="OUT.mcap", help="The file to write.")],
    *,
    filters: Filters = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", "-x", metavar="FILTER", help="What to leave out, repeatable."),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0.0, help="Stop after so long.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    broker: Broker = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Record what is said on the bus into an MCAP file, until Ctrl-C.

    The file opens in Foxglove and with any MCAP tool: JSON messages with their schemas, pictures as
    such. What the broker keeps is recorded first, as state from before.

    Example: edgebus record drift.mcap --seconds 60 --exclude 'edgebus/+/+/+/blocks/#'
    """
    from edgebus.inspect import human_bytes
    from edgebus.recording import RecordingWriter

    node = node_settings(config=config, overrides=overrides, broker=broker)
    wanted = filters or [f"{node.base}/#"]
    notes = {"filters": " ".join(wanted), "exclude": " ".join(exclude or ())}
    report = asyncio.run(
        _record(
            node,
            # Opened late: a broker that is away must not leave an empty file behind.
            lambda: RecordingWriter(file, overwrite=force, notes=notes),
            filters=wanted,
            exclude=exclude or [],
            seconds=seconds,
        )
    )
    print(
        f"{file}: {report.messages} messages on {report.channels} channels, "
        f"{human_bytes(report.size)}, {report.seconds:.1f} s"
    )
    if report.dropped:
        note(f"{report.dropped} QoS 0 messages came faster than the disk took them")
    if report.left_out:
        note(f"{report.left_out} messages were left out: too many topics for one MCAP file")
    if report.reconnects:
        note(f"the broker was away {report.reconnects} times; what was said meanwhile is missing")


def replay(
    file: Annotated[Path, typer.Argument(metavar="IN.mcap", help="The recording.")],
    *,
    speed: Annotated[
        str, typer.Option("--speed", metavar="FACTOR", help="2: twice as fast; max: at once.")
    ] = "1",
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map", metavar="OLD=NEW", help="Publish topics below OLD below NEW, repeatable."
        ),
    ] = None,
    filters: Filters = None,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh",
            help="New ids and times: for services that have seen these messages before.",
        ),
    ] = False,
    keep_state: Annotated[
        bool,
        typer.Option("--keep-state", help="Leave replayed retained values at the broker."),
    ] = False,
    broker: Broker = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Publish a recording again, at its own pace, so that services act as on live traffic.

    Choose what drives the service under test, and leave out what it says itself. Retained values
    are put back at the end. Of a file that is cut off or damaged, all that can be read is replayed.

    Example: edgebus replay drift.mcap --filter 'edgebus/+/pi-01/#' --fresh --speed 2
    """
    from edgebus.inspect import human_bytes
    from edgebus.recording import PrefixMap, Recording, ReplayOptions

    options = ReplayOptions(
        speed=_factor(speed),
        filters=tuple(filters or ()),
        mapping=PrefixMap(mapping or ()),
        fresh=fresh,
        keep_state=keep_state,
    )
    recording = Recording(file)
    node = node_settings(config=config, overrides=overrides, broker=broker)
    report = asyncio.run(_replay(node, recording, options))
    left_out = f", {report.left_out} left out" if report.left_out else ""
    restored = f", {report.restored} retained topics put back" if report.restored else ""
    print(
        f"{report.published} messages published, {human_bytes(report.published_bytes)}, "
        f"{report.seconds:.1f} s{left_out}{restored}"
    )
    if recording.trouble is not None:
        note(f"{file} is not whole: {recording.trouble}")
    if report.late_s > 0.5:
        note(f"this machine or the broker was up to {report.late_s:.1f} s behind the recording")
    if not report.published:
        note("nothing was published; look at the filters, and into the file")
        raise typer.Exit(1)


async def _record(
    node: NodeSettings,
    open_writer: Callable[[], RecordingWriter],
    *,
    filters: list[str],
    exclude: list[str],
    seconds: float | None,
) -> RecordReport:
    from edgebus.cli.connect import connect
    from edgebus.recording import record as run

    stop = asyncio.Event()
    async with connect(node) as bus:
        writer = open_writer()
        with _stops(stop), _status("recording, end with Ctrl-C") as status:
            redraw = asyncio.create_task(_show(writer, status), name="status line")
            try:
                return await run(
                    bus, writer, filters=filters, exclude=exclude, seconds=seconds, stop=stop
                )
            finally:
                redraw.cancel()


async def _replay(node: NodeSettings, recording: Recording, options: ReplayOptions) -> ReplayReport:
    from edgebus.cli.connect import connect
    from edgebus.recording import replay as run

    stop = asyncio.Event()
    async with connect(node) as bus:
        with _stops(stop):
            return await run(bus, recording, options=options, stop=stop)


@contextmanager
def _stops(stop: asyncio.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the work in order; a second Ctrl-C ends it at once."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)

    def end() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)

    for number in signals:
        loop.add_signal_handler(number, end)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


@contextmanager
def _status(text: str) -> Iterator[Status | None]:
    """A status line where somebody looks, nothing else."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console

    with Console(stderr=True).status(text) as status:
        yield status


async def _show(writer: RecordingWriter, status: Status | None) -> None:
    from edgebus.inspect import human_bytes

    while status is not None:
        status.update(
            f"recording {writer.messages} messages, {human_bytes(writer.size)}; end with Ctrl-C"
        )
        await asyncio.sleep(_REDRAW_S)


def _factor(text: str) -> float:
    try:
        value = math.inf if text == "max" else float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        msg = f"{text!r} is no speed; write a number above zero, or max"
        raise typer.BadParameter(msg, param_hint="--speed")
    return value
