"""What a service declares: what it takes, what it publishes, whom it answers."""

import pytest

from edgebus.bus import Event
from edgebus.contracts import (
    Command,
    CommandTopic,
    Message,
    ModelListReply,
    PayloadError,
    Reply,
    Topic,
    topics,
)
from edgebus.contracts.trace import trace_of
from edgebus.service import DeclarationError, Service, ServiceSettings, command, on
from edgebus.service.testing import ServiceHarness

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Reading(Message, version=1):
    """What a meter shows."""

    value: float


class Total(Message, version=2, name="meter-total"):
    """The sum of what a meter has shown."""

    value: float


class Clear(Command, version=1):
    """Forget a sum."""

    meter: str


READINGS = Topic("{node}/{service}/{meter}/reading", Reading, qos=1, doc="What a meter shows.")
TOTALS = Topic("{node}/{service}/{meter}/total", Total, qos=1, doc="The sum.")
SECRETS = Topic("{node}/{service}/secrets", Total, qos=1, doc="Declared by nobody.")
CMD_CLEAR = CommandTopic("{node}/{service}/cmd/clear", Clear, reply=Reply, doc="Forget a sum.")


class Totals(Service[ServiceSettings]):
    """Adds up what each meter shows."""

    name = "totals"
    publishes = (TOTALS,)

    async def start(self) -> None:
        self.sums: dict[str, float] = {}
        self.topics: list[str] = []

    @on(READINGS)
    async def add(self, reading: Reading, meter: str, node: str) -> None:
        where = f"{node}.{meter}"
        self.sums[where] = self.sums.get(where, 0.0) + reading.value
        await self.publish(TOTALS, Total(value=self.sums[where]), meter=where)

    @on(READINGS)
    async def note(self, event: Event[Reading]) -> None:
        self.topics.append(event.topic)

    @command(CMD_CLEAR)
    async def clear(self, asked: Clear, node: str) -> Reply:
        return Reply(ok=self.sums.pop(f"{node}.{asked.meter}", None) is not None)

    async def leak(self) -> None:
        await self.bus.publish(SECRETS.at(self.identity), Total(value=1.0))

    async def err(self) -> None:
        await self.publish(SECRETS, Total(value=1.0))


async def test_handlers_get_what_they_name_and_the_bus_stamps_what_they_publish() -> None:
    async with ServiceHarness(Totals, also=[READINGS]) as one:
        meter = READINGS.at(one.node("pi-02", "meters"), meter="roof")
        await one.publish(meter, Reading(value=1.5, traceparent=TRACE))
        total = await one.expect(TOTALS)
        assert total.topic == "edgebus/lab/pi-01/totals/pi-02.roof/total"
        assert total.payload.value == 1.5
        assert total.payload.source == "lab/pi-01/totals"
        assert total.payload.schema_ == "meter-total/2"
        # The same trace, a step of its own.
        assert trace_of(total.payload.traceparent) == trace_of(TRACE)
        assert total.payload.traceparent != TRACE
        reading = await one.expect(READINGS)
        assert reading.payload.source == "lab/pi-02/meters"
        await one.publish(meter, Reading(value=1.5))
        assert (await one.expect(TOTALS)).payload.traceparent is None
        assert isinstance(one.service, Totals)
        assert one.service.topics == [meter.name, meter.name]


async def test_a_command_is_answered_by_name() -> None:
    async with ServiceHarness(Totals) as one:
        asked = Clear(meter="roof")
        reply = await one.request(CMD_CLEAR, asked)
        assert not reply.ok
        assert reply.request == asked.id
        assert reply.source == "lab/pi-01/totals"


async def test_publishing_what_is_not_declared_is_refused() -> None:
    async with ServiceHarness(Totals) as one:
        assert isinstance(one.service, Totals)
        with pytest.raises(DeclarationError, match=r"Totals publishes .*secrets; add it to its"):
            await one.service.err()


async def test_the_harness_finds_what_went_past_the_declaration() -> None:
    async def leaks() -> None:
        async with ServiceHarness(Totals, also=[SECRETS]) as one:
            assert isinstance(one.service, Totals)
            await one.service.leak()
            await one.expect(SECRETS)

    with pytest.raises(AssertionError, match=r"Totals has published on .*totals/secrets, which"):
        await leaks()


def test_a_handler_names_placeholders_of_its_topic() -> None:
    with pytest.raises(DeclarationError, match="add takes 'camera', which is no placeholder of"):

        class _Wrong(Service[ServiceSettings]):
            name = "wrong"

            @on(READINGS)
            async def add(self, reading: Reading, camera: str) -> None: ...


def test_another_services_topic_is_not_ones_own_to_publish() -> None:
    theirs = Topic("{node}/meters/all", Reading, qos=1, doc="Of meters.")
    with pytest.raises(DeclarationError, match=r"cannot publish .*meters/all"):

        class _Wrong(Service[ServiceSettings]):
            name = "wrong"
            publishes = (theirs,)


def test_a_message_without_a_source_is_refused() -> None:
    with pytest.raises(PayloadError, match="source: Field required"):
        Reading.decode(b'{"value": 1}')
    with pytest.raises(PayloadError, match="source: Field required; request: Field required"):
        Reply.decode(b'{"ok": true}')
    assert Reading.decode(b'{"value": 1, "source": "a/b/c"}').schema_ == "reading/1"


def test_a_command_topic_knows_its_answer() -> None:
    assert topics.CMD_MODELS.reply is ModelListReply
    assert topics.CMD_MODELS.qos == 1
