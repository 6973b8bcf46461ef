"""Telemetry service: every message of a site, written on one clock."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from edgebus.bus import Event
from edgebus.contracts import CommandTopic, DeadLetter, Message, Reply, Topic
from edgebus.contracts.registry import all_topics
from edgebus.service import Service, every
from edgebus.workload import Figure, installed_workloads
from edgebus_telemetry.csvfiles import CsvTable
from edgebus_telemetry.influx import ClientSink, InfluxWriter, PointBuffer
from edgebus_telemetry.series import series_of
from edgebus_telemetry.settings import TelemetrySettings


def _worth_writing(topic: Topic[Any]) -> bool:
    """Whether a topic carries JSON messages other than letters, commands and replies."""
    return (
        issubclass(topic.payload, Message)
        and not issubclass(topic.payload, DeadLetter | Reply)
        and not isinstance(topic, CommandTopic)
    )


_ROWS_PER_MINUTE = 60_000  # of one table and device: a thousand messages per second
_METRICS_PER_MINUTE = 20_000  # rows of heartbeats, which have hundreds each


class Telemetry(Service[TelemetrySettings]):
    """Writes every message of a site to CSV files and to InfluxDB, bytes with a record aside."""

    name = "telemetry"
    subscribes = tuple(topic for topic in all_topics().values() if _worth_writing(topic))

    async def start(self) -> None:
        """Open the tables and listen; InfluxDB need not be there."""
        wanted = [
            topic
            for topic in self.subscribes
            if topic.payload.schema_id().partition("/")[0] not in self.settings.leave_out
        ]
        figures: dict[str, dict[str, Figure]] = {}
        for workload in installed_workloads():
            figures |= {schema: dict(more) for schema, more in workload.figures.items()}
        self._series = series_of(wanted, figures)
        self._events = {topic.payload for topic in wanted if topic.qos}
        self._tables: dict[str, CsvTable] = {}
        csv = self.settings.csv
        if csv is not None:
            folder = csv.folder or self.data_dir / "csv"
            self._tables = {
                one.table: CsvTable(
                    folder, one.table, one.columns, max_bytes=csv.max_bytes, keep=csv.keep
                )
                for one in self._series.values()
            }
            self.log.info("writing CSV files", folder=str(folder))
        self._writer: InfluxWriter | None = None
        influx = self.settings.influx
        if influx is not None:
            self._writer = InfluxWriter(
                PointBuffer(influx.buffer),
                ClientSink(influx),
                batch=influx.batch,
                retry_cap_s=influx.retry_cap_s,
            )
            self.log.info("writing to InfluxDB", url=influx.url, bucket=influx.bucket)
        self._trouble = ""
        self._disk_trouble = ""
        self._writing = asyncio.Lock()
        # Rows of the present minute, by table and device: none may push out what others have sent.
        self._rows: Counter[tuple[str, str]] = Counter()
        self._flooding: set[str] = set()
        for topic in wanted:
            where = topic.any(base=self.identity.base, site=self.identity.site)
            await self.bus.subscribe(where, self._hear, name=topic.pattern)

    async def stop(self) -> None:
        """Write what waits; what InfluxDB does not take now is lost, and counted in the log."""
        await self._write_tables()
        if self._writer is not None:
            await self._writer.flush(now=0.0, patient=False)
            await self._writer.close()
            if lost := len(self._writer.buffer):
                self.log.warning("points lost, InfluxDB is away", points=lost)

    async def _hear(self, event: Event[Any]) -> None:
        """Any message: an event is on disk before it is acknowledged; they are few."""
        series = self._series[type(event.payload)]
        if self._writer is not None:
            self._writer.buffer.add(series.point(event))
        if not self._tables:
            return
        rows, node = series.rows(event), event.names["node"]
        used = self._rows[series.table, node] = self._rows[series.table, node] + len(rows)
        if used > (_METRICS_PER_MINUTE if len(rows) > 1 else _ROWS_PER_MINUTE):
            self.metrics.counter("csv.left_out_rows", len(rows))
            if node not in self._flooding:
                self._flooding.add(node)
                self.log.warning("a device floods", node=node, table=series.table, rows=used)
            return
        for row in rows:
            self._tables[series.table].add(row)
        if type(event.payload) in self._events:
            await self._write(series.table)

    @every(seconds=60.0)
    async def forget_floods(self) -> None:
        """Begin to count the rows of each device anew."""
        self._rows.clear()
        self._flooding.clear()

    @every(seconds="flush_s")
    async def flush(self) -> None:
        """Write what has come in."""
        await self._write_tables()
        if self._writer is not None:
            await self._writer.flush(now=asyncio.get_running_loop().time())
            stats, buffer = self._writer.stats, self._writer.buffer
            self.metrics.gauge("influx.waiting", len(buffer))
            self.metrics.gauge("influx.dropped", buffer.dropped)
            self.metrics.gauge("influx.written", stats.written)
            self.metrics.gauge("influx.refused", stats.refused)
        self.metrics.gauge("figures.failed", sum(one.failed for one in self._series.values()))
        await self._tell_trouble()

    async def _write_tables(self) -> None:
        self._disk_trouble = ""
        for name in self._tables:
            await self._write(name)

    async def _write(self, name: str) -> None:
        """Write the waiting rows of a table; rows that a full disk refuses are lost, counted."""
        table = self._tables[name]
        async with self._writing:
            waiting, data = table.waiting, table.take()
            try:
                size = await asyncio.to_thread(table.write, data)
            except OSError as error:
                self.metrics.counter("csv.lost_rows", waiting)
                self._disk_trouble = f"cannot write {table.path}: {error.strerror}"
                return
        self.metrics.counter(f"csv.{name}.rows", waiting)
        self.metrics.counter("csv.bytes", size)

    async def _tell_trouble(self) -> None:
        """Announce a change for the worse or the better, once."""
        influx = self._writer.trouble if self._writer else ""
        trouble = "; ".join(part for part in (self._disk_trouble, influx) if part)
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble:
            self.log.warning("telemetry degraded", reason=trouble)
            await self.set_state("degraded", trouble)
        else:
            self.log.info("telemetry writes again")
            await self.set_state("ready")
