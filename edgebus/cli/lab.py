"""`edgebus up`: mounted here, at home in `edgebus.lab`, imported only when it is used."""

from __future__ import annotations

import typer

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Mount the command."""
    app.command(
        "up",
        rich_help_panel="Run",
        # Arguments and --help go through to the real command.
        context_settings={
            "allow_extra_args": True,
            "ignore_unknown_options": True,
            "help_option_names": [],
        },
        add_help_option=False,
    )(up)


def up(context: typer.Context) -> None:
    """Run a whole topology on this machine and watch it: nodes, services, broker, report.

    Examples: `edgebus up`, `edgebus up topology.yaml`,
    `edgebus up --source street.mp4 --model yolox_nano_416.onnx --teacher better.onnx`.
    See `edgebus up --help`.
    """
    from edgebus_detection.lab import cli

    # Not standalone: usage errors reach the outer program, and an exit comes back as its code.
    code = cli.app(args=context.args, prog_name="edgebus up", standalone_mode=False)
    if isinstance(code, int) and code:
        raise typer.Exit(code)
