"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgebus.service import NodeSettings

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="The node's YAML file."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="One setting, dotted from the top, such as telemetry.flush_s=2; repeatable.",
    ),
]
Broker = Annotated[
    str | None,
    typer.Option(
        "--broker",
        "-b",
        metavar="URL",
        help="The broker, such as mqtt://host:1883; short for --set broker.url=URL.",
    ),
]


def node_settings(
    *, config: Path | None, overrides: Sequence[str] | None, broker: str | None
) -> NodeSettings:
    """The node's settings for a command that talks on the bus."""
    from edgebus.cli.console import quiet_logs
    from edgebus.service import load_node

    quiet_logs()
    pairs = [*(overrides or ())]
    if broker is not None:
        pairs.append(f"broker.url={broker}")
    return load_node(config=config, overrides=pairs)
