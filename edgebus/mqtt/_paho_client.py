"""A paho-mqtt client whose socket collects what it sends: WebSockets, proxies, TCP_NODELAY."""

from __future__ import annotations

import socket
import ssl
import threading
from typing import Any, Final

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgebus.bus.settings import BrokerSettings
from edgebus.mqtt._packets import Connect

# As PySocks counts them.
_PROXIES: Final = {"socks4": 1, "socks5": 2, "http": 3}
CHUNK = 256 * 1024


class BufferedSocket:
    """A socket that takes all that is sent and gives what was read, without blocking.

    paho reads byte by byte where it looks for a packet's length, and loses a packet of which a
    WebSocket could send only a part (2.2, `_packet_write`); neither matters with a buffer.
    """

    def __init__(self, network: socket.socket) -> None:
        self.network = network
        self.outgoing = bytearray()
        self._incoming = b""
        self._at = 0

    def fill(self) -> bool:
        """Read what is there; False at the end of the data.

        Raises:
            OSError: The connection broke.
        """
        parts = [self._incoming[self._at :]]
        size, ended = 0, False
        while size < CHUNK:
            try:
                data = self.network.recv(CHUNK)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            if not data:
                ended = True
                break
            parts.append(data)
            size += len(data)
        self._incoming, self._at = b"".join(parts), 0
        return not ended

    def flush(self) -> None:
        """Send what the network takes.

        Raises:
            OSError: The connection broke.
        """
        while self.outgoing:
            try:
                sent = self.network.send(self.outgoing)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            del self.outgoing[:sent]

    @property
    def has_data(self) -> bool:
        """True where `recv` would give something."""
        return self._at < len(self._incoming)

    # What paho calls.

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes; BlockingIOError where there are none."""
        if not self.has_data:
            raise BlockingIOError
        data = self._incoming[self._at : self._at + size]
        self._at += len(data)
        return data

    def send(self, data: bytes | bytearray) -> int:
        """Take bytes; they leave with `flush`."""
        self.outgoing += data
        return len(data)

    def close(self) -> None:
        """Nothing: the connection closes the network, once everything has left."""

    def setblocking(self, flag: bool) -> None:
        """It never blocks."""


class PahoClient(Client):
    """A paho client for one connection.

    Args:
        settings: Address, version, proxy and limits.
        connect: Client id, credentials and will.
        tls: For an encrypted connection.
    """

    def __init__(
        self,
        *,
        settings: BrokerSettings,
        connect: Connect,
        tls: ssl.SSLContext | None,
    ) -> None:
        v5 = settings.version != "3.1.1"
        (address,) = settings.addresses
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=connect.client_id,
            clean_session=None if v5 else connect.clean_start,
            protocol=MQTTProtocolVersion.MQTTv5 if v5 else MQTTProtocolVersion.MQTTv311,
            transport="websockets" if address.websocket else "tcp",
            # Else a refused CONNECT makes it try an older protocol on a socket of its own.
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self.connect_timeout = settings.connect_timeout_s
        self.max_inflight_messages = 0  # without limit: the bus keeps the window
        self.buffer: BufferedSocket | None = None
        self._abandoned = threading.Event()
        if tls is not None and address.tls:
            self.tls_set_context(tls)
        if address.websocket:
            self.ws_set_options(path=address.path or "/mqtt")
        if settings.proxy is not None:
            proxy = settings.proxy_address
            password = settings.proxy_password
            self.proxy_set(
                proxy_type=_PROXIES[proxy.scheme],
                proxy_addr=proxy.host,
                proxy_port=proxy.port,
                proxy_rdns=True,  # the proxy may know names that nobody knows here
                proxy_username=settings.proxy_username,
                proxy_password=None if password is None else password.get_secret_value(),
            )
        if connect.username is not None:
            secret = None if connect.password is None else connect.password.decode()
            self.username_pw_set(connect.username, secret)
        if (will := connect.will) is not None:
            extra = None
            if will.properties.content_type:
                extra = properties(
                    PacketTypes.WILLMESSAGE, ContentType=will.properties.content_type
                )
            self.will_set(will.topic, will.payload, will.qos, will.retain, extra)

    def abandon(self) -> None:
        """Close the network, now or as soon as it is there."""
        self._abandoned.set()
        if self.buffer is not None:
            self.buffer.network.close()

    def ask(self) -> None:
        """Send PINGREQ without expecting the answer at a certain time."""
        self._send_pingreq()

    def _get_proxy(self) -> dict[str, Any] | None:
        # Only the settings' own, not one that the environment names for this process by chance.
        return self._proxy or None

    def _create_socket_connection(self) -> socket.socket:
        made: socket.socket = super()._create_socket_connection()
        # Without it QoS 1 costs tens of milliseconds each way (Nagle and delayed ACK).
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def _create_socket(self) -> Any:
        made: Any = super()._create_socket()
        network = made if isinstance(made, socket.socket) else made._socket
        self.buffer = BufferedSocket(network)
        if network is made:
            made = self.buffer
        else:
            made._socket = self.buffer
        network.setblocking(False)
        if self._abandoned.is_set():
            network.close()
            raise ConnectionAbortedError
        return made


def properties(packet: int, **values: Any) -> Properties:
    """MQTT 5 properties of a packet, by their names without spaces; None: absent."""
    made: Properties = Properties(packet)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        if value is not None:
            setattr(made, name, value)
    return made
