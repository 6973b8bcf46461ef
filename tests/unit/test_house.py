"""The rules of the house that no type checker and no import linter knows."""

import re
from pathlib import Path

import pytest

import edgebus

HOUSE = Path(edgebus.__file__).parent
# What a framework that knows no picture has no word for; a workload has.
FOREIGN = re.compile(r"\b(box|boxes|jpeg|camera|detector|map50)\b", re.IGNORECASE)
TEXTS = {".py", ".j2", ".md", ".yaml", ".html", ".css", ".js"}


def rooms() -> list[str]:
    return sorted(
        path.name if path.is_dir() else path.stem
        for path in HOUSE.iterdir()
        if (path.is_dir() and path.name != "__pycache__") or path.suffix == ".py"
    )


def foreign_words(room: str) -> list[str]:
    place = HOUSE / room
    files = sorted(place.rglob("*")) if place.is_dir() else [HOUSE / f"{room}.py"]
    return [
        f"{path.relative_to(HOUSE)}:{number}: {line.strip()}"
        for path in files
        if path.suffix in TEXTS
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if FOREIGN.search(line)
    ]


@pytest.mark.parametrize("room", rooms())
def test_the_framework_knows_no_picture(room: str) -> None:
    found = foreign_words(room)
    assert not found, "\n".join(found)
