"""A service's life on the in-memory broker."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from edgebus.bus import Event, MemoryBroker, MemoryTransport
from edgebus.contracts import (
    Command,
    CommandTopic,
    Message,
    Reply,
    ServiceState,
    Topic,
    new_id,
    topics,
    utc_now,
)
from edgebus.service import (
    CommandRefusedError,
    DuplicateIdentityError,
    NodeSettings,
    Runtime,
    Service,
    ServiceFailedError,
    ServiceSettings,
    command,
    every,
    on,
)
from edgebus.service.testing import ServiceHarness
from edgebus_detection.messages import CAMERA_TRUTH, GroundTruth


class Tally(Message, version=1):
    """How many were seen."""

    count: int


class AddCommand(Command, version=1, name="add"):
    """Add a number."""

    number: int


TALLY = Topic("{node}/{service}/tally", Tally, qos=1, doc="A tally.")
CMD_ADD = CommandTopic("{node}/{service}/cmd/add", AddCommand, reply=Reply, doc="Add a number.")


class CounterSettings(ServiceSettings):
    camera: str = "front"
    pace_s: float = 0.01
    fail_start: bool = False


class Counter(Service[CounterSettings]):
    """Counts truths."""

    name = "counter"
    publishes = (TALLY,)
    hang = False
    strange: BaseException | None = None

    async def start(self) -> None:
        if self.settings.fail_start:
            msg = "no model here"
            raise OSError(msg)
        self.count = 0
        self.ticks = 0
        self.lost = 0
        self.stopped = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def stop(self) -> None:
        self.stopped = True

    async def session_lost(self) -> None:
        self.lost += 1

    @on(
        CAMERA_TRUTH,
        scope="node",
        where=lambda service: {"camera": service.settings.camera},
    )
    async def see(self, event: Event[GroundTruth]) -> None:
        await self.gate.wait()
        self.count += 1
        await self.publish(TALLY, Tally(count=self.count))

    @command(CMD_ADD)
    async def add(self, asked: AddCommand) -> Reply:
        number = asked.number
        if self.hang:
            await asyncio.Event().wait()
        if self.strange is not None:
            raise self.strange
        if number < 0:
            msg = f"cannot add {number}; give a positive number"
            raise CommandRefusedError(msg)
        self.count += 100 // number
        return Reply(ok=True, detail=str(self.count))

    @every(seconds="pace_s")
    async def tick(self) -> None:
        self.ticks += 1

    async def explode(self, error: BaseException) -> None:
        raise error


def harness(**more: Any) -> ServiceHarness[CounterSettings]:
    return ServiceHarness(Counter, **more)


def truth(camera: str = "front") -> GroundTruth:
    return GroundTruth(
        source="lab/pi-01/camera",
        frame="f",
        camera=camera,
        index=0,
        captured=utc_now(),
        width=8,
        height=8,
        boxes=(),
    )


def counter(one: ServiceHarness[CounterSettings]) -> Counter:
    service = one.service
    assert isinstance(service, Counter)
    return service


async def test_a_life_from_birth_to_a_clean_stop() -> None:
    broker = MemoryBroker()
    async with harness(broker=broker) as one:
        born = (await one.expect(topics.SERVICE_STATE)).payload
        assert born.session > 0
        assert born.source == "lab/pi-01/counter"
        service = counter(one)
        assert service.data_dir.is_dir()
    last = ServiceState.decode(broker.retained["edgebus/lab/pi-01/counter/state"])
    assert last.state == "stopped"
    assert last.reason == ""
    assert last.instance == born.instance
    assert service.stopped


async def test_handlers_hear_their_own_node_and_camera_only() -> None:
    async with harness() as one:
        for node, camera in (("pi-02", "front"), ("pi-01", "back"), ("pi-01", "front")):
            await one.publish(CAMERA_TRUTH.at(one.node(node), camera=camera), truth(camera))
        assert (await one.expect(TALLY)).payload.count == 1
        await one.publish(CAMERA_TRUTH.at(one.node("pi-01"), camera="front"), truth())
        assert (await one.expect(TALLY)).payload.count == 2


async def test_a_command_is_answered_also_when_it_fails() -> None:
    async with harness() as one:
        for number, ok, detail in (
            (50, True, "2"),
            (-1, False, "cannot add -1; give a positive number"),
            (0, False, "ZeroDivisionError: integer division or modulo by zero"),
            (100, True, "3"),
        ):
            asked = AddCommand(source="lab/test/test", number=number)
            reply = await one.request(CMD_ADD, asked)
            assert (reply.ok, reply.detail, reply.request) == (ok, detail, asked.id)


async def test_every_ticks_and_beats() -> None:
    async with harness(heartbeat_s=0.02) as one:
        first = await one.expect(topics.SERVICE_METRICS)
        counter(one).metrics.counter("frames", 3)
        beat = await one.expect(
            topics.SERVICE_METRICS, where=lambda event: "frames" in event.payload.counters
        )
        assert beat.payload.counters["frames"] == 3
        assert beat.payload.counters["bus.reconnects"] == 0
        assert beat.payload.rss_bytes > 0
        assert beat.payload.uptime_s > first.payload.uptime_s
        assert beat.payload.session == first.payload.session > 0
        assert counter(one).ticks > 0


async def test_degraded_and_ready_again() -> None:
    async with harness() as one:
        await one.service.set_state("degraded", "camera is away")
        assert (await one.wait_for_state("degraded")).reason == "camera is away"
        await one.service.set_state("ready")
        assert (await one.wait_for_state("ready")).reason == ""
        with pytest.raises(ValueError, match="runtime's to set"):
            await one.service.set_state("stopped")


async def test_draining_finishes_what_was_accepted() -> None:
    broker = MemoryBroker()
    async with harness(broker=broker) as one:
        service = counter(one)
        service.gate.clear()
        for _ in range(3):
            await one.publish(CAMERA_TRUTH.at(one.node("pi-01"), camera="front"), truth())
        while service.bus.stats.subscriptions["see"].received < 3:
            await asyncio.sleep(0)
        one.stop_event.set()
        await one.wait_for_state("draining")
        assert not service.stopped
        service.gate.set()
        assert [(await one.expect(TALLY)).payload.count for _ in range(3)] == [1, 2, 3]
        await one.wait_for_state("stopped")


async def test_what_cannot_be_drained_is_said() -> None:
    async with harness(drain_s=0.05) as one:
        service = counter(one)
        service.gate.clear()
        await one.publish(CAMERA_TRUTH.at(one.node("pi-01"), camera="front"), truth())
        while not service.bus.stats.subscriptions["see"].active:
            await asyncio.sleep(0)
        one.stop_event.set()
        assert "see: 1" in (await one.wait_for_state("stopped")).reason


async def test_a_task_that_dies_takes_the_service_down() -> None:
    async with harness() as one:
        service = counter(one)
        service.spawn(service.explode(RuntimeError("boom")), name="bomb")
        with pytest.raises(ServiceFailedError, match="task bomb: RuntimeError: boom"):
            await one.finished()
        state = await one.wait_for_state("stopped")
        assert state.reason == "task bomb: RuntimeError: boom"


@pytest.mark.parametrize("raised", [SystemExit(3), asyncio.CancelledError("theirs")])
async def test_a_task_that_a_stranger_ends_is_missed(raised: BaseException) -> None:
    async with harness() as one:
        service = counter(one)
        service.spawn(service.explode(raised), name="bomb")
        with pytest.raises(ServiceFailedError, match=f"task bomb: {type(raised).__name__}"):
            await asyncio.wait_for(one.finished(), 5)


@pytest.mark.parametrize("raised", [SystemExit(3), asyncio.CancelledError("theirs")])
async def test_a_command_that_a_stranger_ends_is_answered(raised: BaseException) -> None:
    async with harness() as one:
        service = counter(one)
        service.strange = raised
        reply = await one.request(CMD_ADD, AddCommand(source="lab/test/me", number=1))
        assert not reply.ok
        assert reply.detail.startswith(type(raised).__name__)
        service.strange = None
        assert (await one.request(CMD_ADD, AddCommand(source="lab/test/me", number=1))).ok


async def test_a_command_that_takes_too_long_is_answered_and_the_next_one_served() -> None:
    async with harness(bus={"handler_s": 0.2}) as one:
        service = counter(one)
        service.hang = True
        reply = await one.request(CMD_ADD, AddCommand(source="lab/test/me", number=1))
        assert not reply.ok
        assert "not done within 0.2 s (bus.handler_s)" in reply.detail
        service.hang = False
        assert (await one.request(CMD_ADD, AddCommand(source="lab/test/me", number=1))).ok


async def test_a_command_that_came_too_late_by_this_clock_is_not_acted_on_but_answered() -> None:
    async with harness() as one:
        yesterday = utc_now() - timedelta(days=1)
        late = AddCommand(source="lab/me/op", number=1, expires=yesterday)
        reply = await one.request(CMD_ADD, late)
        assert not reply.ok
        assert "expired 86,4" in reply.detail
        assert "is one of the two clocks wrong?" in reply.detail
        assert counter(one).count == 0


async def test_a_start_that_fails_says_why() -> None:
    broker = MemoryBroker()
    with pytest.raises(ServiceFailedError, match="start: OSError: no model here"):
        async with harness(settings=CounterSettings(fail_start=True), broker=broker):
            pass
    last = ServiceState.decode(broker.retained["edgebus/lab/pi-01/counter/state"])
    assert (last.state, last.reason) == ("stopped", "start: OSError: no model here")


async def test_a_handler_that_fails_makes_a_dead_letter_and_the_service_goes_on() -> None:
    async with harness() as one:
        broken = CAMERA_TRUTH.at(one.node("pi-01"), camera="front")
        await one.bus.publish(
            Topic("{node}/{service}/{camera}/truth", Tally, qos=1, doc="Not a truth.").at(
                one.node("pi-01"), camera="front"
            ),
            Tally(source="lab/pi-01/camera", count=1),
        )
        # Everybody who expects a truth there complains; here the service under test.
        letter = await one.expect(
            topics.DEAD_LETTER, where=lambda event: event.names["service"] == "counter"
        )
        assert letter.payload.topic == broken.name
        assert letter.payload.reason == "invalid"
        await one.publish(broken, truth())
        assert (await one.expect(TALLY)).payload.count == 1


async def test_a_lost_broker_is_survived_and_the_birth_said_again() -> None:
    broker = MemoryBroker()
    async with harness(broker=broker, bus={"backoff_first_s": 0.01}) as one:
        first = await one.wait_for_state("ready")
        broker.stop(forget=True)
        broker.start()
        service = counter(one)
        await service.bus.connected(5)
        again = (
            await one.expect(
                topics.SERVICE_STATE, where=lambda event: event.payload.session > first.session
            )
        ).payload
        assert (again.state, again.instance) == ("ready", first.instance)
        assert service.lost == 1
        assert "edgebus/lab/pi-01/counter/state" in broker.retained


async def test_the_will_says_offline_and_the_birth_takes_it_back() -> None:
    broker = MemoryBroker()
    async with harness(broker=broker, bus={"backoff_first_s": 0.01}) as one:
        await one.wait_for_state("ready")
        broker.cut("edgebus:lab:pi-01:counter")
        await one.expect(topics.SERVICE_STATE, where=lambda event: event.payload.state == "offline")
        await one.wait_for_state("ready")


def runtime(broker: MemoryBroker, tmp_path: Any, **more: Any) -> Runtime[CounterSettings]:
    node = NodeSettings(site="lab", node="pi-01", data_dir=tmp_path, **more)
    return Runtime(
        Counter, node=node, settings=CounterSettings(), transport=MemoryTransport(broker)
    )


async def test_a_second_process_sees_the_first_and_goes(tmp_path: Any) -> None:
    broker = MemoryBroker()
    async with harness(broker=broker, heartbeat_s=0.05) as one:
        # In one process both have the same pid; the heartbeat is the sign of life.
        state = topics.SERVICE_STATE.at(one.identity)
        shown = await one.wait_for_state("ready")
        await one.bus.publish(state, shown.model_copy(update={"host": "elsewhere"}))
        second = runtime(broker, tmp_path, heartbeat_s=0.05)
        with pytest.raises(DuplicateIdentityError, match="elsewhere, ready since") as error:
            await second.run(asyncio.Event())
        assert error.value.exit_code == 3
        await one.publish(CAMERA_TRUTH.at(one.node("pi-01"), camera="front"), truth())
        await one.expect(TALLY)


async def test_the_state_of_a_dead_process_stops_nobody(tmp_path: Any) -> None:
    """The broker died together with the service, so nobody said its will."""
    broker = MemoryBroker()
    async with harness(broker=broker) as one:
        dead = (await one.wait_for_state("ready")).model_copy(
            update={"instance": "0", "host": "elsewhere", "pid": 1}
        )
    stop = asyncio.Event()
    async with harness(broker=broker, node="pi-02") as listener:
        await listener.bus.publish(state := topics.SERVICE_STATE.at(one.identity), dead)
        second = runtime(broker, tmp_path, heartbeat_s=0.05)
        life = asyncio.create_task(second.run(stop))
        await listener.expect(
            topics.SERVICE_STATE,
            where=lambda event: event.topic == state.name and event.payload.pid != 1,
        )
        stop.set()
        await life


def fresh(state: ServiceState, **changes: Any) -> ServiceState:
    """The same, said now."""
    return state.model_copy(update={"id": new_id(), "time": utc_now(), **changes})


async def test_of_two_that_start_at_once_the_younger_goes(tmp_path: Any) -> None:
    """Nobody was there when both looked; then they hear each other."""
    broker = MemoryBroker()
    async with harness(broker=broker) as listener:
        node = NodeSettings(site="lab", node="pi-03", data_dir=tmp_path)
        younger = Runtime(
            Counter, node=node, settings=CounterSettings(), transport=MemoryTransport(broker)
        )
        life = asyncio.create_task(younger.run(asyncio.Event(), look_first=False))
        state = topics.SERVICE_STATE.at(younger.identity)
        ready = await listener.expect(
            topics.SERVICE_STATE,
            where=lambda event: event.topic == state.name and event.payload.state == "ready",
        )
        # The older one, played by the test, says its birth.
        older = fresh(ready.payload, instance="0")
        await listener.bus.publish(state, older)
        with pytest.raises(DuplicateIdentityError):
            await asyncio.wait_for(life, 5)
        assert ServiceState.decode(broker.retained[state.name]).instance == "0"


async def test_the_older_of_two_says_its_state_again(tmp_path: Any) -> None:
    broker = MemoryBroker()
    async with harness(broker=broker) as one:
        ready = await one.wait_for_state("ready")
        newcomer = fresh(ready, instance="f" * 36)
        await one.bus.publish(topics.SERVICE_STATE.at(one.identity), newcomer)
        await one.expect(
            topics.SERVICE_STATE, where=lambda event: event.payload.instance == "f" * 36
        )
        await one.expect(
            topics.SERVICE_STATE, where=lambda event: event.payload.time > newcomer.time
        )


async def test_a_stop_during_the_start_is_heard(tmp_path: Any) -> None:
    broker = MemoryBroker()
    broker.stop()
    stop = asyncio.Event()
    life = asyncio.create_task(runtime(broker, tmp_path, bus={"connect_wait_s": 0.01}).run(stop))
    stop.set()
    await asyncio.wait_for(life, 5)


async def test_spawning_before_the_life_begins_is_refused() -> None:
    async with harness() as one:
        context = one._runtime._context(one.bus)  # type: ignore[union-attr]
        fresh = Runtime(
            Counter,
            node=context.node,
            settings=context.settings,
            transport=MemoryTransport(one.broker),
        )
        with pytest.raises(RuntimeError, match="spawn x in start"):
            fresh.spawn(counter(one).explode(ValueError("never")), name="x")
