"""A replay says the same again: same bytes, same pace, and leaves the broker as it was."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from edgebus.bus import Bus, BusSettings, MemoryBroker, MemoryTransport, RawMessage
from edgebus.contracts import Identity, topics
from edgebus.recording import MappingError, PrefixMap, Recorded, ReplayOptions, replay
from edgebus.recording._ids import IdRewriter
from edgebus_detection.messages import CAMERA_FRAME, DETECTIONS, Frame
from recording_examples import (
    CAMERA,
    DETECTOR,
    START,
    detections,
    frame,
    later,
    state,
)

FRAMES = CAMERA_FRAME.at(CAMERA, camera="front").name
SEEN = DETECTIONS.at(DETECTOR, camera="front").name
STATE = topics.SERVICE_STATE.at(DETECTOR).name
FAST = ReplayOptions(speed=math.inf)


def recorded(topic: str, payload: bytes, at: float = 0.0, **more: object) -> Recorded:
    micros = (later(at) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    fields: dict[str, object] = {
        "qos": 0,
        "retain": False,
        "retained": False,
        "content_type": "",
        "schema": "",
        "logged": micros * 1000,
        "published": micros * 1000,
    }
    return Recorded(topic=topic, payload=payload, **(fields | more))  # type: ignore[arg-type]


@asynccontextmanager
async def site(*filters: str) -> AsyncIterator[tuple[Bus, list[RawMessage], MemoryBroker]]:
    """A bus to replay on, and what a listener on the same broker hears."""
    broker = MemoryBroker()
    heard: list[RawMessage] = []

    async def hear(message: RawMessage) -> None:
        heard.append(message)

    settings = BusSettings(ephemeral=True)
    tool = Identity(site="lab", node="pc", service="replay")
    other = Identity(site="lab", node="pc", service="listener")
    async with (
        Bus(MemoryTransport(broker), identity=tool, settings=settings) as bus,
        Bus(MemoryTransport(broker), identity=other, settings=settings) as listener,
    ):
        await listener.tap(list(filters) or "#", hear, qos=1)
        yield bus, heard, broker


async def heard_all(heard: Sequence[object], count: int) -> None:
    async with asyncio.timeout(5):
        while len(heard) < count:
            await asyncio.sleep(0.005)


async def kept_by(bus: Bus, topic: str) -> bytes | None:
    """The retained value of a topic."""
    found: list[bytes] = []

    async def see(message: RawMessage) -> None:
        found.append(message.payload)

    subscription = await bus.tap(topic, see)
    await asyncio.sleep(0.05)
    await subscription.unsubscribe()
    return found[0] if found else None


async def test_bytes_order_and_quality_of_service_are_the_same() -> None:
    said = [
        recorded(FRAMES, frame(0).encode(), 0.0),
        recorded(SEEN, b'{"any": "thing"}', 0.1, qos=1),
        recorded("third/party", b"\x00\x01", 0.2, qos=1, content_type="application/x-own"),
    ]
    async with site() as (bus, heard, _):
        report = await replay(bus, said, options=FAST)
        await heard_all(heard, 3)
    assert [(m.topic, m.payload, m.qos) for m in heard] == [
        (m.topic, m.payload, m.qos) for m in said
    ]
    assert report.published == 3
    assert report.restored == 0


async def test_the_pace_is_that_of_the_recording_divided_by_the_speed() -> None:
    said = [recorded("t", str(n).encode(), n * 0.4) for n in range(6)]
    loop = asyncio.get_running_loop()
    times: list[float] = []

    async def take(_: RawMessage) -> None:
        times.append(loop.time() - begun)

    async with site() as (bus, _, _):
        await bus.tap("t", take, qos=1)
        begun = loop.time()
        report = await replay(bus, said, options=ReplayOptions(speed=8))
        await heard_all(times, len(said))
    # Never early; how late depends on the machine.
    assert all(t >= n * 0.05 - 0.001 for n, t in enumerate(times))
    assert report.seconds >= 0.25
    assert report.late_s >= 0


async def test_a_clock_that_stepped_back_does_not_stop_the_replay() -> None:
    said = [recorded("t", b"1", 5.0), recorded("t", b"2", 1.0), recorded("t", b"3", 5.02)]
    async with site() as (bus, heard, _):
        async with asyncio.timeout(5):
            await replay(bus, said)
        await heard_all(heard, 3)


async def test_filters_and_a_map() -> None:
    said = [recorded(FRAMES, b"f"), recorded(SEEN, b"d"), recorded("other", b"o")]
    options = ReplayOptions(
        speed=math.inf,
        filters=("edgebus/+/+/camera/#", "other"),
        mapping=PrefixMap(["edgebus/lab=test/site", "edgebus/lab/pi-01=test/near/pi-9"]),
    )
    async with site() as (bus, heard, _):
        report = await replay(bus, said, options=options)
        await heard_all(heard, 2)
    assert [m.topic for m in heard] == ["test/near/pi-9/camera/front/frame", "other"]
    assert report.left_out == 1


@pytest.mark.parametrize("rule", ["edgebus", "=new", "old=", "old/+=new", "old=new/#", "/=/"])
def test_a_map_that_is_none(rule: str) -> None:
    with pytest.raises(MappingError, match="edgebus/lab=edgebus/test"):
        PrefixMap([rule])


def test_a_map_counts_whole_levels() -> None:
    assert PrefixMap(["a/b=c"])("a/bc/d") == "a/bc/d"


@pytest.mark.parametrize("speed", [0, -1, math.nan])
def test_a_speed_that_is_none(speed: float) -> None:
    with pytest.raises(ValueError, match="above zero"):
        ReplayOptions(speed=speed)


async def test_state_is_kept_while_it_plays_and_put_back_afterwards() -> None:
    ready = state().encode()
    said = [
        recorded(STATE, ready, 0.0, qos=1, retain=True, retained=True),
        recorded("own/state", b"new", 0.0, qos=1, retain=True),
        recorded("t", b"", 0.1),
    ]
    during: dict[str, bytes | None] = {}
    async with site("t") as (bus, heard, _):
        await bus.publish_raw("own/state", b"old", qos=1, retain=True)
        stop = asyncio.Event()
        playing = asyncio.create_task(replay(bus, [*said, recorded("t", b"", 3600)], stop=stop))
        await heard_all(heard, 1)
        during = {topic: await kept_by(bus, topic) for topic in (STATE, "own/state")}
        stop.set()
        report = await playing
        assert report.restored == 2
        assert await kept_by(bus, STATE) is None
        assert await kept_by(bus, "own/state") == b"old"
        await replay(bus, said[:2], options=ReplayOptions(speed=math.inf, keep_state=True))
        assert await kept_by(bus, STATE) == ready
    assert during == {STATE: ready, "own/state": b"new"}


async def test_stop_ends_it_in_the_middle_of_a_pause() -> None:
    stop = asyncio.Event()
    said = [recorded("t", b"1"), recorded("t", b"2", 3600)]
    async with site() as (bus, heard, _):
        playing = asyncio.create_task(replay(bus, said, stop=stop))
        await heard_all(heard, 1)
        stop.set()
        async with asyncio.timeout(5):
            report = await playing
    assert report.published == 1


async def test_fresh_messages_are_new_and_still_belong_together() -> None:
    picture = frame(7, at=1.0)
    seen = detections(picture.record, at=1.08)
    said = [recorded(FRAMES, picture.encode(), 1.0), recorded(SEEN, seen.encode(), 1.08)]
    before = datetime.now(UTC)
    async with site() as (bus, heard, _):
        for _ in range(2):
            await replay(bus, said, options=ReplayOptions(speed=1, fresh=True))
        await heard_all(heard, 4)
    frames = [Frame.decode(m.payload) for m in heard[::2]]
    answers = [DETECTIONS.payload.decode(m.payload) for m in heard[1::2]]
    assert len({picture.record.id, frames[0].record.id, frames[1].record.id}) == 3
    for new, answer in zip(frames, answers, strict=True):
        assert answer.frame == new.record.id
        assert answer.id != seen.id
        assert before <= new.record.time <= datetime.now(UTC)
        assert answer.detected - new.record.time == seen.detected - picture.record.time
        assert new.record.index == 7
        assert new.jpeg.endswith(picture.jpeg[-20:])
    assert heard[0].payload != picture.encode()


def test_an_identifier_moves_in_time() -> None:
    old = frame(0).record.id
    hour = timedelta(hours=1)
    one = IdRewriter(origin=START, start=START + hour, speed=1, salt=b"1")
    assert one.identifier(old) == one.identifier(old)
    assert int(one.identifier(old).replace("-", "")[:12], 16) == (
        int(old.replace("-", "")[:12], 16) + 3_600_000
    )
    assert one.identifier(old)[14] == "7"
    assert one.topic(f"edgebus/lab/pi/detector/replies/{old}").endswith(one.identifier(old))


def test_what_is_no_message_is_not_touched() -> None:
    fresh = IdRewriter(origin=START, start=START, speed=2, salt=b"")
    for data in (b"", b"\xff\xd8 no picture", b"{broken", b"[1]", bytes(range(256))):
        assert fresh.payload(FRAMES, data) == data
        assert fresh.payload("third/party", data) == data
