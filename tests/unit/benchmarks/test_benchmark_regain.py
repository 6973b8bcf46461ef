"""The arithmetic of what the loop regains, and what is written down when."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import _learning_regain_report as report_module
from benchmarks._learning_regain import Outcome, arms_of, summarise
from benchmarks._learning_regain_report import (
    Plan,
    measure_regain,
    plot_regain,
    regain_table,
    report_of,
    seeds_table,
)
from benchmarks._learning_worlds import car_park_camera, infrared_split, make_world
from edgebus.contracts import split_of


def outcome(
    arm: str, before: float, after: float, *, seed: int = 0, lost: float = 0.0, passed: bool = True
) -> Outcome:
    return Outcome(
        script="dusk",
        seed=seed,
        arm=arm,
        outcome="offline" if arm == "offline" else "accepted" if passed else "refused",
        reason="",
        frames=100,
        samples=40,
        steps=200,
        seconds=1.0,
        new={
            "pictures": 30, "boxes": 60, "map50_before": before, "map50_after": after,
            "map_before": before / 2, "map_after": after / 2,
        },
        old={
            "pictures": 30, "boxes": 60, "map50_before": 0.9, "map50_after": 0.9 - lost,
            "map_before": 0.5, "map_after": 0.5,
        },
    )  # fmt: skip


def test_a_share_is_of_all_gains_together_so_that_a_seed_with_little_to_gain_weighs_little() -> (
    None
):
    rows = [
        outcome("true labels", 0.2, 0.8, seed=0, lost=0.01),
        outcome("true labels", 0.7, 0.7, seed=1, lost=0.03, passed=False),
        outcome("offline", 0.2, 0.8, seed=0),
        outcome("offline", 0.7, 0.8, seed=1),
    ]
    loop, offline = summarise(rows)
    assert loop.share == pytest.approx(0.6 / 0.7)
    assert loop.share_each == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-9))
    assert loop.share_map == pytest.approx(0.6 / 0.7)
    assert loop.level == pytest.approx(0.75 / 0.8)
    assert (loop.lost, loop.lost_most) == (pytest.approx(0.02), pytest.approx(0.03))
    assert (loop.accepted, loop.seeds) == (1, 2)
    assert offline.share == 1.0


def test_without_an_offline_gain_there_is_no_share_and_without_its_run_no_line() -> None:
    worse = [outcome("true labels", 0.8, 0.9), outcome("offline", 0.8, 0.7)]
    assert summarise(worse)[0].share is None
    assert summarise([outcome("true labels", 0.8, 0.9)]) == []


def test_the_emulated_street_has_no_teacher() -> None:
    assert arms_of("dusk") == ("true labels", "offline")
    assert arms_of("car park") == ("true labels", "teacher", "offline")


def test_a_run_that_is_taken_up_keeps_what_is_written_and_tables_hold_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(scripts=("dusk",), seeds=(0,), data=None, out=tmp_path, resume=True)
    folder = tmp_path / "regain"
    folder.mkdir()
    rows = [outcome("true labels", 0.2, 0.8), outcome("offline", 0.2, 0.9)]
    for row, name in zip(rows, ("dusk-0-true-labels", "dusk-0-offline"), strict=True):
        (folder / f"{name}.json").write_text(json.dumps({"outcome": asdict(row)}))
    # Nothing is to be run, so nothing may be prepared either.
    monkeypatch.delattr(report_module, "prepare")
    found = measure_regain(plan, echo=pytest.fail)
    assert found == rows
    assert regain_table(found).row_count == seeds_table(found).row_count == 2
    assert report_of(found)["summary"][0]["share"] == pytest.approx(6 / 7)
    plot_regain(found, tmp_path / "regain.png")
    assert (tmp_path / "regain.png").stat().st_size > 5000


def test_a_world_on_recordings_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs the folder of the test data: --data"):
        make_world("infrared", seed=0, data=None, work=tmp_path, frames=tmp_path, quick=True)


def test_frames_keep_blocks_of_the_recording_apart() -> None:
    # Three seeds hold out three of the four blocks in turn: no frame is judged twice.
    held = [
        {index for index in range(0, 459, 3) if split_of(car_park_camera(seed), index) == "holdout"}
        for seed in range(3)
    ]
    assert not held[0] & held[1]
    assert not held[1] & held[2]
    assert not held[0] & held[2]


def test_three_seeds_hold_out_each_infrared_picture_once() -> None:
    names = [f"{number:02}" for number in range(44)]
    parts = [infrared_split(names, seed) for seed in range(3)]
    assert sorted(name for held, _ in parts for name in held) == names
    for held, rest in parts:
        assert not set(held) & set(rest)
        assert sorted(held + rest) == names
    assert infrared_split(names, 102)[0] not in [held for held, _ in parts]
