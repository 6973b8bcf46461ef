"""The live view in a terminal; plain lines where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from edgebus.contracts import TrainingProgress, utc_now
from edgebus_detection.lab.frames import CameraTrack, severity_of
from edgebus_detection.lab.report import human_size
from edgebus_detection.lab.run_state import LogLine, Tracker

__all__ = ["LiveView", "PlainView", "render", "sparkline"]

_STAGES = ("watch", "drift", "collect", "train", "release", "converge")
_BARS = "▁▂▃▄▅▆▇█"
_LINES = 8
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


def sparkline(values: Sequence[float], *, width: int = 20) -> str:
    """Values between 0 and 1 as a row of bars, newest right."""
    recent = values[-width:]
    return "".join(_BARS[min(7, max(0, int(value * 8)))] for value in recent)


def stage_of(tracker: Tracker) -> int:
    """Index of the loop's stage that the run is in; ``len(_STAGES)`` when it is closed."""
    release = tracker.release
    first = [tracker.first_version(camera) for camera in tracker.cameras.values()]
    start = min((version for version in first if version is not None), default=None)
    later = release is not None and start is not None and release.bundle.model.version > start
    if later and tracker.edges and all(tracker.converged(e) for e in tracker.edges.values()):
        return 6
    if later:
        return 5
    if any(result.outcome == "accepted" for result in tracker.results.values()):
        return 4
    if tracker.progress is not None:
        return 3
    if tracker.drift_at is not None:
        return 2 if tracker.samples else 1
    # By day some samples are drawn by share; without ground truth nobody knows of a drift.
    knows = any(camera.condition for camera in tracker.cameras.values())
    return 2 if tracker.samples and not knows else 0


def render(tracker: Tracker, *, title: str, elapsed: timedelta, now: datetime) -> RenderableType:
    """The whole view, as it is now."""
    minutes, seconds = divmod(int(elapsed.total_seconds()), 60)
    head = Table.grid(expand=True)
    head.add_column()
    head.add_column(justify="right")
    head.add_row(
        Text.assemble(("EdgeBus ", "bold"), (title, "cyan")), Text(f"{minutes}:{seconds:02d}")
    )
    parts = [head, _stage_line(stage_of(tracker)), _cameras(tracker, now), _loop(tracker)]
    recent = sorted(tracker.lines, key=lambda line: line.time)[-_LINES:]
    lines = [_event(line) for line in recent]
    lines += [Text("")] * (_LINES - len(lines))
    return Padding(Group(*parts, Text(""), *lines), (0, 1))


def _stage_line(current: int) -> Text:
    line = Text()
    for number, name in enumerate(_STAGES):
        if number:
            line.append(" ─ ", "dim")
        if number < current:
            line.append(f"✓ {name}", "green")
        elif number == current:
            line.append(f"● {name}", "bold yellow")
        else:
            line.append(f"○ {name}", "dim")
    return line


def _cameras(tracker: Tracker, now: datetime) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, padding=(0, 1))
    table.add_column("camera", no_wrap=True)
    table.add_column("condition", no_wrap=True)
    for name in ("fps", "latency", "dropped", "samples", "model", "AP50"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, min_width=20, ratio=1, overflow="crop")
    if not tracker.cameras:
        table.add_row(Text("waiting for the first frame", "dim"))
    for key, camera in sorted(tracker.cameras.items()):
        latency = camera.latency_ms()
        value = camera.rolling.value
        table.add_row(
            key,
            _condition(camera),
            f"{camera.fps(now):.1f}",
            "" if latency is None else f"{latency:.0f} ms",
            str(camera.dropped),
            str(tracker.samples.get(key, 0)),
            "" if camera.version is None else f"v{camera.version}",
            "" if value is None else Text(f"{value:.2f}", _grade(value)),
            Text(_history(camera), "cyan"),
        )
    return table


def _history(camera: CameraTrack, *, width: int = 20) -> str:
    """The whole run's accuracy in `width` bars."""
    values = [value for _, value, _ in camera.history]
    step = max(1, -(-len(values) // width))
    return sparkline(values[::-1][::step][::-1], width=width)


def _condition(camera: CameraTrack) -> Text:
    severity = severity_of(camera.effects)
    if severity <= 0:
        return Text(camera.condition or "unknown", "" if camera.condition else "dim")
    return Text(f"{camera.condition} {severity:.0%}", "yellow")


def _grade(value: float) -> str:
    return "green" if value >= 0.75 else "yellow" if value >= 0.5 else "red"


def _loop(tracker: Tracker) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=10, style="bold")
    grid.add_column(width=24)
    grid.add_column()
    grid.add_row("samples", *_samples(tracker))
    grid.add_row("training", *_training(tracker))
    grid.add_row("roll-out", *_rollout(tracker))
    return grid


def _samples(tracker: Tracker) -> tuple[RenderableType, RenderableType]:
    sent = sum(tracker.samples.values())
    size = human_size(sum(tracker.sample_bytes.values()))
    store = tracker.store
    if store is None or store.needed is None:
        return _bar(0), Text(f"{sent} collected, {size}", "dim" if not sent else "")
    words = f"{store.untrained} of {store.needed} to train on; {sent} collected, {size}"
    return _bar(store.untrained / max(1, store.needed)), Text(words)


def _training(tracker: Tracker) -> tuple[RenderableType, RenderableType]:
    progress = tracker.progress
    if progress is not None:
        loss = f", loss {progress.loss:.2f}" if progress.loss is not None else ""
        left = f", {progress.remaining_s:.0f} s left" if progress.remaining_s is not None else ""
        words = f"{_step(progress)}{loss}{left}"
        return _bar(progress.step / max(1, progress.steps)), Text(words)
    if not tracker.results:
        waits = tracker.store.trigger if tracker.store is not None else "waits for samples"
        return _bar(0), Text(waits, "dim")
    last = max(tracker.results.values(), key=lambda result: result.time)
    style = "green" if last.outcome == "accepted" else "red"
    return _bar(1), Text(f"{last.outcome}: {last.reason}", style, overflow="ellipsis", no_wrap=True)


def _rollout(tracker: Tracker) -> tuple[RenderableType, RenderableType]:
    release = tracker.release
    if release is None or not tracker.edges:
        return _bar(0), Text("nothing released", "dim")
    words = Text(f"v{release.bundle.model.version}: ")
    shares: list[float] = []
    for name, edge in sorted(tracker.edges.items()):
        done = tracker.converged(edge)
        shares.append(1.0 if done else edge.now.progress)
        state = "serves" if done else edge.now.state
        style = "green" if done else "red" if state == "failed" else "yellow"
        words.append(f"{name.partition('/')[0]} {state}  ", style)
    return _bar(sum(shares) / len(shares)), words


def _bar(share: float) -> ProgressBar:
    return ProgressBar(
        total=1.0,
        completed=min(1.0, max(0.0, share)),
        width=24,
        complete_style="yellow",
        finished_style="green",
    )


def _event(line: LogLine) -> Text:
    return Text.assemble(
        (line.time.strftime("%H:%M:%S "), "dim"),
        (f"{line.source:<20.20} ", "cyan"),
        (line.text, _STYLES.get(line.kind, "")),
        overflow="ellipsis",
        no_wrap=True,
    )


class LiveView:
    """Redraws the view a few times a second, on an alternate screen."""

    def __init__(self, tracker: Tracker, *, title: str, console: Console) -> None:
        self._tracker = tracker
        self._title = title
        self._started = utc_now()
        self._live = Live(console=console, screen=True, auto_refresh=False, redirect_stderr=False)

    def __enter__(self) -> LiveView:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def line(self, line: LogLine) -> None:
        """Events are part of the view."""

    def refresh(self) -> None:
        """Draw it as it is now."""
        now = utc_now()
        view = render(self._tracker, title=self._title, elapsed=now - self._started, now=now)
        self._live.update(view, refresh=True)


class PlainView:
    """One line per event, and one per camera every ten seconds, for logs and pipes."""

    def __init__(
        self, tracker: Tracker, *, echo: Callable[[str], None], every_s: float = 10.0
    ) -> None:
        self._tracker = tracker
        self._echo = echo
        self._every = timedelta(seconds=every_s)
        self._last = utc_now()

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *_: object) -> None: ...

    def line(self, line: LogLine) -> None:
        """Print an event."""
        self._echo(f"{line.time.strftime('%H:%M:%S')} {line.source}: {line.text}")

    def refresh(self) -> None:
        """Print where the cameras are, when it is time."""
        now = utc_now()
        if now - self._last < self._every:
            return
        self._last = now
        for text in status_lines(self._tracker, now):
            self._echo(f"{now.strftime('%H:%M:%S')} {text}")


def status_lines(tracker: Tracker, now: datetime) -> Iterable[str]:
    """One line per camera, and one for the loop."""
    for key, camera in sorted(tracker.cameras.items()):
        latency, value = camera.latency_ms(), camera.rolling.value
        words = [f"{camera.fps(now):.1f} fps"]
        if latency is not None:
            words.append(f"{latency:.0f} ms")
        if camera.version is not None:
            words.append(f"v{camera.version}")
        if value is not None:
            words.append(f"AP50 {value:.2f}")
        words.append(f"{tracker.samples.get(key, 0)} samples")
        yield f"{key}: {', '.join(words)}"
    if tracker.progress is not None:
        yield f"training: {_step(tracker.progress)}"


def _step(progress: TrainingProgress) -> str:
    """The phase, and how far it is once it has begun to count."""
    return (
        f"{progress.phase} {progress.step}/{progress.steps}" if progress.steps else progress.phase
    )
