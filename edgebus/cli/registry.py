"""`edgebus model list|publish|rollback`, `edgebus retrain`: asking a running site."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from edgebus.cli.console import table
from edgebus.cli.options import Broker, Config, Overrides, node_settings

if TYPE_CHECKING:
    from edgebus.artifacts import Bundle
    from edgebus.bus import Bus
    from edgebus.contracts import Command, CommandTopic, Reply
    from edgebus.service import NodeSettings

    R = TypeVar("R", bound=Reply)
    C = TypeVar("C", bound=Command)

Node = Annotated[
    str | None,
    typer.Option("--node", metavar="NODE", help="The node asked; found by itself if it is one."),
]
Timeout = Annotated[
    float, typer.Option("--timeout", min=0.1, help="Seconds to wait for the answer.")
]
Folder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder.")]


def add_to(commands: typer.Typer) -> None:
    """Mount the commands below `edgebus model`."""
    commands.command("list")(list_models)
    commands.command("publish")(publish)
    commands.command("rollback")(rollback)


def list_models(
    model: Annotated[str | None, typer.Argument(help="Only this model's versions.")] = None,
    *,
    node: Node = None,
    broker: Broker = None,
    config: Config = None,
    overrides: Overrides = None,
    timeout: Timeout = 10.0,
) -> None:
    """List the registry's versions, and which channel serves which."""
    from edgebus.contracts import ModelListCommand, topics

    settings = node_settings(config=config, overrides=overrides, broker=broker)
    reply = _ask(
        settings, topics.CMD_MODELS, ModelListCommand(model=model), node=node, timeout=timeout
    )
    rows = [
        (
            entry.bundle.model.name,
            str(entry.bundle.model.version),
            ", ".join(entry.channels),
            entry.bundle.model.digest[:12],
            f"{entry.added:%Y-%m-%d %H:%M}",
            entry.origin,
            " ".join(f"{key}={value:.3f}" for key, value in sorted(entry.metrics.items())),
        )
        for entry in reply.models
    ]
    if not rows:
        print("the registry is empty; publish one: edgebus model publish BUNDLE")
        return
    table(("model", "version", "serves", "digest", "added", "from", "metrics"), rows)


def publish(
    folder: Folder,
    *,
    channel: Annotated[str, typer.Option(help="Release channel.")] = "stable",
    node: Node = None,
    broker: Broker = None,
    config: Config = None,
    overrides: Overrides = None,
    timeout: Timeout = 120.0,
) -> None:
    """Hand a bundle to the distributor and release it to a channel.

    The bundle's blocks are served from here until the distributor has them all.
    """
    from edgebus.artifacts import Bundle

    bundle = Bundle.open(folder)
    settings = node_settings(config=config, overrides=overrides, broker=broker)
    reply = asyncio.run(_publish(bundle, settings, channel=channel, node=node, timeout=timeout))
    print(reply.detail)


def rollback(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    *,
    version: Annotated[
        int | None, typer.Option(min=1, help="The one before the present one by default.")
    ] = None,
    channel: Annotated[str, typer.Option(help="Release channel.")] = "stable",
    node: Node = None,
    broker: Broker = None,
    config: Config = None,
    overrides: Overrides = None,
    timeout: Timeout = 10.0,
) -> None:
    """Release an earlier version again; every edge of the channel goes back to it."""
    from edgebus.contracts import RollbackCommand, topics

    settings = node_settings(config=config, overrides=overrides, broker=broker)
    command = RollbackCommand(model=model, channel=channel, version=version)
    reply = _ask(settings, topics.CMD_ROLLBACK, command, node=node, timeout=timeout)
    print(reply.detail)


def retrain(
    node: Node = None,
    broker: Broker = None,
    config: Config = None,
    overrides: Overrides = None,
    timeout: Timeout = 10.0,
) -> None:
    """Ask the retrainer to start a job now, whatever its trigger waits for."""
    from edgebus.contracts import RetrainCommand, topics

    settings = node_settings(config=config, overrides=overrides, broker=broker)
    reply = _ask(
        settings,
        topics.CMD_RETRAIN,
        RetrainCommand(),
        service="retrainer",
        node=node,
        timeout=timeout,
    )
    print(reply.detail)


def _ask(
    settings: NodeSettings,
    topic: CommandTopic[C, R],
    command: C,
    *,
    node: str | None,
    timeout: float,
    service: str = "distributor",
) -> R:
    """Connect, and ask a service of the site."""
    from edgebus.cli.connect import connect

    async def ask() -> R:
        async with connect(settings) as bus:
            return await _request(bus, topic, command, service, node=node, timeout=timeout)

    return asyncio.run(ask())


async def _request(
    bus: Bus,
    topic: CommandTopic[C, R],
    command: C,
    service: str,
    *,
    node: str | None,
    timeout: float,
) -> R:
    """Ask a service of the site.

    Raises:
        ServiceNotFoundError: None is there.
        RequestTimeoutError: It does not answer.
        CommandRefusedError: It says no.
    """
    from edgebus.cli.connect import find_node
    from edgebus.contracts import Identity
    from edgebus.service import CommandRefusedError

    target, own = node or await find_node(bus, service), bus.identity
    address = topic.at(Identity(base=own.base, site=own.site, node=target, service=service))
    answer = await bus.request(address, command, timeout=timeout)
    if not answer.ok:
        msg = f"{service} on {target} refuses: {answer.detail}"
        raise CommandRefusedError(msg)
    return answer


async def _publish(
    bundle: Bundle, settings: NodeSettings, *, channel: str, node: str | None, timeout: float
) -> Reply:
    """Serve the bundle's blocks for as long as the distributor needs to take it over."""
    from edgebus.artifacts import Store
    from edgebus.cli.connect import connect
    from edgebus.contracts import PublishCommand, topics
    from edgebus.transfer import ArtifactProvider, reference

    with tempfile.TemporaryDirectory(prefix="edgebus-publish-") as folder:
        store = Store(folder)
        store.put_bundle(bundle)
        async with connect(settings) as bus:
            provider = ArtifactProvider(bus, bus.identity, store)
            serving = asyncio.create_task(provider.run(), name="serve blocks")
            offered = reference(store, bundle.digest, provider=bus.identity)
            command = PublishCommand(bundle=offered, channel=channel)
            try:
                return await _request(
                    bus, topics.CMD_PUBLISH, command, "distributor", node=node, timeout=timeout
                )
            finally:
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)
