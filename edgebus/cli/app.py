"""The program `edgebus`: its commands, and the border where errors become one line."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from edgebus.addresses import hide_argument, hide_credentials
from edgebus.cli import deadletter, model, recording, run, schema, topics, trace
from edgebus.cli.console import CommandGroup, help_style, note, warn
from edgebus.cli.errors import describe, exit_code_of

_HELP = """EdgeBus: models that notice drift, retrain and come back better, on an MQTT bus.

Try the whole loop on this machine:

    edgebus up

Run one service as on a device, and look at what it says:

    edgebus run telemetry --config pi-01.yaml

    edgebus topics watch 'edgebus/#'
"""

app = typer.Typer(
    name="edgebus",
    cls=CommandGroup,
    help=_HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=help_style(),
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    from edgebus import __version__

    print(f"edgebus {__version__} (Python {sys.version.split()[0]})")
    raise typer.Exit


@app.callback()
def _root(
    *,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the whole traceback of an error.")
    ] = False,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version, and exit."
        ),
    ] = False,
) -> None:
    if debug:
        os.environ["EDGEBUS_DEBUG"] = "1"
    warnings.showwarning = warn


@app.command(
    "up",
    rich_help_panel="Run",
    # Arguments and --help go through to the real command, which is imported only when it is used.
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    },
    add_help_option=False,
)
def up(context: typer.Context) -> None:
    """Run a whole topology on this machine and watch it: nodes, services, broker, report.

    Examples: `edgebus up`, `edgebus up topology.yaml`,
    `edgebus up --source street.mp4 --model yolox_nano_416.onnx --teacher better.onnx`.
    See `edgebus up --help`.
    """
    from edgebus.lab.cli import main as up_main

    if code := up_main(context.args, help_style=help_style()):
        raise typer.Exit(code)


run.add_to(app)
topics.add_to(app)
schema.add_to(app)
model.add_to(app)
recording.add_to(app)
deadletter.add_to(app)
trace.add_to(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit.

    Args:
        arguments: Without the program's name; those of the process by default.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    _hide_arguments(words)
    try:
        app(args=words, prog_name="edgebus")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader (head, grep -q) has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if os.environ.get("EDGEBUS_DEBUG"):
            sys.excepthook = _print_traceback
            raise
        note(describe(error))
        sys.exit(exit_code_of(error))


def _print_traceback(*error: Any) -> None:
    sys.stderr.write(hide_credentials("".join(traceback.format_exception(*error))))


def _hide_arguments(words: Sequence[str]) -> None:
    """Take secrets out of this process's line in the list of processes, which others may read."""
    shown = [hide_argument(word) for word in words]
    if shown == list(words):
        return
    from setproctitle import setproctitle

    setproctitle(" ".join([sys.executable, "-m", "edgebus.cli", *shown]))
