"""MQTT 5 and 3.1.1 over TCP and TLS (`docs/adr/0006-a-native-mqtt-transport.md`)."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from edgebus.bus.errors import BrokerUnreachableError
from edgebus.bus.native import Memory, MqttConnection
from edgebus.bus.settings import BrokerSettings
from edgebus.bus.transport import ConnectOptions, Receiver

__all__ = ["MqttTransport"]


class MqttTransport:
    """Opens connections to an MQTT broker.

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

    @property
    def url(self) -> str:
        """The broker's address, without credentials."""
        return self._settings.url

    @property
    def packet_limit(self) -> int | None:
        """Largest packet that may be sent as far as the settings know it."""
        return self._settings.packet_limit

    async def connect(self, options: ConnectOptions, receiver: Receiver) -> MqttConnection:
        """Open a connection.

        Raises:
            BrokerUnreachableError: Nobody answers, or not in time, or not with MQTT.
            BrokerRefusedError: The broker does not want this client.
        """
        settings = self._settings
        connection = MqttConnection(
            settings=settings,
            options=options,
            receiver=receiver,
            memory=self._memories.setdefault(options.client_id, Memory()),
        )
        try:
            async with asyncio.timeout(settings.connect_timeout_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection, settings.host, settings.port, ssl=self._tls
                )
                await connection.handshake()
        except TimeoutError as error:
            connection.abort()
            reason = f"no answer within {settings.connect_timeout_s:g} s"
            raise BrokerUnreachableError(url=self.url, reason=reason) from error
        except OSError as error:
            raise BrokerUnreachableError(url=self.url, reason=_explain(error)) from error
        except BaseException:
            connection.abort()
            raise
        return connection


def _explain(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}); see broker.ca_file"
    return error.strerror or str(error) or type(error).__name__


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
