"""Content of the heartbeat: figures of the service, of its bus and of the host."""

from __future__ import annotations

import time
from itertools import islice

from edgebus.bus import BusStats
from edgebus.contracts import Metrics
from edgebus.contracts.control import MOST_FIGURES
from edgebus.service.host import HostSampler
from edgebus.service.metrics import MetricsRegistry

_LONGEST_NAME = 200
_LARGEST = 1e15


class Vitals:
    """Makes the metrics messages of one service.

    Args:
        metrics: The service's own figures.
    """

    def __init__(self, metrics: MetricsRegistry) -> None:
        self._metrics = metrics
        self._host = HostSampler()
        self._born = time.monotonic()

    def message(self, *, session: int, stats: BusStats) -> Metrics:
        """Everything at this moment."""
        own = self._metrics.snapshot()
        counters, gauges = bus_figures(stats)
        use = self._host.sample()
        return Metrics(
            session=session,
            uptime_s=time.monotonic() - self._born,
            counters=_bounded(counters | own.counters),
            gauges=_bounded(gauges | own.gauges),
            cpu_percent=use.cpu_percent,
            rss_bytes=use.rss_bytes,
            host_cpu_percent=use.host_cpu_percent,
            host_memory_percent=use.host_memory_percent,
        )


def _bounded(figures: dict[str, float]) -> dict[str, float]:
    """Figures as a message can carry them: names and values come from inputs too."""
    return {
        name[:_LONGEST_NAME]: min(max(value, -_LARGEST), _LARGEST)
        for name, value in islice(figures.items(), MOST_FIGURES)
    }


def bus_figures(stats: BusStats) -> tuple[dict[str, float], dict[str, float]]:
    """The bus's counters and gauges, all named ``bus.…``.

    Sums over the subscriptions, and what one subscription dropped or failed on under its name.
    """
    lines = stats.subscriptions
    counters: dict[str, float] = {
        "bus.published": stats.published,
        "bus.published_bytes": stats.published_bytes,
        "bus.received": stats.received,
        "bus.received_bytes": stats.received_bytes,
        "bus.offline_dropped": stats.offline_dropped,
        "bus.refused": stats.refused,
        "bus.outbox_dropped": stats.outbox_dropped,
        "bus.dead_letters": stats.dead_letters,
        "bus.dead_letters_suppressed": stats.dead_letters_suppressed,
        "bus.reconnects": max(0, stats.connects - 1),
        "bus.handled": sum(line.handled for line in lines.values()),
        "bus.dropped": sum(line.dropped for line in lines.values()),
        "bus.retried": sum(line.retried for line in lines.values()),
        "bus.duplicates": sum(line.duplicates for line in lines.values()),
    }
    for name, line in lines.items():
        if line.dropped:
            counters[f"bus.dropped.{name}"] = line.dropped
        if line.failed or line.invalid:
            counters[f"bus.dead_letters.{name}"] = line.failed + line.invalid
    gauges: dict[str, float] = {
        "bus.queued": sum(line.queued for line in lines.values()),
        "bus.queued_bytes": sum(line.queued_bytes for line in lines.values()),
        "bus.active": sum(line.active for line in lines.values()),
        "bus.outbox": stats.outbox_messages,
        "bus.outbox_bytes": stats.outbox_bytes,
    }
    return counters, gauges
