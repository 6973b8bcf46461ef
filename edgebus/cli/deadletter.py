"""`edgebus deadletter`: what could not be handled, looked into, said again, taken away."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgebus.cli.console import CommandGroup, table
from edgebus.cli.options import Broker, Config, Overrides, node_settings
from edgebus.files import write_file

if TYPE_CHECKING:
    from edgebus.bus import Bus, RawMessage
    from edgebus.inspect import DeadLetters, Letter
    from edgebus.service import NodeSettings

Source = Annotated[
    Path | None,
    typer.Option(
        "--recording", metavar="IN.mcap", help="Look into a recording, not at the broker."
    ),
]
Wanted = Annotated[
    list[str] | None, typer.Argument(metavar="ID...", help="Id, or its beginning or end.")
]
Everything = Annotated[bool, typer.Option("--all", help="All that are listed.")]

_SETTLE_S = 0.5
"""A broker sends what it keeps in one go after SUBACK."""
_SHOWN_BYTES = 256

commands = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    help="Messages that could not be handled: the last 16 of each service are kept by the broker.",
)


def add_to(app: typer.Typer) -> None:
    """Mount the commands."""
    app.add_typer(commands, name="deadletter", rich_help_panel="Look")


@commands.command("list")
def list_letters(
    *,
    recording: Source = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per letter, for jq.")
    ] = False,
    broker: Broker = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """List the dead letters of all services, oldest first.

    Example: edgebus deadletter list
    """
    node = node_settings(config=config, overrides=overrides, broker=broker)
    pile = asyncio.run(_collect(node, recording))
    letters = pile.letters()
    if as_json:
        for letter in letters:
            sys.stdout.write(letter.record.encode().decode() + "\n")
        return
    if not letters:
        print("no dead letters")
        return
    table(("id", "time", "from", "topic", "reason", "error"), [_row(letter) for letter in letters])
    if pile.unreadable:
        print(f"{pile.unreadable} more cannot be read by this version")


@commands.command()
def show(
    letter: Annotated[str, typer.Argument(metavar="ID", help="Id, or its beginning or end.")],
    *,
    recording: Source = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the payload's bytes to this file.")
    ] = None,
    broker: Broker = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Show one dead letter with the start of its payload, or save the payload.

    Example: edgebus deadletter show 3f2a90bc --out frame.jpg
    """
    from edgebus.inspect import check_replayable

    node = node_settings(config=config, overrides=overrides, broker=broker)
    found = asyncio.run(_collect(node, recording)).find(letter)
    if out is not None:
        data = check_replayable(found)
        write_file(out, data)
        print(f"{out}: {len(data)} bytes, {found.record.media_type}")
        return
    fields = json.loads(found.record.encode())
    text = fields.pop("text", None)
    table(("", ""), [(name, _printable(str(value))) for name, value in fields.items()])
    print()
    print(_excerpt(found, text))


@commands.command()
def replay(
    letters: Wanted = None,
    *,
    every: Everything = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the letters where they are.")] = False,
    recording: Source = None,
    broker: Broker = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Publish the messages again where they came from, and take their letters away.

    Every subscriber of the topic gets them. Those that have handled a message leave it out by its
    id; the one that failed takes it again. What fails again makes a new letter.

    Example: edgebus deadletter replay 3f2a90bc
    """
    node = node_settings(config=config, overrides=overrides, broker=broker)
    asyncio.run(_replay(node, letters, every=every, keep=keep, recording=recording))


@commands.command()
def discard(
    letters: Wanted = None,
    *,
    every: Everything = False,
    broker: Broker = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Take letters away for good.

    Example: edgebus deadletter discard --all
    """
    node = node_settings(config=config, overrides=overrides, broker=broker)
    asyncio.run(_discard(node, letters, every=every))


async def _replay(
    node: NodeSettings,
    wanted: list[str] | None,
    *,
    every: bool,
    keep: bool,
    recording: Path | None,
) -> None:
    from edgebus.cli.connect import connect
    from edgebus.inspect import check_replayable

    async with connect(node) as bus:
        pile = await _collect(node, recording, bus=bus)
        chosen = _choose(pile, wanted, every=every)
        payloads = [check_replayable(letter) for letter in chosen]
        for letter, payload in zip(chosen, payloads, strict=True):
            record = letter.record
            # Never retained: a newer value may stand there by now.
            await bus.publish_raw(
                record.topic, payload, qos=record.qos, content_type=record.media_type
            )
            print(f"{letter.short} published on {_printable(record.topic)}")
            if not keep and recording is None:
                await _take_away(bus, letter)


async def _discard(node: NodeSettings, wanted: list[str] | None, *, every: bool) -> None:
    from edgebus.cli.connect import connect

    async with connect(node) as bus:
        chosen = _choose(await _collect(node, None, bus=bus), wanted, every=every)
        for letter in chosen:
            await _take_away(bus, letter)
    print(f"{len(chosen)} dead letters discarded")


async def _take_away(bus: Bus, letter: Letter) -> None:
    for topic in (letter.topic, letter.payload_topic):
        await bus.publish_raw(topic, b"", qos=1, retain=True)


def _choose(pile: DeadLetters, wanted: list[str] | None, *, every: bool) -> list[Letter]:
    if every == bool(wanted):
        msg = "name one or more letters, or give --all"
        raise typer.BadParameter(msg, param_hint="ID")
    return pile.letters() if every else [pile.find(text) for text in dict.fromkeys(wanted or ())]


async def _collect(
    node: NodeSettings, recording: Path | None, *, bus: Bus | None = None
) -> DeadLetters:
    """The letters at the broker, or in a recording."""
    from edgebus.inspect import DeadLetters

    pile = DeadLetters()
    if recording is not None:
        from edgebus.recording import Recording

        for message in Recording(recording):
            pile.add(message.topic, message.payload)
        return pile
    if bus is None:
        from edgebus.cli.connect import connect

        async with connect(node) as own:
            return await _collect(node, None, bus=own)

    async def take(message: RawMessage) -> None:
        if message.retained:
            pile.add(message.topic, message.payload)

    subscription = await bus.tap(f"{node.base}/+/+/+/deadletter/#", take, qos=1)
    await asyncio.sleep(_SETTLE_S)
    await subscription.unsubscribe()
    return pile


def _row(letter: Letter) -> tuple[str, ...]:
    record = letter.record
    return (
        letter.short,
        f"{record.time.astimezone():%Y-%m-%d %H:%M:%S}",
        record.source,
        _printable(record.topic),
        record.reason + (f" (+{record.suppressed} not kept)" if record.suppressed else ""),
        _printable(record.error)[:120],
    )


def _excerpt(letter: Letter, text: str | None) -> str:
    """The start of a payload, as text or as hexadecimal lines."""
    if text is not None:
        return _printable(text, lines=True)
    if letter.payload is None:
        return f"({letter.record.size} bytes, not kept)"
    data = letter.payload[:_SHOWN_BYTES]
    lines = [
        f"{at:06x}  {data[at : at + 16].hex(' '):<47}  "
        + "".join(chr(c) if 32 <= c < 127 else "." for c in data[at : at + 16])
        for at in range(0, len(data), 16)
    ]
    if len(letter.payload) > len(data):
        lines.append(f"… {len(letter.payload)} bytes in all; save them with --out FILE")
    return "\n".join(lines)


def _printable(text: str, *, lines: bool = False) -> str:
    from edgebus.inspect import printable

    if lines:
        return "\n".join(printable(line) for line in text.split("\n"))
    return printable(text)
