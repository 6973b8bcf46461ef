from __future__ import annotations

from collections.abc import Sequence

from edgebus_telemetry.influx import (
    InfluxAwayError,
    InfluxWriter,
    PointBuffer,
    PointsRefusedError,
)
from edgebus_telemetry.series import Point
from lab_story import at


def point(number: int) -> Point:
    return Point("m", at(number), {}, {"number": number})


class Sink:
    """Takes batches, or fails as told."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.error: Exception | None = None
        self.calls = 0

    def write(self, points: Sequence[Point]) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error
        self.batches.append([int(point.fields["number"]) for point in points])

    def close(self) -> None:
        self.error = RuntimeError("closed")


def writer(
    sink: Sink, *, buffer: int = 100, batch: int = 3, count: int = 0
) -> tuple[InfluxWriter, PointBuffer]:
    points = PointBuffer(buffer)
    for number in range(count):
        points.add(point(number))
    return InfluxWriter(points, sink, batch=batch, retry_cap_s=8), points


async def test_batches_in_order() -> None:
    sink = Sink()
    influx, _ = writer(sink, count=7)
    await influx.flush(now=0)
    assert sink.batches == [[0, 1, 2], [3, 4, 5], [6]]
    assert influx.stats.written == 7


async def test_away_keeps_the_points_rests_and_sends_them_later_in_order() -> None:
    sink = Sink()
    sink.error = InfluxAwayError("InfluxDB does not answer")
    influx, points = writer(sink, count=4)
    await influx.flush(now=0)
    assert (len(points), sink.calls, influx.trouble) == (4, 1, "InfluxDB does not answer")
    points.add(point(4))
    sink.error = None
    await influx.flush(now=100)
    assert sink.batches == [[0, 1, 2], [3, 4]]
    assert influx.trouble == ""


async def test_rest_grows_no_longer_than_its_cap() -> None:
    sink = Sink()
    sink.error = InfluxAwayError("away")
    influx, _ = writer(sink, count=1)
    now = 0.0
    for _ in range(30):
        await influx.flush(now=now)
        now += 8.0
    assert sink.calls == 30
    # Within the rest nothing is tried.
    tried_again = []
    for step in range(30):
        await influx.flush(now=now)
        before = sink.calls
        await influx.flush(now=now + 1e-9)
        tried_again.append(sink.calls - before)
        now += 8.0 + step
    assert sum(tried_again) <= 2


async def test_a_last_try_at_the_end_does_not_wait() -> None:
    sink = Sink()
    sink.error = InfluxAwayError("away")
    influx, _ = writer(sink, count=1)
    await influx.flush(now=1000)
    await influx.flush(now=0, patient=False)
    assert sink.calls == 2


async def test_refused_points_do_not_block_the_others() -> None:
    sink = Sink()
    sink.error = PointsRefusedError("InfluxDB answered 400: field type conflict")
    influx, points = writer(sink, count=4)
    await influx.flush(now=0)
    assert (len(points), influx.stats.refused) == (0, 4)


def test_the_buffer_drops_the_oldest_and_counts() -> None:
    points = PointBuffer(3)
    for number in range(5):
        points.add(point(number))
    assert points.dropped == 2
    assert [p.fields["number"] for p in points.take(10)] == [2, 3, 4]


def test_points_put_back_are_the_first_to_go() -> None:
    points = PointBuffer(3)
    for number in range(3):
        points.add(point(number))
    taken = points.take(2)
    points.add(point(3))
    points.put_back(taken)
    assert points.dropped == 1
    assert [p.fields["number"] for p in points.take(10)] == [1, 2, 3]
