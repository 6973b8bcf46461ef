"""Handlers and outputs on topics that the settings decide."""

from edgebus.contracts import Message, Topic, topics
from edgebus.schema import ServiceTopics
from edgebus.service import Service, ServiceSettings, on
from edgebus.service.testing import ServiceHarness
from edgebus_collector import Collector
from edgebus_detection.messages import CAMERA_FRAME, SAMPLES


class Number(Message, version=1):
    value: int


NUMBERS = {
    name: Topic(f"{{node}}/{{service}}/{name}", Number, qos=1, doc="Numbers.")
    for name in ("left", "right", "twice-left", "twice-right")
}


class DoublerSettings(ServiceSettings):
    side: str = "left"


class Doubler(Service[DoublerSettings]):
    """Doubles the numbers of a side."""

    name = "doubler"
    publishes = (NUMBERS["twice-left"],)
    subscribes = (NUMBERS["left"],)

    async def start(self) -> None:
        self.out = NUMBERS[f"twice-{self.settings.side}"]
        self.publishes = (self.out,)

    @on(lambda self: NUMBERS[self.settings.side])
    async def double(self, number: Number) -> None:
        await self.publish(self.out, Number(value=2 * number.value))

    @on(lambda self: None)
    async def never(self, number: Number) -> None:
        raise AssertionError(number)


async def test_a_handler_listens_where_the_settings_say():
    right = DoublerSettings(side="right")
    async with ServiceHarness(Doubler, right, also=list(NUMBERS.values())) as h:
        await h.publish(
            NUMBERS["left"].at(h.node("pi-01")), Number(source="lab/pi-01/test", value=1)
        )
        await h.publish(
            NUMBERS["right"].at(h.node("pi-01")), Number(source="lab/pi-01/test", value=2)
        )
        assert (await h.expect(NUMBERS["twice-right"])).payload.value == 4
        assert h.received(NUMBERS["twice-left"]) == []


def test_the_documentation_shows_what_the_class_says():
    shown = ServiceTopics.of(Collector)
    assert {SAMPLES, topics.DRIFT} <= set(shown.sends)
    assert {CAMERA_FRAME, topics.SERVICE_STATE} <= set(shown.receives)
    # Nobody has registered these: they have no channel to be shown.
    assert ServiceTopics.of(Doubler).sends == ()
