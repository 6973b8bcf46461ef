"""Progress of a job on the bus, a few times per second at most."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from edgebus.bus import Bus
from edgebus.contracts import Identity, TrainingProgress, topics
from edgebus.training.job_spec import JobEvent, JobOutcome, Phase, PhaseName, StepDone
from edgebus.training.journal import Job

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

_INTERVAL_S = 0.5


class ProgressPublisher:
    """Turns a job's events into progress messages.

    Args:
        bus: The bus.
        identity: Who publishes.
        job: What is done.
        log: A logger; phases are logged.
    """

    def __init__(
        self,
        bus: Bus,
        identity: Identity,
        *,
        job: Job,
        log: FilteringBoundLogger,
    ) -> None:
        self._bus = bus
        self._identity = identity
        self._address = topics.TRAINING_PROGRESS.at(identity, job=job.id)
        self._job = job
        self._log = log
        self._began = self._phase_began = time.monotonic()
        self._published = float("-inf")
        self._phase: PhaseName = "preparing"
        self.first: float | None = None
        """When the job's process reported first, on the steady clock."""
        self.last: float | None = None
        """When it reported its outcome."""

    async def publish(self, event: JobEvent) -> None:
        """Publish an event, or leave it out where the last one is too recent."""
        now = time.monotonic()
        if self.first is None:
            self.first = now
        if isinstance(event, JobOutcome):
            self.last = now
            return
        if isinstance(event, Phase):
            if event.phase != self._phase:
                self._phase_began = now
            self._phase = event.phase
            self._log.info("job phase", job=self._job.id, phase=event.phase, detail=event.detail)
            await self._publish(StepDone(step=0, steps=0), now)
        elif now - self._published >= _INTERVAL_S or event.step == event.steps:
            await self._publish(event, now)

    async def _publish(self, step: StepDone, now: float) -> None:
        self._published = now
        remaining = None
        if step.step:
            remaining = (now - self._phase_began) / step.step * (step.steps - step.step)
        progress = TrainingProgress(
            job=self._job.id,
            model=self._job.base,
            stream_model=self._job.stream_model,
            why=self._job.why,
            phase=self._phase,
            step=step.step,
            steps=step.steps,
            loss=step.loss,
            seconds=round(now - self._began, 3),
            remaining_s=None if remaining is None else round(max(0.0, remaining), 3),
        )
        await self._bus.publish(self._address, progress)
