"""What of paho-mqtt needs a wrapper: a client on a given pipe, properties, reason codes."""

from __future__ import annotations

from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edgebus.bus._pipe import Pipe
from edgebus.bus.errors import BrokerRefusedError
from edgebus.bus.settings import BrokerSettings
from edgebus.bus.transport import Outgoing, Will

__all__ = ["PahoClient", "PublishProperties", "properties", "refusal"]

_CACHED = 1000


class PahoClient(Client):
    """A paho client for one connection over a pipe that is connected already.

    Args:
        pipe: The connection.
        settings: Version and credentials.
        client_id: MQTT client id.
        clean: Whether to start without a session (MQTT 3.1.1; on 5 it goes with `connect`).
        will: The last will.
    """

    def __init__(
        self,
        *,
        pipe: Pipe,
        settings: BrokerSettings,
        client_id: str,
        clean: bool,
        will: Will | None,
    ) -> None:
        is_v5 = settings.version == "5"
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if is_v5 else clean,
            protocol=MQTTProtocolVersion.MQTTv5 if is_v5 else MQTTProtocolVersion.MQTTv311,
            # Else a refused CONNECT makes it try an older protocol on a socket of its own.
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self._pipe = pipe
        self.max_inflight_messages = 0  # without limit: the bus keeps the window
        if settings.username is not None:
            password = settings.password
            secret = None if password is None else password.get_secret_value()
            self.username_pw_set(settings.username, secret)
        if will is not None:
            extra = None
            if is_v5:
                extra = properties(PacketTypes.WILLMESSAGE, ContentType=will.content_type)
            self.will_set(will.topic, will.payload, will.qos, will.retain, extra)

    def ask(self) -> None:
        """Send PINGREQ without expecting the answer at a certain time."""
        self._send_pingreq()

    def _create_socket(self) -> Any:
        return self._pipe


class PublishProperties:
    """The MQTT 5 properties of publishes; they repeat, and paho's are slow to build."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int | None], Properties] = {}

    def of(self, message: Outgoing) -> Properties | None:
        """Content type, payload format and expiry of a message."""
        if not message.content_type and message.expiry_s is None:
            return None
        key = (message.content_type, message.expiry_s)
        found = self._known.get(key)
        if found is None:
            values: dict[str, Any] = {}
            if message.content_type:
                is_text = message.content_type == "application/json"
                values["PayloadFormatIndicator"] = int(is_text)
                values["ContentType"] = message.content_type
            if message.expiry_s is not None:
                values["MessageExpiryInterval"] = message.expiry_s
            found = properties(PacketTypes.PUBLISH, **values)
            if len(self._known) >= _CACHED:
                self._known.clear()
            self._known[key] = found
        return found


def properties(packet: int, **values: Any) -> Properties:
    """MQTT 5 properties of a packet, by their names without spaces."""
    made: Properties = Properties(packet)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(made, name, value)
    return made


def refusal(code: ReasonCode, settings: BrokerSettings) -> BrokerRefusedError:
    """Why the broker refused CONNECT, and what to do about it."""
    reason = str(code)
    if "protocol version" in reason.lower():
        other = "3.1.1" if settings.version == "5" else "5"
        reason += f"; it does not speak MQTT {settings.version}, try broker.version {other!r}"
    elif "authoriz" in reason.lower() or "user name" in reason.lower():
        reason += "; see broker.username and broker.password"
    return BrokerRefusedError(url=settings.url, reason=reason)
