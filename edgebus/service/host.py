"""Use of the host by a process, from psutil."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil

_SHORTEST_S = 0.5


@dataclass(frozen=True, slots=True)
class HostUse:
    """One sample.

    Attributes:
        cpu_percent: Of one core, by this process, since the last sample.
        rss_bytes: Resident memory of this process.
        host_cpu_percent: Of all cores, by everybody, since the last sample.
        host_memory_percent: Of the host's memory, by everybody.
    """

    cpu_percent: float
    rss_bytes: int
    host_cpu_percent: float
    host_memory_percent: float


class HostSampler:
    """Samples CPU and memory; the first sample covers the time since construction."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._most = 100.0 * (psutil.cpu_count() or 1)
        self._process.cpu_percent()
        psutil.cpu_percent()
        self._measured, self._cpu, self._host_cpu = time.monotonic(), 0.0, 0.0

    def sample(self) -> HostUse:
        """CPU since the last call, memory now; calls in quick succession have the same CPU."""
        # Clocks of processes tick in hundredths: over less, one tick is thousands of percent.
        if (now := time.monotonic()) - self._measured >= _SHORTEST_S:
            self._measured = now
            self._cpu = min(self._most, max(0.0, self._process.cpu_percent()))
            self._host_cpu = min(100.0, max(0.0, psutil.cpu_percent()))
        return HostUse(
            cpu_percent=self._cpu,
            rss_bytes=self._process.memory_info().rss,
            host_cpu_percent=self._host_cpu,
            host_memory_percent=psutil.virtual_memory().percent,
        )


def process_alive(pid: int) -> bool:
    """True while a process of this host runs (a zombie does not)."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
