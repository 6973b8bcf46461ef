"""`edgebus topics`: what there is to listen to, and listening."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from edgebus.cli.console import CommandGroup, output, table
from edgebus.cli.options import Broker, Config, Overrides, node_settings
from edgebus.cli.stats import stats

if TYPE_CHECKING:
    from edgebus.bus import RawMessage
    from edgebus.service import NodeSettings

Show = Callable[["RawMessage"], None]

commands = typer.Typer(
    cls=CommandGroup, no_args_is_help=True, help="List the topics, and watch them live."
)
commands.command()(stats)


def add_to(app: typer.Typer) -> None:
    """Mount the commands."""
    app.add_typer(commands, name="topics", rich_help_panel="Look")


@commands.command("list")
def list_topics() -> None:
    """List every topic: address, payload, QoS, whether it is retained, what it carries."""
    from edgebus.contracts.registry import all_topics

    rows = [
        (
            topic.address,
            f"{topic.payload.__name__} ({topic.payload.content_type})",
            str(topic.qos),
            "yes" if topic.retain else "",
            topic.doc,
        )
        for topic in all_topics().values()
    ]
    table(("topic", "payload", "QoS", "retained", "what it carries"), rows)


@commands.command()
def watch(
    filter: Annotated[  # noqa: A002 MQTT's word for it
        str, typer.Argument(help="MQTT topic filter; + is one level, # the rest.")
    ] = "edgebus/#",
    *,
    broker: Broker = None,
    config: Config = None,
    overrides: Overrides = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Payloads as they are, one per line, like mosquitto_sub.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per message, for jq.")
    ] = False,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="Stop after this many messages.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--for", min=0.0, help="Stop after this many seconds.")
    ] = None,
) -> None:
    """Show messages as they come, one line each; bytes with a record show that and their size.

    Examples: edgebus topics watch 'edgebus/+/+/+/state'

    edgebus topics watch 'edgebus/#' --json | jq .payload
    """
    if raw and as_json:
        msg = "choose one of --raw and --json"
        raise typer.BadParameter(msg)
    node = node_settings(config=config, overrides=overrides, broker=broker)
    show = _show_raw if raw else _show_json if as_json else _pretty_printer()
    asyncio.run(_watch(filter, node, show=show, count=count, seconds=seconds))


async def _watch(
    filter_: str, node: NodeSettings, *, show: Show, count: int | None, seconds: float | None
) -> None:
    from edgebus.cli.connect import connect

    done = asyncio.Event()
    seen = 0

    async def take(message: RawMessage) -> None:
        nonlocal seen
        if done.is_set():
            return
        show(message)
        seen += 1
        if seen == count:
            done.set()

    async with connect(node) as bus:
        await bus.tap(filter_, take)
        try:
            async with asyncio.timeout(seconds):
                await done.wait()
        except TimeoutError:
            return


def _show_raw(message: RawMessage) -> None:
    sys.stdout.buffer.write(message.payload + b"\n")
    sys.stdout.buffer.flush()


def _show_json(message: RawMessage) -> None:
    from edgebus.contracts import rfc3339
    from edgebus.inspect import as_json

    circumstances = {
        "received": rfc3339(message.received),
        "qos": message.qos,
        "retained": message.retained,
    }
    sys.stdout.write(as_json(message.topic, message.payload, circumstances) + "\n")
    sys.stdout.flush()


def _pretty_printer() -> Show:
    from rich.text import Text

    from edgebus.inspect import as_line

    console = output()

    def show(message: RawMessage) -> None:
        line = Text()
        line.append(f"{message.received.astimezone():%H:%M:%S.%f}"[:-3] + " ", style="dim")
        line.append(message.topic, style="cyan")
        if message.retained:
            line.append(" (retained)", style="dim")
        line.append(" " + as_line(message.topic, message.payload))
        console.print(line, soft_wrap=True)

    return show
