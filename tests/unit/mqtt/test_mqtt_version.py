"""Version of MQTT: 5, and 3.1.1 where a broker does not take that, unless one is set."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from edgebus.bus import (
    BrokerRefusedError,
    BrokerSettings,
    BrokerUnreachableError,
    ConnectOptions,
    Loss,
    RawMessage,
)
from edgebus.mqtt import MqttTransport
from edgebus.mqtt._connection import MqttConnection
from edgebus.mqtt._retain_repair import RetainRepair

OPTIONS = ConnectOptions(client_id="c", session_expiry_s=60)
ACCEPT_311 = b"\x20\x02\x00\x00"
ACCEPT_5 = b"\x20\x03\x00\x00\x00"
SILENCE = b""
# Fixed header (2), length and name of the protocol (6), then its level: 4 is 3.1.1.
LEVEL_AT = 8


class OldBroker:
    """Takes MQTT 3.1.1 and answers MQTT 5 as it is told to.

    Attributes:
        answer: To MQTT 5; None: it hangs up without one; SILENCE: it says nothing.
        older: To MQTT 3.1.1; None: it hangs up.
        asked: Protocol levels of the connections that came.
    """

    def __init__(self, answer: bytes | None, older: bytes | None = ACCEPT_311) -> None:
        self.answer = answer
        self.older = older
        self.asked: list[int] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        level = (await reader.readexactly(LEVEL_AT + 1))[LEVEL_AT]
        self.asked.append(level)
        answer = self.answer if level == 5 else self.older
        if answer is not None:
            writer.write(answer)
        if answer in (ACCEPT_5, ACCEPT_311, SILENCE):
            await reader.read(-1)
        writer.close()


@asynccontextmanager
async def old_broker(answer: bytes | None, **more: Any) -> AsyncIterator[OldBroker]:
    broker = OldBroker(answer, **more)
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    broker.url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield broker
    server.close()


class Ear:
    """A receiver of nothing."""

    def received(self, message: RawMessage, /) -> None:
        raise AssertionError(message)

    def lost(self, loss: Loss, /) -> None:
        """The test ends its own connections."""


@pytest.mark.parametrize(
    ("answer", "remembered", "kind"),
    [
        (b"\x20\x02\x00\x01", True, RetainRepair),  # NATS, aedes
        (b"\x20\x03\x00\x84\x00", True, RetainRepair),  # as MQTT 5 would have it
        (b"\x20\x03\x00\x81\x00", True, RetainRepair),  # calls what it does not know malformed
        (b"\x20\x03\x00\x82\x00", True, RetainRepair),
        (None, False, MqttConnection),  # RabbitMQ 3
        (SILENCE, False, MqttConnection),  # amqtt 0.12
        (b"\x20\x02\x00\x00", False, MqttConnection),  # says yes in the wrong version's words
    ],
)
async def test_a_broker_that_does_not_take_5_is_asked_in_3(
    answer: bytes | None, remembered: bool, kind: type[MqttConnection]
) -> None:
    async with old_broker(answer) as broker:
        transport = MqttTransport(BrokerSettings(url=broker.url, connect_timeout_s=1))
        with capture_logs() as logs:
            for _ in range(2):
                connection = await transport.connect(OPTIONS, Ear())
                assert type(connection) is kind
                assert connection.packet_limit == 1024 * 1024  # what 3.1.1 is taken to bear
                connection.abort()
    # What it said counts from then on; a hang-up may have had another reason.
    assert broker.asked == ([5, 4, 4] if remembered else [5, 4, 5, 4])
    assert [line["event"] for line in logs] == [
        "the broker does not speak MQTT 5, so 3.1.1 is spoken"
    ]


@pytest.mark.parametrize(
    ("settings", "asked"), [({"version": "5"}, [5]), ({"version": "3.1.1"}, [4])]
)
async def test_a_version_that_is_set_stays(settings: dict[str, Any], asked: list[int]) -> None:
    async with old_broker(b"\x20\x02\x00\x01", older=b"\x20\x02\x00\x01") as broker:
        other = {"5": "3.1.1", "3.1.1": "5"}[settings["version"]]
        with pytest.raises(BrokerRefusedError, match=f"try broker.version '{other}'"):
            await MqttTransport(BrokerSettings(url=broker.url, **settings)).connect(OPTIONS, Ear())
    assert broker.asked == asked


async def test_a_version_that_is_set_is_named_where_the_broker_hangs_up() -> None:
    async with old_broker(None) as broker:
        with pytest.raises(BrokerUnreachableError, match=r"set broker\.version to '3\.1\.1'"):
            await MqttTransport(BrokerSettings(url=broker.url, version="5")).connect(OPTIONS, Ear())


async def test_a_profile_that_is_set_stays() -> None:
    async with old_broker(b"\x20\x02\x00\x01") as broker:
        settings = BrokerSettings(url=broker.url, profile="standard")
        connection = await MqttTransport(settings).connect(OPTIONS, Ear())
        assert type(connection) is MqttConnection
        connection.abort()


@pytest.mark.parametrize("answer", [b"\x20\x03\x00\x86\x00", b"\x20\x03\x00\x87\x00"])
async def test_a_refusal_for_another_reason_is_final(answer: bytes) -> None:
    async with old_broker(answer) as broker:
        with pytest.raises(BrokerRefusedError, match=r"broker\.password"):
            await MqttTransport(BrokerSettings(url=broker.url)).connect(OPTIONS, Ear())
    assert broker.asked == [5]


async def test_what_the_older_version_is_told_is_the_reason() -> None:
    async with old_broker(None, older=b"\x20\x02\x00\x04") as broker:
        with pytest.raises(BrokerRefusedError, match=r"broker\.password"):
            await MqttTransport(BrokerSettings(url=broker.url)).connect(OPTIONS, Ear())


async def test_one_that_hangs_up_at_both_is_no_broker_perhaps() -> None:
    async with old_broker(None, older=None) as broker:
        with pytest.raises(BrokerUnreachableError, match="is it an MQTT broker"):
            await MqttTransport(BrokerSettings(url=broker.url)).connect(OPTIONS, Ear())
    assert broker.asked == [5, 4]


async def test_silence_at_both_takes_no_longer_than_one_and_a_half_tries() -> None:
    async with old_broker(SILENCE, older=SILENCE) as broker:
        settings = BrokerSettings(url=broker.url, connect_timeout_s=0.2)
        with pytest.raises(BrokerUnreachableError, match=r"no answer within 0\.2 s"):
            await MqttTransport(settings).connect(OPTIONS, Ear())
    assert broker.asked == [5, 4]


async def test_one_that_takes_5_is_asked_once() -> None:
    async with old_broker(ACCEPT_5) as broker:
        connection = await MqttTransport(BrokerSettings(url=broker.url)).connect(OPTIONS, Ear())
        connection.abort()
    assert broker.asked == [5]
