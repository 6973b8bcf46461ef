"""A disk that is full: the path and the way out are named, and nothing half-written stays."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from artifact_examples import CLASSES, tiny_file
from edgebus.cli.errors import describe
from edgebus.files import check_room, new_folder, write_file, write_folder, writing
from program import clean_environment


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_error_of_the_disk_names_the_path_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", _full)
    target = tmp_path / "a.json"
    target_folder = tmp_path / "new" / "b"
    for write in (
        lambda: write_file(target, b"x"),
        lambda: write_folder(target_folder, {"a": b"x"}),
    ):
        with pytest.raises(OSError) as error:
            write()
        said = describe(error.value)
        assert said.startswith(str(tmp_path))
        assert ".part" not in said
        assert "No space left on device; make room there" in said
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_there_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    write_file(path, b"old")
    monkeypatch.setattr(os, "fsync", _full)
    with pytest.raises(OSError):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_that_were_made_for_it_go_too_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(OSError), writing(tmp_path / "x"), new_folder(tmp_path / "mine" / "a" / "b"):
        _full()
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]


def test_a_run_is_not_begun_where_it_cannot_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")(2**30, 2**30, 3 * 2**20)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError) as error:
        check_room(tmp_path / "not" / "there", least=64 * 2**20)
    said = describe(error.value)
    assert said.startswith(f"{tmp_path}/not/there: No space left on device: 3 MB free")
    assert "make room there" in said


@pytest.mark.parametrize(
    ("number", "way"),
    [
        (errno.EDQUOT, "make room there"),
        (errno.EROFS, "can be written"),
        (errno.EACCES, "may read and write"),
    ],
)
def test_other_troubles_of_a_place_have_a_way_out_too(number: int, way: str) -> None:
    assert way in describe(OSError(number, os.strerror(number), "/data/x"))


def _limited() -> None:
    # Every file of this process ends here, as on a disk without room.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


@pytest.mark.parametrize(
    "command",
    [
        ("model", "import", "{model}", "--classes", "{classes}", "--out", "{out}/sub/bundle"),
        ("schema", "export", "{out}/schemas"),
    ],
)
def test_a_command_says_where_and_leaves_nothing(tmp_path: Path, command: tuple[str, ...]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    model, classes = tiny_file(tmp_path), tmp_path / "names.txt"
    classes.write_text("\n".join(CLASSES))
    words = [word.format(model=model, classes=classes, out=out) for word in command]
    done = subprocess.run(
        [sys.executable, "-m", "edgebus.cli", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env=clean_environment(PYTHONDONTWRITEBYTECODE="1"),
        preexec_fn=_limited,
    )
    said = " ".join(done.stderr.split())
    assert done.returncode == 1, done.stderr
    assert f"edgebus: {words[-1]}" in said
    assert "File too large; name a place" in said
    left = [item for item in out.rglob("*") if item.is_file() and item.stat().st_size > 1000]
    assert left == []
    assert not list(out.rglob("*.part"))
    if command[0] == "model":
        assert list(out.iterdir()) == []
