"""SQLite files that cannot be used: one line with the path and the way out, and the file stays."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgebus.database import DatabaseUnusableError
from edgebus.samples import open_database as open_samples
from edgebus_distributor.tables import open_database as open_registry


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[::97] = b"\xa5" * len(data[::97])
    path.write_bytes(data)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        _flip,
        _folder,
        lambda path: os.truncate(path, path.stat().st_size // 2),
        lambda path: path.write_bytes(b"no database\n" * 100),
    ],
    ids=["bits", "folder", "cut", "foreign"],
)
@pytest.mark.parametrize("opener", [open_samples, open_registry])
def test_a_damaged_file_is_named_and_left_as_it_is(
    tmp_path: Path, opener: Callable[[Path], object], damage: Callable[[Path], object]
) -> None:
    path = tmp_path / "some.db"
    opener(path).dispose()  # type: ignore[attr-defined]
    for more in tmp_path.glob("some.db-*"):
        more.unlink()
    damage(path)
    before = None if path.is_dir() else path.read_bytes()
    words = r"some\.db: .*move the (file|folder) away"
    with pytest.raises(DatabaseUnusableError, match=words) as caught:
        opener(path)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert before is None or path.read_bytes() == before


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnusableError, match="unable to open"):
        open_samples(tmp_path / "nowhere" / "some.db")
