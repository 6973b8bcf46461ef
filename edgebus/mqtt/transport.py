"""MQTT 5 and 3.1.1 over TCP, TLS and WebSockets, by one of two clients.

`docs/adr/0006-a-native-mqtt-transport.md`, `docs/adr/0017-paho-for-websockets-and-proxies.md`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Sequence
from pathlib import Path

import structlog

from edgebus.bus.errors import BrokerRefusedError, BrokerUnreachableError
from edgebus.bus.settings import BrokerAddress, BrokerSettings
from edgebus.bus.transport import Connection, ConnectOptions, Receiver
from edgebus.mqtt._connection import MqttConnection
from edgebus.mqtt._retain_repair import RetainRepair
from edgebus.mqtt._session import Memory


class MqttTransport:
    """Opens connections to an MQTT broker.

    Where the settings name several addresses, each connection begins with the one that answered
    last; when it does not, the next ones are tried at once, each for at most
    `BrokerSettings.connect_timeout_s`. All connections of a transport follow one another.

    Where the settings name no version of MQTT, a broker that does not take 5 is asked in 3.1.1.

    Args:
        settings: Where it is and how to log in.

    Raises:
        FileNotFoundError: A certificate or key named in the settings is not there.
        ssl.SSLError: One of them cannot be used.
    """

    def __init__(self, settings: BrokerSettings | None = None) -> None:
        self._settings = settings or BrokerSettings()
        self._tls = _tls_context(self._settings) if self._settings.tls else None
        self._memories: dict[str, Memory] = {}
        self._nodes = tuple(_Node(self._settings, each) for each in self._settings.addresses)
        self._at = 0
        self._log = structlog.get_logger("edgebus.bus")

    @property
    def url(self) -> str:
        """The broker's address or addresses, without credentials."""
        return self._settings.url

    @property
    def connected_url(self) -> str:
        """The address that answered last; the first one before that."""
        return self._nodes[self._at].address.url

    @property
    def packet_limit(self) -> int | None:
        """Largest packet that may be sent as far as the settings know it."""
        return self._settings.packet_limit

    async def connect(self, options: ConnectOptions, receiver: Receiver) -> Connection:
        """Open a connection, to the first address that takes it.

        Raises:
            BrokerUnreachableError: Nobody answers, or not in time, or not with MQTT.
            BrokerRefusedError: The broker does not want this client.
        """
        failures: dict[int, BrokerUnreachableError | BrokerRefusedError] = {}
        first, count = self._at, len(self._nodes)
        for number in (*range(first, count), *range(first)):
            try:
                connection = await self._connect(self._nodes[number], options, receiver)
            except (BrokerUnreachableError, BrokerRefusedError) as error:
                failures[number] = error
                continue
            if number != self._at:
                node, before = self._nodes[number].address.url, self.connected_url
                self._log.info("another broker of several", broker=node, before=before)
                self._at = number
            return connection
        # In the order of the settings, so that the same trouble reads the same in each round.
        raise _sum_up(self.url, [failures[number] for number in range(count)])

    async def _connect(
        self, node: _Node, options: ConnectOptions, receiver: Receiver
    ) -> Connection:
        """Open a connection in the version that the settings fix, or in the one that it speaks."""
        try:
            return await self._dial(node.settings, options, receiver)
        except (BrokerUnreachableError, BrokerRefusedError) as error:
            if node.settings.version or not _may_speak_another(error):
                raise
            first = error
        changes: dict[str, str] = {"version": "3.1.1"}
        if isinstance(first, BrokerRefusedError) and node.settings.profile is None:
            changes["profile"] = "nats"
        settings = node.settings.model_copy(update=changes)
        connection = await self._dial(settings, options, receiver)
        if isinstance(first, BrokerRefusedError):
            node.settings = settings  # it said so; a hang-up may have had another reason
        if not node.told:
            node.told = True
            self._log.info(
                "the broker does not speak MQTT 5, so 3.1.1 is spoken",
                broker=node.address.url,
                answer=first.reason,
            )
        return connection

    async def _dial(
        self, settings: BrokerSettings, options: ConnectOptions, receiver: Receiver
    ) -> Connection:
        (address,) = settings.addresses
        make = self._paho if settings.uses_paho else self._native
        connection, opening = make(settings, options, receiver)
        try:
            async with asyncio.timeout(settings.connect_timeout_s):
                await opening
        except TimeoutError as error:
            connection.abort()
            reason = f"no answer within {settings.connect_timeout_s:g} s"
            raise BrokerUnreachableError(url=address.url, reason=reason) from error
        except OSError as error:
            reason = _explain(error, tls=address.tls)
            raise BrokerUnreachableError(url=address.url, reason=reason) from error
        except BaseException:
            connection.abort()
            raise
        return connection

    def _native(
        self, settings: BrokerSettings, options: ConnectOptions, receiver: Receiver
    ) -> tuple[Connection, Awaitable[None]]:
        (address,) = settings.addresses
        kind = RetainRepair if settings.profile == "nats" else MqttConnection
        connection = kind(
            settings=settings,
            options=options,
            receiver=receiver,
            # One for all addresses: it is the client's, and the brokers of a cluster share its
            # session. Where the next one has none it reports that, and the memory is cleared.
            memory=self._memories.setdefault(options.client_id, Memory()),
        )

        async def opening() -> None:
            await asyncio.get_running_loop().create_connection(
                lambda: connection, address.host, address.port, ssl=self._tls
            )
            await connection.handshake()

        return connection, opening()

    def _paho(
        self, settings: BrokerSettings, options: ConnectOptions, receiver: Receiver
    ) -> tuple[Connection, Awaitable[None]]:
        # A device that needs no proxy has no paho.
        from edgebus.mqtt._paho import PahoConnection, PahoRetainRepair

        kind = PahoRetainRepair if settings.profile == "nats" else PahoConnection
        connection = kind(settings=settings, options=options, receiver=receiver, tls=self._tls)
        return connection, connection.handshake()


class _Node:
    """One of the broker's addresses, and the settings as if it were the only one.

    Attributes:
        address: The address.
        settings: The settings, with the version that the broker is known to speak.
        told: Whether the log names another version than 5.
    """

    def __init__(self, settings: BrokerSettings, address: BrokerAddress) -> None:
        self.address = address
        self.settings = settings.model_copy(update={"url": address.url})
        self.told = False


def _may_speak_another(error: BrokerUnreachableError | BrokerRefusedError) -> bool:
    """Check whether the broker may just not speak the version of MQTT that it was asked in."""
    if isinstance(error, BrokerRefusedError):
        return error.wrong_version
    return error.hung_up  # RabbitMQ 3 and amqtt, at MQTT 5


def _sum_up(
    url: str, failures: Sequence[BrokerUnreachableError | BrokerRefusedError]
) -> BrokerUnreachableError | BrokerRefusedError:
    """One error for a whole round; a refusal explains more than a broker that is not there."""
    if len(failures) == 1:
        return failures[0]
    reason = "; ".join(f"{failure.url}: {failure.reason}" for failure in failures)
    if any(isinstance(failure, BrokerRefusedError) for failure in failures):
        return BrokerRefusedError(url=url, reason=reason)
    return BrokerUnreachableError(url=url, reason=reason)


def _explain(error: OSError, *, tls: bool) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}); see broker.ca_file"
    reason = " ".join((error.strerror or str(error) or type(error).__name__).split())
    if tls and isinstance(error, ssl.SSLError | ConnectionResetError):
        reason += "; TLS failed: is it the port for TLS? Without TLS, write mqtt://"
    return reason


def _tls_context(settings: BrokerSettings) -> ssl.SSLContext:
    for name in ("ca_file", "cert_file", "key_file"):
        path: Path | None = getattr(settings, name)
        if path is not None and not path.is_file():
            msg = f"broker.{name}: there is no file {path}"
            raise FileNotFoundError(msg)
    context = ssl.create_default_context(cafile=settings.ca_file)
    if settings.cert_file is not None:
        context.load_cert_chain(settings.cert_file, settings.key_file)
    return context
