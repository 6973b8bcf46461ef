"""`edgebus run`, `edgebus services`: one service, as it runs on a device."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Annotated

import typer

from edgebus.cli.console import table
from edgebus.cli.errors import describe
from edgebus.cli.options import Broker, Config, Overrides


def add_to(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command("run", rich_help_panel="Run")(run)
    app.command("services", rich_help_panel="Look")(services)


def run(
    service: Annotated[str, typer.Argument(help="Its name; see 'edgebus services'.")],
    config: Config = None,
    overrides: Overrides = None,
    broker: Broker = None,
) -> None:
    """Run one service until SIGTERM or Ctrl-C, as on a device.

    Settings come from the file, the environment (EDGEBUS_SITE, EDGEBUS_DETECTOR__THRESHOLD) and
    --set, the later ones winning. Exit codes: 0 stopped, 1 failed, 2 wrong settings, 3 another
    process already runs this service on this node.

    Example: edgebus run telemetry --config pi-01.yaml --set telemetry.flush_s=2
    """
    from edgebus.service import load_service, load_settings, run_service

    pairs = [*(overrides or ())]
    if broker is not None:
        pairs.append(f"broker.url={broker}")
    kind = load_service(service)
    node, settings = load_settings(
        service, config=config, overrides=pairs, settings_type=kind.settings_type
    )
    raise typer.Exit(run_service(kind, node, settings))


def services() -> None:
    """List the services that are installed, third parties' included."""
    from edgebus.service import install_command, service_entry_points

    rows = [_row(name, point) for name, point in sorted(service_entry_points().items())]
    if not rows:
        print(f"no services are installed; run: {install_command('edge')}")
        return
    table(("service", "package", "what it does"), rows)


def _row(name: str, point: EntryPoint) -> tuple[str, str, str]:
    from edgebus.service import ServiceError, load_service

    package = f"{point.dist.name} {point.dist.version}" if point.dist else "?"
    try:
        return name, package, load_service(name).summary()
    except (ServiceError, ImportError, AttributeError) as error:
        return name, package, f"cannot be loaded: {describe(error)}"
