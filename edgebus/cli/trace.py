"""`edgebus trace`: path of one input, from its source to the model that learnt from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgebus.cli.console import note, output

if TYPE_CHECKING:
    from rich.tree import Tree

    from edgebus.inspect.path import Hop


def add_to(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("trace", rich_help_panel="Look")(trace)


def trace(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="Id, or its beginning or end.")],
    *,
    recording: Annotated[
        Path, typer.Option("--recording", "-r", metavar="IN.mcap", help="Made by edgebus record.")
    ],
) -> None:
    """Print the path of one input: predictions, sample, training run, release, edges that serve it.

    Times are from the moment the input was taken, by the clocks of those who sent.

    Example: edgebus trace 3f2a90bc --recording drift.mcap
    """
    from rich.tree import Tree

    from edgebus.inspect.path import follow
    from edgebus.recording import Recording

    source = Recording(recording)
    hop = follow(source, identifier)
    tree = Tree(_line(hop, hop))
    _grow(tree, hop, hop)
    output().print(tree)
    if source.trouble is not None:
        note(f"{recording} is not whole: {source.trouble}")


def _grow(tree: Tree, hop: Hop, start: Hop) -> None:
    for after in hop.next:
        _grow(tree.add(_line(after, start)), after, start)


def _line(hop: Hop, start: Hop) -> Any:
    from rich.text import Text

    from edgebus.inspect import printable

    line = Text()
    line.append(f"{hop.kind:<12}", style="bold")
    line.append(f"{_after(hop, start):>12}  ", style="cyan")
    line.append(printable(str(hop.body.get("source", ""))), style="dim")
    words = printable(_phrase(hop))
    line.append(f"  {words}" if words else "")
    return line


def _after(hop: Hop, start: Hop) -> str:
    from edgebus.contracts.peek import instant_of

    taken = instant_of(start.body.get("captured"))
    begun = start.time if taken is None else round(taken.timestamp() * 1e9)
    seconds = (hop.time - begun) / 1e9
    if abs(seconds) < 1:
        return f"+{seconds * 1000:.1f} ms"
    minutes, rest = divmod(seconds, 60)
    return f"+{int(minutes)}:{rest:06.3f}" if minutes else f"+{seconds:.3f} s"


def _phrase(hop: Hop) -> str:
    """A message in a few words: by whoever knows its kind."""
    from edgebus.contracts import STRANGE
    from edgebus.workload import installed_workloads

    if (own := _WORDS.get(hop.kind)) is not None:
        return own(hop.body)
    if "split" in hop.body and "policy" in hop.body:
        return f"{hop.body['split']}, {hop.body['policy']}: {hop.body.get('reason')}"
    for workload in installed_workloads():
        try:
            phrase = workload.phrase(hop.kind, hop.body)
        except STRANGE:  # a stranger's code, about bytes that may be anything
            continue
        if phrase:
            return phrase
    return ""


def _training(body: dict[str, Any]) -> str:
    made = f" as {_model(body['candidate'])}" if body.get("candidate") else ""
    return f"{body.get('outcome')}{made}, {body.get('samples')} samples: {body.get('reason')}"


def _candidate(body: dict[str, Any]) -> str:
    return _model(body.get("bundle", {}).get("model"))


def _release(body: dict[str, Any]) -> str:
    return f"{_candidate(body)} to {body.get('channel')}, sequence {body.get('sequence')}"


def _status(body: dict[str, Any]) -> str:
    return f"{body.get('state')}, serves {_model(body.get('serving'))}"


def _model(reference: Any) -> str:
    if not isinstance(reference, dict):
        return "no model"
    return f"{reference.get('name')} v{reference.get('version')}"


_WORDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "training": _training,
    "candidate": _candidate,
    "release": _release,
    "modelstatus": _status,
}
