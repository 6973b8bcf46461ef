"""Targets of hostile input: a parser, and what may come out of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.util import Finalize
from pathlib import Path
from random import Random

__all__ = ["Target", "WrongError", "scratch_folder"]


class WrongError(AssertionError):
    """Something came out that must not: a case that found a fault."""


@dataclass(frozen=True, slots=True)
class Target:
    """One thing to attack.

    Attributes:
        name: For tables and for repeating a case.
        attack: Runs cases with choices of the given `Random` and tells how many were accepted;
            raises for whatever is neither accepted nor refused as it should be.
        share: How many of all cases it gets, compared with the others.
        cases: Cases per call of `attack`.
    """

    name: str
    attack: Callable[[Random], int]
    share: float = 1.0
    cases: int = 1


def scratch_folder() -> Path:
    """A folder for a target's files; it goes with the process, also with one of many."""
    folder = Path(tempfile.mkdtemp(prefix="edgebus-soak-"))
    Finalize(None, shutil.rmtree, args=(folder,), kwargs={"ignore_errors": True}, exitpriority=0)
    return folder
