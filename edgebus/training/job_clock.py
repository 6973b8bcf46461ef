"""Seconds of a job per phase."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from edgebus.training.job_spec import JobEvent, Phase, PhaseName

Report = Callable[[JobEvent], None]


@dataclass(slots=True)
class JobClock:
    """Reports phases and adds up their seconds."""

    report: Report
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: PhaseName, detail: str = "") -> Iterator[None]:
        """A phase of the job; entered twice, its seconds add up."""
        self.report(Phase(phase=name, detail=detail))
        began = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - began
            self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 3)
