"""`edgebus model`, `edgebus samples`: bundles on disk, and what workloads and services bring.

The framework imports neither. Both add commands of their own, each a `typer.Typer` in the
entry-point group `edgebus.commands`: ``samples``, or ``model.…`` for one with several commands
that go below `edgebus model`. The registry's commands come from `edgebus.cli.registry`.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgebus.cli import registry
from edgebus.cli.console import CommandGroup, help_style, table

if TYPE_CHECKING:
    from pydantic import JsonValue

    from edgebus.artifacts import Bundle

_ENTRY_POINTS = "edgebus.commands"

Folder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder.")]


class CommandsMissingError(LookupError):
    """No installed package brings these commands.

    Attributes:
        name: The group of commands.
    """

    exit_code = 2

    def __init__(self, name: str) -> None:
        from edgebus.service import install_command

        super().__init__(
            f"no installed package brings the commands 'edgebus {name}' (entry points "
            f"{_ENTRY_POINTS}); run: {install_command('cloud')}"
        )
        self.name = name


class _Group(CommandGroup):
    """Commands of the framework, and those of others, imported when somebody asks for them."""

    # Any: typer keeps a copy of click of its own, and its types with it.
    _own: Any = None
    _all: Any = None

    @property
    def commands(self) -> Any:
        if self._all is None:
            found = dict(self._own)
            for point in sorted(entry_points(group=_ENTRY_POINTS), key=lambda point: point.name):
                if point.name.partition(".")[0] == self.name:
                    brought = point.load()
                    brought.rich_markup_mode = help_style()  # as the program's own help
                    group: Any = typer.main.get_command(brought)
                    found |= group.commands
            if not found:
                raise CommandsMissingError(str(self.name))
            self._all = found
        return self._all

    @commands.setter
    def commands(self, value: Any) -> None:
        """The framework's, when the group is made."""
        self._own = value


commands = typer.Typer(
    cls=_Group, no_args_is_help=True, help="Import models, show them, release them, roll them back."
)
samples = typer.Typer(cls=_Group, no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Mount the commands."""
    app.add_typer(commands, name="model", rich_help_panel="Models")
    registry.add_to(commands)
    app.command("retrain", rich_help_panel="Models")(registry.retrain)
    app.add_typer(samples, name="samples", rich_help_panel="Models")


# Without a callback typer takes a group without commands for no group.
@samples.callback()
def _samples() -> None:
    """Look at the samples of a retrainer on this host, label them, exchange them."""


@commands.command()
def show(folder: Folder) -> None:
    """Show a bundle's manifest; its digests are checked."""
    from edgebus.artifacts import Bundle

    print_bundle(Bundle.open(folder))


def print_bundle(bundle: Bundle) -> None:
    """Print what a bundle says of itself."""
    from edgebus.inspect import human_bytes

    manifest = bundle.manifest
    size = sum(entry.size for entry in bundle.index.files)
    tensors = [("input", item) for item in manifest.inputs]
    tensors += [("output", item) for item in manifest.outputs]
    rows = [
        ("model", f"{manifest.name} version {manifest.version} ({manifest.task})"),
        ("digest", bundle.digest),
        ("size", f"{human_bytes(size)} in {len(bundle.index.files)} files"),
        *((what, f"{item.name} {item.dtype} {_dims(item.shape)}") for what, item in tensors),
        *((key, _short(value)) for key, value in sorted(manifest.workload.items())),
        ("parent", manifest.parent or "none"),
        ("created", f"{manifest.created:%Y-%m-%d %H:%M:%S} UTC"),
        *((f"metric {key}", f"{value:.4f}") for key, value in sorted(manifest.metrics.items())),
    ]
    table(("", ""), rows)


def _dims(shape: tuple[int | None, ...]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape) or "scalar"


def _short(value: JsonValue) -> str:
    """A part of the manifest in one line, its lists cut."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items() if item != {})
    if isinstance(value, list):
        shown = ", ".join(str(item) for item in value[:12])
        return f"{len(value)}: {shown}" if len(value) > 3 else f"({shown})"
    return str(value)
