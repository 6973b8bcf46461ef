"""What was measured of a round of the loop, and how it is told."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

__all__ = [
    "EDGES",
    "PACES",
    "SAMPLES",
    "LoopRound",
    "Upload",
    "plot_rounds",
    "report_of",
    "tables",
]

EDGES = 5
SAMPLES = 50
TARGET_BYTES = 1.5e6
TARGET_S = 2.0
FIRST_LOOP_BYTES = 30.1e6
"""What ACAI_Emulator sends for 50 images of 224 px: pickled float tensors (its own code, run)."""

PACES = {"steady": 5.0, "burst": 0.0}
"""Seconds from the other samples of a round to the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """What 50 samples of one script cost.

    Attributes:
        script: What the camera showed.
        width: Of the pictures, in pixels.
        height: The same.
        samples: How many were counted.
        wire: Bytes that the collector's connection carried up: MQTT packets of every kind.
        payload: Bytes of the samples' payloads among them.
        records: Bytes of the records inside those.
    """

    script: str
    width: int
    height: int
    samples: int
    wire: int
    payload: int
    records: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopRound:
    """One round.

    Attributes:
        pace: steady: the last sample comes a while after the others; burst: right behind them.
        whole_s: Last needed sample sent, to the last of five edges that serves the new digest; by
            the one steady clock of the process that sends and hears.
        training_s: Of that, the optimiser's steps, as the job says.
        job_s: Labels, training, gate and writing, as the job says.
        overhead_s: The whole without the training.
        without_gate_s: The whole without all of the job: what the plumbing costs.
        stages: Name and seconds, in order, to the last edge; they add up to the whole.
        told: The same as the services measured themselves, as far as they did.
    """

    pace: str
    whole_s: float
    training_s: float
    job_s: float
    stages: dict[str, float]
    told: dict[str, float] = field(default_factory=dict)

    @property
    def overhead_s(self) -> float:
        """The whole without the training."""
        return self.whole_s - self.training_s

    @property
    def without_gate_s(self) -> float:
        """The whole without all of the job."""
        return self.whole_s - self.job_s


def tables(uploads: Sequence[Upload], rounds: Sequence[LoopRound]) -> Iterator[Table]:
    """Bytes, seconds, and where these go."""
    table = Table("script", title=f"Upload for {SAMPLES} samples of 224 px")
    for heading in ("pixels", "MB on the wire", "MB payload", "MB records", "less than 30.1 MB"):
        table.add_column(heading, justify="right")
    for one in uploads:
        table.add_row(
            one.script, f"{one.width} x {one.height}", f"{one.wire / 1e6:.3f}",
            f"{one.payload / 1e6:.3f}", f"{one.records / 1e6:.3f}",
            f"{FIRST_LOOP_BYTES / one.wire:.0f}x",
            style="green" if one.wire <= TARGET_BYTES else "red",
        )  # fmt: skip
    yield table
    table = Table("pace", "what", title=f"Seconds until {EDGES} edges serve the new digest")
    for heading in ("rounds", "p50", "p99", "max"):
        table.add_column(heading, justify="right")
    for pace in PACES:
        mine = [one for one in rounds if one.pace == pace]
        for what, values in (
            ("without training", [one.overhead_s for one in mine]),
            ("without the whole job", [one.without_gate_s for one in mine]),
            ("all", [one.whole_s for one in mine]),
        ):
            p50, p99 = np.percentile(values, [50, 99])
            table.add_row(
                pace, what, str(len(mine)), f"{p50:.2f}", f"{p99:.2f}", f"{max(values):.2f}",
                style=_style(what, float(p99)),
            )  # fmt: skip
    yield table
    table = Table("stage", title="Median seconds of each stage, by stamps (as told by services)")
    names = list(dict.fromkeys(name for one in rounds for name in one.stages))
    for pace in PACES:
        table.add_column(pace, justify="right")
    for name in names:
        table.add_row(name, *(_median(rounds, pace, name) for pace in PACES))
    sums = [abs(sum(one.stages.values()) / one.whole_s - 1) for one in rounds]
    table.add_row("sum, off the whole by at most", f"{max(sums):.2%}", style="bold")
    yield table


def _style(what: str, p99: float) -> str | None:
    if what != "without training":
        return None
    return "green" if p99 <= TARGET_S else "red"


def _median(rounds: Sequence[LoopRound], pace: str, name: str) -> str:
    mine = [one for one in rounds if one.pace == pace]
    stamped = [one.stages[name] for one in mine if name in one.stages]
    told = [one.told[name] for one in mine if name in one.told]
    if not stamped:
        return ""
    words = f"{np.median(stamped):.3f}"
    return f"{words} ({np.median(told):.3f})" if told else words


def plot_rounds(rounds: Sequence[LoopRound], path: Path) -> None:
    """Every round as a bar of its stages, without the training."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = [n for n in dict.fromkeys(n for one in rounds for n in one.stages) if n != "training"]
    colors = mpl.colormaps["tab20"].colors  # type: ignore[attr-defined]
    figure, axis = plt.subplots(figsize=(9.6, 1.6 + 0.34 * len(rounds)))
    ordered = sorted(rounds, key=lambda one: list(PACES).index(one.pace))
    for row, one in enumerate(ordered):
        at = 0.0
        for name in names:
            seconds = max(0.0, one.stages.get(name, 0.0))
            axis.barh(
                row, seconds, left=at, height=0.7, color=colors[names.index(name)],
                label=name if row == 0 else None,
            )  # fmt: skip
            at += seconds
    axis.axvline(TARGET_S, color="k", lw=1, ls=":")
    axis.set_yticks(range(len(ordered)), [one.pace for one in ordered], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("seconds from the last needed sample to five edges, without the training")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="lower center", ncols=7, fontsize=7, frameon=False)
    figure.tight_layout(rect=(0, 0.5 / figure.get_figheight(), 1, 1))
    figure.savefig(path, dpi=130)
    plt.close(figure)


def report_of(uploads: Sequence[Upload], rounds: Sequence[LoopRound]) -> dict[str, Any]:
    """Everything that was measured, for `learning.json`."""
    return {
        "upload": [asdict(one) for one in uploads],
        "rounds": [
            asdict(one) | {"overhead_s": one.overhead_s, "without_gate_s": one.without_gate_s}
            for one in rounds
        ],
        "load": os.getloadavg()[0],
    }
