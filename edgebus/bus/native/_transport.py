"""Opens connections."""

from __future__ import annotations

import asyncio

from edgebus.bus.errors import BrokerUnreachableError
from edgebus.bus.mqtt import _explain, _tls_context
from edgebus.bus.native._connection import NativeConnection
from edgebus.bus.native._session import Memory
from edgebus.bus.settings import BrokerSettings
from edgebus.bus.transport import ConnectOptions, Receiver

__all__ = ["NativeTransport"]


class NativeTransport:
    """Opens connections to an MQTT broker."""

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

    async def connect(self, options: ConnectOptions, receiver: Receiver) -> NativeConnection:
        """Open a connection.

        Raises:
            BrokerUnreachableError: Nobody answers, or not in time, or not with MQTT.
            BrokerRefusedError: The broker does not want this client.
        """
        settings = self._settings
        connection = NativeConnection(
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
