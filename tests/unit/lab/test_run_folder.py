from __future__ import annotations

from pathlib import Path

from edgebus.lab.run import make_run_folder


def test_run_folders_never_meet_and_latest_follows(tmp_path: Path) -> None:
    first = make_run_folder(tmp_path, name="demo")
    second = make_run_folder(tmp_path, name="demo")
    assert first != second
    assert (tmp_path / "latest").resolve() == second.resolve()
