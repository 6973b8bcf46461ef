"""The terminal: live view, plain lines, and the table at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from edgebus.contracts import DomainReport, TrainingProgress, utc_now
from edgebus.inspect import human_bytes
from edgebus.inspect.tables import FittedTable, Flow
from edgebus.lab.report import DOMAINS, shown_figures
from edgebus.lab.round_report import round_summary
from edgebus.lab.rounds import Round
from edgebus.lab.run_state import RunEvent, RunState, drifted_stream
from edgebus.lab.summary import Summary

Streams = Callable[[datetime], RenderableType]
"""Draws the middle of the view, a row per stream or edge, as it is now."""

Lines = Callable[[datetime], Iterable[str]]
"""The same as lines of text."""

_STAGES = ("watch", "drift", "collect", "train", "release", "converge")
_EVENTS = 20
"""The newest events that are shown, as many as there is height for."""
_STILL_S = 10.0
_SOURCE = 20
"""Names of sources are aligned as far as this."""
_FEWEST_EVENTS = 4
"""Lines that events keep, however many streams there are."""
_EVERY = timedelta(seconds=10)
_PARTS = 8
"""Sets with more parts than these list none."""
_STYLES = {
    "drift": "yellow",
    "release": "magenta",
    "swap": "green",
    "updated": "green",
    "converged": "bold green",
    "training": "blue",
    "failed": "bold red",
    "deadletter": "red",
}


def stage_of(state: RunState) -> int:
    """Index of the loop's stage that the run is in; ``len(_STAGES)`` when it is closed."""
    later = state.later_version is not None
    if later and state.edges and all(state.converged(e) for e in state.edges.values()):
        return 6
    if later:
        return 5
    if state.accepted:
        return 4
    if state.progress is not None:
        return 3
    if state.drift_at is not None:
        return 2 if state.samples else 1
    # By day some samples are drawn by share; where drift is not known they are its only sign.
    return 2 if state.samples and not state.drift_is_known else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """The whole view; the newest events take what height of the terminal the rest leaves.

    Attributes:
        state: Of the run.
        streams: The middle of the view.
        title: Name of the run.
        elapsed: Since its start.
        height: Lines of the screen; None: as many as it takes.
        waits: What the run waits for, and since when.
    """

    state: RunState
    streams: RenderableType
    title: str
    elapsed: timedelta
    height: int | None = None
    waits: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        minutes, seconds = divmod(int(self.elapsed.total_seconds()), 60)
        head = Table.grid(expand=True, padding=(0, 1))
        head.add_column(overflow="fold", ratio=1)
        head.add_column(justify="right", no_wrap=True)
        head.add_row(
            Text.assemble(("EdgeBus ", "bold"), (self.title, "cyan")), f"{minutes}:{seconds:02d}"
        )
        height = self.height

        def drawn(part: RenderableType) -> list[list[Segment]]:
            return console.render_lines(Padding(part, (0, 1)), options.update(height=None))

        above = drawn(Group(head, _stage_line(self.state)))
        middle, loop = drawn(self.streams), drawn(_loop(self.state, self.waits))
        fixed = len(above) + len(loop) + 1
        if height is not None and len(middle) > (room := max(2, height - fixed - _FEWEST_EVENTS)):
            hidden = Text(f"… {len(middle) - room + 1} more lines in a higher terminal", "dim")
            middle = [*middle[: room - 1], *drawn(hidden)]
        left = None if height is None else max(1, height - fixed - len(middle))
        events: list[list[Segment]] = []
        for event in reversed(_recent(self.state)):
            lines = drawn(event)
            if left is not None and len(events) + len(lines) > left:
                break
            events[:0] = lines
        for line in [*above, *middle, *loop, *drawn(Text("")), *events]:
            yield from line
            yield Segment.line()


def _stage_line(state: RunState) -> RenderableType:
    current = stage_of(state)
    parts: list[Text] = []
    for number, name in enumerate(_STAGES):
        if number == current:
            parts.append(Text(f"● {name}", "bold yellow"))
        elif number < current and (name != "drift" or state.drift_at is not None):
            parts.append(Text(f"✓ {name}", "green"))
        else:  # a loop may close without any drift that was noticed
            parts.append(Text(f"○ {name}", "dim"))
    return Flow(parts, gap=" ─ ")


def stream_table(state: RunState, now: datetime) -> RenderableType:
    """A row per stream, where streams are observed, and a row per service."""
    if not state.streams:
        return _services(state)
    table = FittedTable(("stream", "inputs", "rate", "latency", "samples", "model"), expand=True)
    for key, stream in sorted(state.streams.items()):
        latency = stream.latency_ms()
        table.add_row(
            key,
            str(stream.total),
            f"{stream.rate(now):.1f}/s",
            "" if latency is None else f"{latency:.0f} ms",
            str(state.samples.get(key, 0)),
            "" if stream.version is None else f"v{stream.version}",
        )
    return Group(table, Text(""), _services(state))


def _services(state: RunState) -> RenderableType:
    names = sorted({*state.services, *state.edges})
    if not names:
        return Text("waiting for the first service\n", "dim")
    table = FittedTable(
        ("service", "state", "model", "delivery", "received", "switch"), expand=True
    )
    for name in names:
        row = [name, state.services[name][-1].state if name in state.services else ""]
        if (edge := state.edges.get(name)) is not None:
            now = edge.now
            row += [
                "none" if now.serving is None else f"{now.serving.name} v{now.serving.version}",
                now.state,
                human_bytes(edge.received_bytes),
                "" if now.swap_ms is None else f"{now.swap_ms:.1f} ms",
            ]
        table.add_row(*row)
    return Padding(table, (0, 0, 1, 0))


def stream_lines(state: RunState, now: datetime) -> Iterable[str]:
    """A line per stream, and one per service that serves a model."""
    for key, stream in sorted(state.streams.items()):
        latency = stream.latency_ms()
        parts = [f"{stream.rate(now):.1f}/s"]
        parts += [] if latency is None else [f"{latency:.0f} ms"]
        parts += [] if stream.version is None else [f"v{stream.version}"]
        yield f"{key}: {', '.join([*parts, f'{state.samples.get(key, 0)} samples'])}"
    for name, edge in sorted(state.edges.items()):
        serving = edge.now.serving
        model = "no model" if serving is None else f"{serving.name} v{serving.version}"
        yield f"{name}: {model}, {edge.now.state}"


def _loop(state: RunState, waits: str) -> RenderableType:
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(width=8, style="bold")
    grid.add_column(ratio=1)
    grid.add_column(ratio=3, overflow="fold")
    if state.drift_watchers:
        grid.add_row("drift", *_drift(state))
    grid.add_row("samples", *_samples(state))
    grid.add_row("training", *_training(state))
    grid.add_row("roll-out", *_rollout(state))
    if not waits:
        return grid
    line = Table.grid(padding=(0, 2), expand=True)
    line.add_column(width=8, style="bold")
    line.add_column(ratio=1, overflow="fold")
    line.add_row("waits", waits)
    return Group(grid, line)


def _drift(state: RunState) -> tuple[RenderableType, RenderableType]:
    """What has drifted and not returned; a newer version learns anew what is normal to it."""
    newest = {(drifted_stream(drift), drift.statistic): drift for drift in state.drifts}
    away = [
        f"{stream} {name} {drift.before:.3g} to {drift.after:.3g} (v{drift.model.version})"
        for (stream, name), drift in sorted(newest.items())
        if not drift.returned
    ]
    count = sum(not drift.returned for drift in state.drifts)
    if not away:
        return "", Text(f"{count} noticed, over" if count else "none noticed", "dim")
    return "", Text(f"{count} noticed: {', '.join(away)}", "yellow")


def _samples(state: RunState) -> tuple[RenderableType, RenderableType]:
    size = human_bytes(sum(state.sample_bytes.values()))
    store = state.store
    if store is None or store.needed is None:
        return _bar(0), Text(f"{state.collected}, {size}", "" if state.samples else "dim")
    text = f"{store.untrained} of {store.needed} to train on; {state.collected}, {size}"
    return _bar(store.untrained / max(1, store.needed)), Text(text)


def _training(state: RunState) -> tuple[RenderableType, RenderableType]:
    progress = state.progress
    if progress is not None:
        loss = f", loss {progress.loss:.2f}" if progress.loss is not None else ""
        left = f", {progress.remaining_s:.0f} s left" if progress.remaining_s is not None else ""
        return _bar(progress.step / max(1, progress.steps)), Text(f"{_step(progress)}{loss}{left}")
    if not state.results:
        waits = state.store.trigger if state.store is not None else "waits for samples"
        return _bar(0), Text(waits, "dim")
    last = max(state.results.values(), key=lambda result: result.time)
    style = "green" if last.outcome == "accepted" else "red"
    return _bar(1), Text(f"{last.outcome}: {last.reason}", style)


def _rollout(state: RunState) -> tuple[RenderableType, RenderableType]:
    release = state.release
    if release is None or not state.edges:
        return _bar(0), Text("nothing released", "dim")
    text = Text(f"v{release.bundle.model.version}: ")
    if not any(state.followed(edge) is release for edge in state.edges.values()):
        text.append(f"no edge follows {release.bundle.model.name}", "red")
    shares: list[float] = []
    for name, edge in sorted(state.edges.items()):
        if state.followed(edge) is not release:
            continue
        done = state.converged(edge)
        shares.append(1.0 if done else edge.now.progress)
        shown = "serves" if done else edge.now.state
        style = "green" if done else "red" if shown == "failed" else "yellow"
        text.append(f"{name.partition('/')[0]} {shown}  ", style)
    return _bar(sum(shares) / max(1, len(shares))), text


def _bar(share: float) -> ProgressBar:
    return ProgressBar(
        total=1.0,
        completed=min(1.0, max(0.0, share)),
        complete_style="yellow",
        finished_style="green",
    )


def _recent(state: RunState) -> list[RenderableType]:
    """The newest events, oldest first; a long one takes several lines."""
    recent = sorted(state.events, key=lambda event: event.time)[-_EVENTS:]
    longest = max((cell_len(event.source) for event in recent), default=0)
    shown: list[RenderableType] = []
    for event in recent:
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(width=8, style="dim")
        grid.add_column(ratio=1, overflow="fold")
        source = event.source + " " * (min(longest, _SOURCE) - cell_len(event.source))
        text = Text.assemble((f"{source} ", "cyan"), (event.text, _STYLES.get(event.kind, "")))
        grid.add_row(event.time.strftime("%H:%M:%S"), text)
        shown.append(grid)
    return shown


class LiveView:
    """Redraws the view a few times a second, on an alternate screen."""

    def __init__(self, state: RunState, streams: Streams, *, title: str, console: Console) -> None:
        self._state, self._streams, self._title = state, streams, title
        self._started = utc_now()
        self._standstill = Standstill()
        self._live = Live(console=console, screen=True, auto_refresh=False, redirect_stderr=False)

    def __enter__(self) -> LiveView:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def show(self, event: RunEvent) -> None:
        """Events are part of the view."""

    def refresh(self, waits: str) -> None:
        """Draw it as it is now.

        Args:
            waits: What the run waits for.
        """
        now = utc_now()
        streams, elapsed = self._streams(now), now - self._started
        view = RunView(
            state=self._state,
            streams=streams,
            title=self._title,
            elapsed=elapsed,
            height=self._live.console.height,
            waits=self._standstill.text(waits, now),
        )
        self._live.update(view, refresh=True)


class PlainView:
    """One line per event, and one per stream every ten seconds, for logs and pipes."""

    def __init__(self, state: RunState, lines: Lines, *, echo: Callable[[str], None]) -> None:
        self._state, self._lines, self._echo = state, lines, echo
        self._last = utc_now()
        self._standstill = Standstill()

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *_: object) -> None: ...

    def show(self, event: RunEvent) -> None:
        """Print an event."""
        self._echo(f"{event.time.strftime('%H:%M:%S')} {event.source}: {event.text}")

    def refresh(self, waits: str) -> None:
        """Print the state of the streams and what the run waits for, when it is time.

        Args:
            waits: What the run waits for.
        """
        now = utc_now()
        waiting = self._standstill.text(waits, now)
        if now - self._last < _EVERY:
            return
        self._last = now
        lines = list(self._lines(now))
        if self._state.progress is not None:
            lines.append(f"training: {_step(self._state.progress)}")
        elif waiting:
            lines.append(f"waits: {waiting}")
        for text in lines:
            self._echo(f"{now.strftime('%H:%M:%S')} {text}")


class Standstill:
    """What a run waits for, and for how long nothing of it has changed."""

    def __init__(self) -> None:
        self._waits, self._since = "", utc_now()

    def text(self, waits: str, now: datetime) -> str:
        """In words, from ten seconds on with their number; empty where it waits for nothing."""
        if waits != self._waits:
            self._waits, self._since = waits, now
        elapsed = (now - self._since).total_seconds()
        since = f" (since {self._since.astimezone():%H:%M:%S}, {elapsed:.0f} s)"
        return waits + since if waits and elapsed >= _STILL_S else waits


def _step(progress: TrainingProgress) -> str:
    """The phase, and how far it is once it has begun to count."""
    return (
        f"{progress.phase} {progress.step}/{progress.steps}" if progress.steps else progress.phase
    )


def gate_table(domains: Sequence[DomainReport]) -> RenderableType:
    """Figures of the retrainer's gate, old model and new on the same inputs."""
    names = shown_figures(domains)
    measures = [word for n in names for word in (f"{n} before", f"{n} after")]
    table = FittedTable(("held-out sets, measured by the gate", "inputs", "labels", *measures))
    for domain in domains:
        title = Text(f"{DOMAINS.get(domain.name, domain.name)}, labels: ", "bold")
        title.append(domain.labelled_by or "unknown", "not bold")
        cells: list[RenderableType] = []
        for name in names:
            change = domain.figures.get(name)
            better = 0.0 if change is None else domain.better(name, change)
            style = "green" if better > 0 else "red" if better < 0 else ""
            cells += (
                ["", ""]
                if change is None
                else [f"{change.before:.3f}", Text(f"{change.after:.3f}", style)]
            )
        table.add_row(title, str(domain.items), str(domain.labels), *cells)
        for kind, parts in domain.groups.items():
            for part, change in parts.items() if kind != "stream" and len(parts) <= _PARTS else ():
                row = ("", "", f"{change.before:.3f}", f"{change.after:.3f}")
                table.add_row(Text(part, "dim", justify="right"), *row, style="dim")
    return Padding(table, (0, 0, 1, 0))


def drift_text(summary: Summary) -> str:
    """What the drift detectors noticed, in words; empty where nothing watched."""
    told = [drift for drift in summary.drifts if not drift.returned]
    if not told:
        return "none noticed" if summary.drift_watched else ""
    first = {(drift.stream, drift.statistic): drift for drift in reversed(told)}
    each = [
        f"{stream}: {name} {drift.before:.3g} to {drift.after:.3g}, "
        f"{(drift.noticed - drift.since).total_seconds():.0f} s after it began"
        for (stream, name), drift in sorted(first.items())
    ]
    return f"{len(told)} noticed; " + "; ".join(each[:_PARTS])


def summary_table(
    summary: Summary,
    rounds: Sequence[Round] = (),
    *,
    above: Sequence[RenderableType] = (),
    rows: Mapping[str, str] | None = None,
) -> RenderableType:
    """Outcome, edges, bytes, time and rounds of a run.

    Args:
        summary: Its figures.
        rounds: Its rounds of learning.
        above: A workload's own tables; without any, the figures of the gate.
        rows: A workload's own rows, by name.
    """
    if not above and (job := summary.judged) is not None and job.gate is not None:
        above = [gate_table(job.gate.domains)]
    seconds = summary.seconds
    stages = [f"{name} {value:.0f} s" for name, value in seconds.stages.items()]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("outcome", Text(summary.outcome, "bold green" if summary.closed else "bold red"))
    grid.add_row("edges", f"{summary.edges.converged} of {summary.edges.total} on the last release")
    for name, text in (rows or {}).items():
        grid.add_row(name, text)
    grid.add_row(
        "bytes", f"{human_bytes(summary.bytes.up)} up, {human_bytes(summary.bytes.down)} down"
    )
    if drift := drift_text(summary):
        grid.add_row("drift", drift)
    grid.add_row("seconds", f"{seconds.total:.0f}: " + ", ".join(stages))
    for one in rounds:
        grid.add_row("round", round_summary(one))
    return Group(*above, grid)
