"""Terminal output: results to standard output, troubles to standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from edgebus.addresses import hide_credentials

if TYPE_CHECKING:
    from rich.console import Console


def output() -> Console:
    """A console on standard output; wide where no terminal cuts it."""
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        # Piped: a table is never folded to 80 columns, so that grep sees whole rows.
        console = Console(file=sys.stdout, highlight=False, width=240)
    return console


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "") -> None:
    """Print a table."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table.grid(padding=(0, 1))
    drawn.title, drawn.title_justify = title or None, "left"
    drawn.show_header = any(headers)
    for header in headers:
        drawn.add_column(header, overflow="fold", header_style="bold")
    for row in rows:
        # Text, not markup: what comes from the bus may hold brackets.
        drawn.add_row(*(Text(cell) for cell in row))
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
