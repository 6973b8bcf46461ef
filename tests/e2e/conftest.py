"""Readers of guides, each in a fresh environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from guides import ROOT, Environment, Reader, build_wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def follow(wheel: Path, tmp_path: Path) -> Iterator[Callable[[str], Reader]]:
    """Makes a reader of a guide, in an environment of its own."""
    readers: list[Reader] = []

    def make(name: str) -> Reader:
        environment = Environment(tmp_path / "environment", wheel)
        reader = Reader(ROOT / "docs" / "guides" / name, tmp_path / "work", environment.variables)
        readers.append(reader)
        return reader

    yield make
    for reader in readers:
        reader.close()
