"""What a probe is and what it finds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from benchmarks._peers_driver import Stage

__all__ = ["Outcome", "Probe"]


@dataclass(frozen=True)
class Outcome:
    """Whether the promise holds, and what was observed."""

    passed: bool
    seen: str


@dataclass(frozen=True)
class Probe:
    """One requirement of docs/delivery.md, asked of an application from outside.

    Attributes:
        number: Of the requirement.
        title: What is probed.
        run: The probe.
        long: It mostly waits: it runs beside the others.
    """

    number: str
    title: str
    run: Callable[[Stage], Awaitable[Outcome]]
    long: bool = False
