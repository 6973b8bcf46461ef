"""Three brokers that are one: any of them may die."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgebus.lab import EmbeddedCluster


def test_an_even_number_of_nodes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="take 3 or 5"):
        EmbeddedCluster(tmp_path, size=4)
