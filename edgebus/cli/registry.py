"""`edgebus model list|export|publish|rollback`, `edgebus retrain`: asking a running site."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from edgebus.cli.console import note, table
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


Followers = dict[tuple[str, str], list[str]]
"""Edges by model and channel."""

_NOBODY = 4
"""Exit code of a release that no edge follows."""


class ModelUnknownError(LookupError):
    """The registry has no such version.

    Attributes:
        wanted: What was asked for.
    """

    exit_code = 2

    def __init__(self, wanted: str, *, there: list[str]) -> None:
        has = f"it has {', '.join(there)}" if there else "it is empty"
        super().__init__(f"the registry has no {wanted}, and no folder is called so; {has}")
        self.wanted = wanted


def add_to(commands: typer.Typer) -> None:
    """Mount the commands below `edgebus model`."""
    commands.command("list")(list_models)
    commands.command("export")(export)
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


def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Its name in the registry, or a bundle's folder.")
    ],
    *,
    version: Annotated[
        int | None, typer.Option(min=1, help="The one that the channel serves by default.")
    ] = None,
    channel: Annotated[str, typer.Option(help="Release channel.")] = "stable",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="A new folder for the bundle, or a file NAME.onnx for plain ONNX with its weights "
            "inside; ./MODEL-vVERSION by default.",
        ),
    ] = None,
    node: Node = None,
    broker: Broker = None,
    config: Config = None,
    overrides: Overrides = None,
    timeout: Timeout = 120.0,
) -> None:
    """Take a model home: from the bus, or from a bundle's folder.

    Examples: edgebus model export street --out street-v2

    edgebus model export street --version 2 --out street.onnx
    """
    from edgebus.artifacts import Bundle, export_bundle
    from edgebus.inspect import human_bytes

    if Path(model).is_dir():
        bundle = Bundle.open(model)
    else:
        settings = node_settings(config=config, overrides=overrides, broker=broker)
        bundle = asyncio.run(
            _fetch(settings, model, version, channel=channel, node=node, timeout=timeout)
        )
    manifest = bundle.manifest
    target = out or Path(f"{manifest.name}-v{manifest.version}")
    export_bundle(bundle, target)
    print(
        f"written: {target}, {manifest.name} version {manifest.version}, "
        f"{human_bytes(bundle.size)}, digest {bundle.digest[:12]}"
    )


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

    The bundle's blocks are served from here until the distributor has them all. Prints who follows
    the release. Exit codes: 0 released, 1 refused or not delivered, 2 no such bundle, 4 released,
    but no edge follows this model on this channel.

    Example: edgebus model publish street-v2 --broker mqtt://gpu:1883 --set site=shop
    """
    from edgebus.artifacts import Bundle

    bundle = Bundle.open(folder)
    settings = node_settings(config=config, overrides=overrides, broker=broker)
    reply, followers = asyncio.run(
        _publish(bundle, settings, channel=channel, node=node, timeout=timeout)
    )
    _print_release(reply, followers, model=bundle.manifest.name, channel=channel)


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
    """Release an earlier version again; every edge of the channel goes back to it.

    Exit codes as those of `edgebus model publish`.
    """
    from edgebus.cli.connect import connect, find_followers
    from edgebus.contracts import RollbackCommand, topics

    settings = node_settings(config=config, overrides=overrides, broker=broker)
    command = RollbackCommand(model=model, channel=channel, version=version)

    async def ask() -> tuple[Reply, Followers]:
        async with connect(settings) as bus:
            reply = await _request(
                bus, topics.CMD_ROLLBACK, command, "distributor", node=node, timeout=timeout
            )
            return reply, await find_followers(bus)

    reply, followers = asyncio.run(ask())
    _print_release(reply, followers, model=model, channel=channel)


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


def _print_release(reply: Reply, followers: Followers, *, model: str, channel: str) -> None:
    """Say what was released, and to whom.

    Raises:
        typer.Exit: With 4 where nobody follows it.
    """
    print(reply.detail)
    edges = followers.get((model, channel), [])
    if edges:
        print(f"{len(edges)} {'edge follows' if len(edges) == 1 else 'edges follow'} it: ", end="")
        print(", ".join(edges))
        return
    others = [
        f"{', '.join(edges)}: {name} on {stream}"
        for (name, stream), edges in sorted(followers.items())
    ]
    rest = f"edges follow other models ({'; '.join(others)})" if others else "there is no edge yet"
    note(
        f"no edge follows {model} on channel {channel}: {rest}. An edge follows the name of its "
        "own bundle, on the channel of its settings"
    )
    raise typer.Exit(_NOBODY)


async def _fetch(
    settings: NodeSettings,
    model: str,
    version: int | None,
    *,
    channel: str,
    node: str | None,
    timeout: float,
) -> Bundle:
    """A version of the registry, over the bus.

    Raises:
        ModelUnknownError: The registry has no such version.
        DeliveryError: The distributor does not deliver it in time.
    """
    from edgebus.cli.connect import connect
    from edgebus.contracts import ModelListCommand, topics
    from edgebus.transfer import fetch_bundle

    async with connect(settings) as bus:
        reply = await _request(
            bus,
            topics.CMD_MODELS,
            ModelListCommand(),
            "distributor",
            node=node,
            timeout=min(timeout, 10.0),
        )
        for entry in reply.models:
            reference = entry.bundle.model
            wanted = channel in entry.channels if version is None else reference.version == version
            if reference.name == model and wanted:
                return await fetch_bundle(bus, entry.bundle, timeout_s=timeout)
        there = [f"{e.bundle.model.name} version {e.bundle.model.version}" for e in reply.models]
        which = f"that channel {channel} serves" if version is None else f"{version}"
        raise ModelUnknownError(f"{model} version {which}", there=there)


async def _publish(
    bundle: Bundle, settings: NodeSettings, *, channel: str, node: str | None, timeout: float
) -> tuple[Reply, Followers]:
    """Serve the bundle's blocks for as long as the distributor needs to take it over."""
    from edgebus.artifacts import Store
    from edgebus.cli.connect import connect, find_followers
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
                reply = await _request(
                    bus, topics.CMD_PUBLISH, command, "distributor", node=node, timeout=timeout
                )
                return reply, await find_followers(bus)
            finally:
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)
