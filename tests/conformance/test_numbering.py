"""Every promise in docs/delivery.md has a test with its number, and the other way round."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "delivery.md"


def test_every_requirement_is_tested_and_every_test_has_a_requirement() -> None:
    promised = {
        number.lower() for number in re.findall(r"^- \*\*([A-Z]\d+)\*\*", PAGE.read_text(), re.M)
    }
    tested = set()
    for file in HERE.glob("test_*.py"):
        tested |= set(re.findall(r"^async def test_([a-z]\d+)_", file.read_text(), re.M))
    assert promised == tested
    assert len(promised) > 30
