"""Runs all cells of the regain benchmark, each at once in its own file; tables and a plot."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog
from rich.table import Table

from benchmarks._learning_regain import (
    ARMS,
    TARGET_LOST,
    TARGET_SHARE,
    Outcome,
    Summary,
    arms_of,
    run_arm,
    summarise,
)
from benchmarks._learning_settings import prepare
from benchmarks._learning_worlds import WORLDS, make_world

__all__ = [
    "Plan",
    "measure_regain",
    "plot_regain",
    "regain_table",
    "report_of",
    "seeds_table",
]

_QUICK_STEPS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run.

    Attributes:
        scripts: Names of `WORLDS`.
        seeds: Of each script.
        data: Folder of the test data; dusk needs none.
        out: Each cell's figures go to ``{out}/regain/{script}-{seed}-{arm}.json`` when it is done.
        quick: Few steps and frames: shows that it runs, not what it is worth.
        resume: Cells that are there are not run again.
        workers: Cells at a time, one thread each.
    """

    scripts: Sequence[str]
    seeds: Sequence[int]
    data: Path | None
    out: Path
    quick: bool = False
    resume: bool = False
    workers: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cell:
    script: str
    seed: int
    arm: str

    def file(self, plan: Plan) -> Path:
        name = f"{self.script}-{self.seed}-{self.arm}{'-quick' if plan.quick else ''}.json"
        return plan.out / "regain" / name.replace(" ", "-")


def measure_regain(plan: Plan, *, echo: Callable[[str], None]) -> list[Outcome]:
    """Run every cell that has to be; returns all, in order.

    Args:
        plan: What to run.
        echo: Told of each cell that is done.
    """
    (plan.out / "regain").mkdir(parents=True, exist_ok=True)
    cells = [
        _Cell(script=script, seed=seed, arm=arm)
        for script in plan.scripts
        for seed in plan.seeds
        for arm in arms_of(script)
    ]
    missing = [cell for cell in cells if not (plan.resume and cell.file(plan).is_file())]
    if missing:
        needs_data = any(WORLDS[cell.script][0] for cell in missing)
        prepare(plan.out / "regain" / "shared", data=plan.data if needs_data else None)
        # The longest first, or the last worker runs alone for minutes.
        missing.sort(key=lambda cell: (cell.script == "dusk", cell.arm != "offline"))
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(plan.workers, mp_context=context) as pool:
            running = {pool.submit(_run, cell, plan): cell for cell in missing}
            for done in as_completed(running):
                one = done.result()
                echo(
                    f"{one.script}, seed {one.seed}, {one.arm}: mAP50 "
                    f"{one.new['map50_before']:.3f} -> {one.new['map50_after']:.3f}, old domain "
                    f"{one.old['map50_before']:.3f} -> {one.old['map50_after']:.3f}, "
                    f"{one.outcome}, {one.seconds:.0f} s"
                )
    return [Outcome(**json.loads(cell.file(plan).read_text())["outcome"]) for cell in cells]


def _run(cell: _Cell, plan: Plan) -> Outcome:
    """One cell, in a process of its own."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    file = cell.file(plan)
    work = file.with_suffix("")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    world = make_world(
        cell.script,
        seed=cell.seed,
        data=plan.data,
        work=plan.out / "regain" / "shared",
        frames=work / "frames",
        quick=plan.quick,
    )
    steps = {"steps": _QUICK_STEPS} if plan.quick else None
    outcome = run_arm(world, cell.arm, seed=cell.seed, work=work, train=steps)
    shutil.rmtree(work)
    document = {"outcome": asdict(outcome), "load": os.getloadavg()[0], "cores": os.cpu_count()}
    part = file.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1) + "\n")
    part.rename(file)
    return outcome


def regain_table(outcomes: Sequence[Outcome]) -> Table:
    """Scripts and arms: what was regained, and what it cost."""
    table = Table(
        title=f"Regained on held-out frames, means of the seeds (targets: at least "
        f"{TARGET_SHARE:.0%} of what offline regains, at most {TARGET_LOST:.2f} lost)"
    )
    for heading in ("script", "loop with"):
        table.add_column(heading)
    for heading in (
        "mAP50\nbefore -> after", "mAP\nbefore -> after", "share of the\noffline gain, mAP50",
        "each seed", "mAP", "of offline's\nmAP50", "old domain lost\nmean, most", "accepted",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for one in summarise(outcomes):
        table.add_row(
            one.script,
            one.arm,
            f"{one.before:.3f} -> {one.after:.3f}",
            f"{one.map_before:.3f} -> {one.map_after:.3f}",
            _percent(one.share),
            ", ".join(_percent(share) for share in one.share_each),
            _percent(one.share_map),
            _percent(one.level),
            f"{one.lost:+.3f}, {one.lost_most:+.3f}",
            "" if one.arm == "offline" else f"{one.accepted} of {one.seeds}",
        )
    return table


def seeds_table(outcomes: Sequence[Outcome]) -> Table:
    """Every cell."""
    table = Table(title="Each seed")
    for heading in ("script", "seed", "arm"):
        table.add_column(heading)
    for heading in (
        "trained on", "steps", "held out: frames, boxes", "mAP50", "mAP", "old: boxes", "mAP50",
        "mAP", "outcome",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for row in outcomes:
        new, old = row.new, row.old
        table.add_row(
            row.script,
            str(row.seed),
            row.arm,
            f"{row.samples} of {row.frames}",
            str(row.steps),
            f"{new['pictures']:.0f}, {new['boxes']:.0f}",
            _change(new, "map50"),
            _change(new, "map"),
            f"{old['boxes']:.0f}",
            _change(old, "map50"),
            _change(old, "map"),
            row.outcome,
        )
    return table


def plot_regain(outcomes: Sequence[Outcome], out: Path) -> None:
    """mAP50 before and after each arm on the new domain and the old, a panel per script."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    scripts = list(dict.fromkeys(row.script for row in outcomes))
    figure, panels = plt.subplots(
        1, len(scripts), figsize=(3.9 * len(scripts), 3.6), sharey=True, squeeze=False
    )
    for panel, script in zip(panels[0], scripts, strict=True):
        bars = list(_bars([row for row in outcomes if row.script == script]))
        for shift, domain, colour in ((-0.2, 0, "C0"), (0.2, 1, "0.6")):
            words = ("new domain, held out", "old domain")[domain]
            for number, (_, values) in enumerate(bars):
                mean = sum(values[domain]) / len(values[domain])
                label = words if number == 0 else None
                panel.bar(number + shift, mean, 0.38, color=colour, label=label)
                panel.plot(
                    [number + shift] * len(values[domain]), values[domain], "k.", ms=4, alpha=0.7
                )
                panel.annotate(
                    f"{mean:.2f}", (number + shift, 0.02), ha="center", fontsize=7, color="w"
                )
        panel.set_xticks(range(len(bars)), [name for name, _ in bars], fontsize=8)
        panel.set_title(script)
        panel.grid(axis="y", alpha=0.2)
    panels[0][0].set_ylabel("mAP50; dots: seeds")
    panels[0][0].set_ylim(0, 1)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=2, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(out, dpi=130)
    plt.close(figure)


def _bars(rows: Sequence[Outcome]) -> Iterator[tuple[str, tuple[list[float], list[float]]]]:
    first = [row for row in rows if row.arm == "offline"]
    yield "before", tuple([d["map50_before"] for d in part] for part in _domains(first))  # type: ignore[misc]
    for arm in ARMS:
        mine = [row for row in rows if row.arm == arm]
        if mine:
            name = "offline" if arm == "offline" else f"loop,\n{arm}"
            yield name, tuple([d["map50_after"] for d in part] for part in _domains(mine))  # type: ignore[misc]


def _domains(rows: Sequence[Outcome]) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    return [row.new for row in rows], [row.old for row in rows]


def report_of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Everything, as JSON holds it."""
    summaries: list[Summary] = summarise(outcomes)
    return {"cells": [asdict(row) for row in outcomes], "summary": [asdict(s) for s in summaries]}


def _change(figures: dict[str, float], name: str) -> str:
    return f"{figures[f'{name}_before']:.3f} -> {figures[f'{name}_after']:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
