"""The run folder: CSV files, `summary.json` and a `report.html` in one file."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from edgebus.contracts import DomainReport, rfc3339
from edgebus.files import csv_cells
from edgebus.inspect import human_bytes
from edgebus.lab.round_report import (
    ROUND_COLUMNS,
    Shown,
    clock_skew,
    data_uri,
    plot_rounds,
    round_rows,
    round_summary,
)
from edgebus.lab.run_state import RunState
from edgebus.lab.summary import DriftSummary, Summary

DOMAINS = {"new": "what the streams show now", "old": "what the model knew before"}
"""Titles of the gate's domains."""

_FEW = 12
"""Sets with more parts than these list none."""

_TEMPLATE = Path(__file__).with_name("report.html.j2")


def write_run(
    state: RunState, summary: Summary, folder: Path, *, template: Path | None = None, **values: Any
) -> list[Path]:
    """Write the files of a run.

    Args:
        state: Of the run.
        summary: Its figures.
        folder: The run folder.
        template: A workload's own report, which extends ``report.html.j2``.
        values: What that template needs.

    Returns:
        The files, the report first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(summary.to_json())
    write_csv(
        folder / "events.csv",
        ("time", "source", "kind", "text"),
        (
            (rfc3339(event.time), event.source, event.kind, event.text)
            for event in sorted(state.events, key=lambda event: event.time)
        ),
    )
    rounds = state.rounds.all(since=summary.started)
    write_csv(folder / "rounds.csv", ROUND_COLUMNS, round_rows(rounds, state.rounds))
    bars = plot_rounds(rounds, folder / "rounds.png")
    report = folder / "report.html"
    page = render_report(
        state, summary, template=template, bars=bars, cards=find_cards(folder), **values
    )
    report.write_text(page, encoding="utf-8")
    names = ("summary.json", "rounds.png", "events.csv", "rounds.csv")
    return [report, *(folder / name for name in names if (folder / name).exists())]


def render_report(
    state: RunState,
    summary: Summary,
    *,
    template: Path | None = None,
    bars: Shown | None = None,
    cards: Sequence[Card] = (),
    **values: Any,
) -> str:
    """The report as one HTML file: no script, nothing loaded from anywhere."""
    import jinja2

    template = template or _TEMPLATE
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, _TEMPLATE.parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        figure=_figure, percent=_percent, size=human_bytes, clock=_clock, seconds=_seconds, ms=_ms
    )
    rounds = state.rounds.all(since=summary.started)
    judged, stages = summary.judged, summary.seconds.stages
    whole = sum(stages.values()) or 1.0
    events = sorted(state.events, key=lambda event: event.time)
    return environment.get_template(template.name).render(
        summary=summary,
        judged=judged,
        titles=DOMAINS,
        gate=_gate_table(judged.gate.domains) if judged and judged.gate else None,
        training=_training_table(summary),
        drift_rows=[_drift_row(drift) for drift in summary.drifts],
        stages=[(name, value, 100 * value / whole) for name, value in stages.items()],
        bars=bars,
        cards=cards,
        rounds=rounds,
        round_summary=round_summary,
        skew=clock_skew(rounds),
        event_rows=[
            (_clock(event.time), event.source, event.kind, event.text)
            for event in events
            if event.kind != "state"
        ][-200:],
        state_rows=[
            (_clock(event.time), event.source, event.text)
            for event in events
            if event.kind == "state"
        ][-200:],
        **values,
    )


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table of the report; the rows numbered in `totals` are sums."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    totals: Sequence[int] = ()


def _gate_table(domains: Sequence[DomainReport]) -> ReportTable:
    """The gate's domains, each followed by its groups where they are few."""
    names = shown_figures(domains)
    rows: list[tuple[object, ...]] = []
    totals = []
    for domain in domains:
        totals.append(len(rows))
        figures = [domain.figures[name] for name in names]
        both = [_figure(value) for change in figures for value in (change.before, change.after)]
        title = DOMAINS.get(domain.name, domain.name)
        rows.append((title, domain.labelled_by or "unknown", domain.items, domain.labels, *both))
        blank = [""] * (len(both) - 2)
        rows += [
            (part, "", "", "", _figure(change.before), _figure(change.after), *blank)
            for kind, members in domain.groups.items()
            if kind != "stream" and len(members) <= _FEW
            for part, change in members.items()
        ]
    columns = ["set", "labelled by", "inputs", "labels"]
    columns += [f"{name} {when}" for name in names for when in ("before", "after")]
    return ReportTable(columns, rows, totals)


def _training_table(summary: Summary) -> ReportTable:
    """The jobs, a row for each set that was measured."""
    rows: list[tuple[object, ...]] = []
    for job in summary.trainings:
        head = (job.job[-8:], job.outcome, job.samples, job.replay, human_bytes(job.update_bytes))
        domains = job.gate.domains if job.gate else ()
        rows += [
            (
                *head, each.name, each.items, each.deciding,
                _figure(each.decision.before), _figure(each.decision.after), "",
            )
            for each in domains
        ]  # fmt: skip
        if not domains:
            rows.append((*head, "", "", "", "", "", job.reason))
    columns = ("job", "outcome", "new samples", "replay", "update", "held-out set", "inputs")
    return ReportTable((*columns, "figure", "before", "after", "reason"), rows)


def _drift_row(drift: DriftSummary) -> tuple[object, ...]:
    late = (drift.noticed - drift.since).total_seconds()
    return (
        _clock(drift.noticed), drift.stream, drift.statistic, f"{drift.before:.3g}",
        f"{drift.after:.3g}", _seconds(late), "back to normal" if drift.returned else "drift",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Card:
    """The model card of a version that a job of the run has made.

    Attributes:
        name: Model and version.
        text: For people.
        link: The same as a file, from the run's folder.
        curves: The course of the training.
    """

    name: str
    text: str
    link: str
    curves: Shown | None


def find_cards(folder: Path) -> list[Card]:
    """The model cards that retrainers have left in a run's folder."""
    found = []
    for place in sorted(folder.glob("data/*/*/cards/*/")):
        texts, curves = sorted(place.glob("*.md")), sorted(place.glob("*.svg"))
        if texts:
            drawn = Shown(data_uri(curves[0])) if curves else None
            link = texts[0].relative_to(folder).as_posix()
            found.append(Card(place.name, texts[0].read_text(encoding="utf-8"), link, drawn))
    return found


def shown_figures(domains: Sequence[DomainReport]) -> list[str]:
    """Names of the gate's figures that are shown: the deciding one and the next."""
    names = dict.fromkeys(name for each in domains for name in (each.deciding, *each.figures))
    return list(names)[:2]


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file with a header."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(map(csv_cells, rows))


def _figure(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value * 100:.0f} %"


def _seconds(value: float | None) -> str:
    if value is None:
        return "n/a"
    return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def _ms(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f} ms"


def _clock(value: datetime) -> str:
    return value.strftime("%H:%M:%S.%f")[:-3]
