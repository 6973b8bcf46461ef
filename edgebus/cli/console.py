"""Terminal output: results to standard output, troubles to standard error."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from typer.core import TyperGroup

from edgebus.addresses import hide_credentials

if TYPE_CHECKING:
    from rich.console import Console

_UNLIMITED = 10_000
"""Columns of an output that is no terminal."""
_PANELS = 80
"""Columns from which the panels of a command's help cut nothing."""


class CommandGroup(TyperGroup):
    """A group whose list of commands is whole where the help has no panels."""

    # Any: typer keeps a copy of click of its own, and its types with it.
    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list; typer's own ends each line with dots."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, one.get_short_help_str(10_000)) for name, one in found if one is not None]
            )


def help_style() -> Literal["markdown"] | None:
    """The style of help: panels where they have room, plain paragraphs where they would be cut."""
    return "markdown" if shutil.get_terminal_size().columns >= _PANELS else None


def output() -> Console:
    """A console on standard output; where no terminal cuts it, rows are as long as they are."""
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False, soft_wrap=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        # Piped: a row is one line, so that grep sees it whole.
        console = Console(file=sys.stdout, highlight=False, width=_UNLIMITED)
    return console


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table that fits the terminal."""
    from edgebus.inspect.tables import FittedTable

    drawn = FittedTable(headers)
    for row in rows:
        drawn.add_row(*row)
    output().print(drawn)


def note(message: str) -> None:
    """One line to standard error."""
    sys.stderr.write(f"edgebus: {hide_credentials(' '.join(message.split()))}\n")


def warn(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as one line on standard error, without the line of code that gave it."""
    note(f"warning: {message}")


def quiet_logs() -> None:
    """Logs of a command that is no service: errors only; its own output is what counts."""
    from edgebus.service import LogSettings, configure_logging

    configure_logging(LogSettings(level="error", format="console"))
