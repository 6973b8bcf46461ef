"""The telemetry service: listens to all, and writes it down on one clock."""

from __future__ import annotations

import asyncio

from edgebus.bus import Event
from edgebus.contracts import (
    Metrics,
    ModelStatus,
    RolloutStatus,
    ServiceState,
    TrainingResult,
    topics,
)
from edgebus.service import Service, every, on
from edgebus_detection.messages import DETECTIONS, Detections
from edgebus_telemetry import points, rows
from edgebus_telemetry.csvfiles import CsvTable
from edgebus_telemetry.influx import ClientSink, InfluxSink, InfluxWriter, PointBuffer
from edgebus_telemetry.settings import TelemetrySettings

__all__ = ["Telemetry"]


class Telemetry(Service[TelemetrySettings]):
    """Writes states, metrics, detections and results to CSV files and to InfluxDB."""

    name = "telemetry"

    async def start(self) -> None:
        """Open the tables; InfluxDB need not be there."""
        self._tables: dict[str, CsvTable] = {}
        csv = self.settings.csv
        if csv is not None:
            folder = csv.folder or self.data_dir / "csv"
            self._tables = {
                name: CsvTable(folder, name, columns, max_bytes=csv.max_bytes, keep=csv.keep)
                for name, columns in rows.TABLES.items()
            }
            self.log.info("writing CSV files", folder=str(folder))
        self._buffer: PointBuffer | None = None
        self._writer: InfluxWriter | None = None
        influx = self.settings.influx
        if influx is not None:
            self._buffer = PointBuffer(influx.buffer)
            self._writer = InfluxWriter(
                self._buffer,
                self.make_sink(),
                batch=influx.batch,
                retry_cap_s=influx.retry_cap_s,
            )
            self.log.info("writing to InfluxDB", url=influx.url, bucket=influx.bucket)
        self._trouble = ""
        self._disk_trouble = ""
        self._writing = asyncio.Lock()

    def make_sink(self) -> InfluxSink:
        """Where batches of points go."""
        if self.settings.influx is None:
            msg = "no InfluxDB is configured; set telemetry.influx.url"
            raise ValueError(msg)
        return ClientSink(self.settings.influx)

    async def stop(self) -> None:
        """Write what waits; what InfluxDB does not take now is lost, and counted in the log."""
        await self._write_tables()
        if self._writer is not None and self._buffer is not None:
            await self._writer.flush(now=0.0, patient=False)
            await self._writer.close()
            if len(self._buffer):
                self.log.warning("points lost, InfluxDB is away", points=len(self._buffer))

    @on(DETECTIONS)
    async def detections(self, event: Event[Detections]) -> None:
        """One answered frame."""
        self._row("detections", rows.detection_row(event.received, event.names, event.payload))
        if self._buffer is not None:
            self._buffer.add(points.detection_point(event.names, event.payload))

    @on(topics.SERVICE_STATE)
    async def state(self, event: Event[ServiceState]) -> None:
        """A service's state."""
        await self._event("states", rows.state_row(event.received, event.names, event.payload))
        if self._buffer is not None:
            self._buffer.add(points.state_point(event.names, event.received, event.payload))

    @on(topics.SERVICE_METRICS)
    async def service_metrics(self, event: Event[Metrics]) -> None:
        """A service's counters, CPU and memory."""
        for row in rows.metrics_row(event.received, event.names, event.payload):
            self._row("metrics", row)
        if self._buffer is not None:
            self._buffer.add(points.metrics_point(event.names, event.payload))

    @on(topics.MODEL_STATUS)
    async def model(self, event: Event[ModelStatus]) -> None:
        """What an edge serves."""
        await self._event("models", rows.model_row(event.received, event.names, event.payload))
        if self._buffer is not None:
            self._buffer.add(points.model_point(event.names, event.payload))

    @on(topics.ROLLOUT)
    async def rollout(self, event: Event[RolloutStatus]) -> None:
        """How far a release has come."""
        who = _with_service(event.names, "distributor")
        await self._event("rollouts", rows.rollout_row(event.received, who, event.payload))
        if self._buffer is not None:
            self._buffer.add(points.rollout_point(who, event.payload))

    @on(topics.TRAINING_RESULT)
    async def training(self, event: Event[TrainingResult]) -> None:
        """How a training job ended."""
        who = _with_service(event.names, "retrainer")
        await self._event("trainings", rows.training_row(event.received, who, event.payload))
        if self._buffer is not None:
            self._buffer.add(points.training_point(who, event.payload))

    @every(seconds="flush_s")
    async def flush(self) -> None:
        """Write what has come in."""
        await self._write_tables()
        if self._writer is not None and self._buffer is not None:
            await self._writer.flush(now=asyncio.get_running_loop().time())
            stats = self._writer.stats
            self.metrics.gauge("influx.waiting", len(self._buffer))
            self.metrics.gauge("influx.dropped", self._buffer.dropped)
            self.metrics.gauge("influx.written", stats.written)
            self.metrics.gauge("influx.refused", stats.refused)
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

    def _row(self, table: str, row: list[str]) -> None:
        if self._tables:
            self._tables[table].add(row)

    async def _event(self, table: str, row: list[str]) -> None:
        """An event is on disk before it is acknowledged; they are few."""
        if self._tables:
            self._tables[table].add(row)
            await self._write(table)


def _with_service(names: dict[str, str], service: str) -> dict[str, str]:
    return names if "service" in names else names | {"service": service}
