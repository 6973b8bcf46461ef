"""Points to InfluxDB: buffered within bounds, and sent again while it is away."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edgebus_telemetry.series import Point
from edgebus_telemetry.settings import InfluxSettings


class InfluxAwayError(RuntimeError):
    """InfluxDB does not take writes now; the same write may succeed later."""


class PointsRefusedError(RuntimeError):
    """InfluxDB says that these points are wrong; sending them again changes nothing."""


class InfluxSink(Protocol):
    """Destination of batches."""

    def write(self, points: Sequence[Point]) -> None:
        """Write a batch. Blocking.

        Raises:
            InfluxAwayError: Try again later.
            PointsRefusedError: Never try these again.
        """
        ...

    def close(self) -> None:
        """Let the connection go."""
        ...


class PointBuffer:
    """Points that wait, oldest first; beyond its size the oldest are dropped and counted."""

    def __init__(self, size: int) -> None:
        self._points: deque[Point] = deque()
        self._size = size
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._points)

    def add(self, point: Point) -> None:
        """Take a point in."""
        self._points.append(point)
        if len(self._points) > self._size:
            self._points.popleft()
            self.dropped += 1

    def take(self, most: int) -> list[Point]:
        """Take the oldest points out."""
        return [self._points.popleft() for _ in range(min(most, len(self._points)))]

    def put_back(self, points: Sequence[Point]) -> None:
        """Points that could not be sent; the oldest of all, so the first to be dropped."""
        self._points.extendleft(reversed(points))
        while len(self._points) > self._size:
            self._points.popleft()
            self.dropped += 1


@dataclass(slots=True)
class WriterStats:
    """Counts of points by what became of them."""

    written: int = 0
    refused: int = 0
    failures: int = 0


class InfluxWriter:
    """Empties a buffer into InfluxDB; `flush` is called at an interval, and never raises.

    Args:
        buffer: Where the points wait.
        sink: Where they go.
        batch: Most points per write.
        retry_cap_s: Longest pause while InfluxDB is away.
    """

    def __init__(
        self, buffer: PointBuffer, sink: InfluxSink, *, batch: int, retry_cap_s: float
    ) -> None:
        self.stats = WriterStats()
        self.trouble = ""
        self.buffer = buffer
        self._sink = sink
        self._batch = batch
        self._retry_cap_s = retry_cap_s
        self._rest_until = 0.0

    async def flush(self, *, now: float, patient: bool = True) -> None:
        """Write what waits, unless InfluxDB was away a moment ago.

        Args:
            now: Seconds on a monotonic clock.
            patient: Keep the pause after a failure; without it, try at once.
        """
        if patient and now < self._rest_until:
            return
        while len(self.buffer):
            points = self.buffer.take(self._batch)
            try:
                await asyncio.to_thread(self._sink.write, points)
            except InfluxAwayError as error:
                self.buffer.put_back(points)
                self.stats.failures += 1
                self.trouble = str(error)
                pause = min(self._retry_cap_s, 0.5 * 2.0 ** min(16, self.stats.failures))
                # Full jitter: many sites must not come back at once. No secret hangs on it.
                self._rest_until = now + random.uniform(0, pause)
                return
            except PointsRefusedError as error:
                self.stats.refused += len(points)
                self.trouble = str(error)
            else:
                self.stats.written += len(points)
                self.stats.failures = 0
                self.trouble = ""

    async def close(self) -> None:
        """Let the connection go."""
        await asyncio.to_thread(self._sink.close)


class ClientSink:
    """InfluxDB through influxdb-client."""

    def __init__(self, settings: InfluxSettings) -> None:
        from influxdb_client.client.influxdb_client import InfluxDBClient
        from influxdb_client.client.write_api import SYNCHRONOUS

        self._bucket = settings.bucket
        self._client = InfluxDBClient(
            url=settings.url,
            token=settings.token.get_secret_value(),
            org=settings.org,
            timeout=round(settings.timeout_s * 1000),
        )
        # Its batching mode retries in threads of its own, without a bound that we could count.
        self._api = self._client.write_api(write_options=SYNCHRONOUS)

    def write(self, points: Sequence[Point]) -> None:
        """Write a batch; see `InfluxSink`."""
        from influxdb_client.domain.write_precision import WritePrecision
        from influxdb_client.rest import ApiException
        from urllib3.exceptions import HTTPError

        try:
            records = [
                {
                    "measurement": point.measurement,
                    "time": point.time,
                    "tags": dict(point.tags),
                    "fields": dict(point.fields),
                }
                for point in points
            ]
            # The client types the constants of WritePrecision as str.
            precision: WritePrecision = WritePrecision.US  # type: ignore[assignment]
            self._api.write(self._bucket, record=records, write_precision=precision)
        except ApiException as error:
            reason = f"InfluxDB answered {error.status}: {_reason(error)}"
            # 400 and 422: malformed points, or a field of another type than before.
            if error.status in {400, 413, 422}:
                raise PointsRefusedError(reason) from error
            raise InfluxAwayError(reason) from error
        except (HTTPError, OSError) as error:
            reason = f"InfluxDB does not answer: {type(error).__name__}"
            raise InfluxAwayError(reason) from error

    def close(self) -> None:
        """Let the connection go."""
        self._api.close()  # type: ignore[no-untyped-call]
        self._client.close()  # type: ignore[no-untyped-call]


def _reason(error: Exception) -> str:
    text = getattr(error, "message", None) or getattr(error, "reason", None) or str(error)
    return " ".join(str(text).split())[:200]
