"""`edgebus samples`: the retrainer brings these commands; they are loaded when they are used.

The framework imports no service. A service that has commands names a `typer.Typer` in the
entry-point group `edgebus.commands`.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

import typer
from typer.core import TyperGroup

ENTRY_POINTS = "edgebus.commands"
_NAME = "samples"


class CommandsMissingError(LookupError):
    """No installed package brings these commands.

    Attributes:
        name: The group of commands.
    """

    exit_code = 2

    def __init__(self, name: str) -> None:
        super().__init__(
            f"no installed package brings the commands 'edgebus {name}' (entry points "
            f"{ENTRY_POINTS}); run: pip install 'edgebus[cloud]'"
        )
        self.name = name


class _Lazy(TyperGroup):
    """A group whose commands are imported when somebody asks for them."""

    # Any: typer keeps a copy of click of its own, and its types with it.
    _loaded: Any = None

    @property
    def commands(self) -> Any:
        if self._loaded is None:
            self._loaded = _load(_NAME)
        return self._loaded

    @commands.setter
    def commands(self, value: Any) -> None:
        """It is set to an empty one when the group is made."""


def add_to(app: typer.Typer) -> None:
    """Mount the commands."""
    group = typer.Typer(
        cls=_Lazy,
        no_args_is_help=True,
        help="Look at the samples of a retrainer on this host, label them, exchange them.",
    )
    # Without a callback typer takes a group without commands for no group.
    group.callback()(_nothing)
    app.add_typer(group, name=_NAME, rich_help_panel="Models")


def _nothing() -> None:
    """Look at the samples of a retrainer on this host, label them, exchange them."""


def _load(name: str) -> Any:
    found = entry_points(group=ENTRY_POINTS, name=name)
    if not found:
        raise CommandsMissingError(name)
    group: Any = typer.main.get_command(next(iter(found)).load())
    return group.commands
