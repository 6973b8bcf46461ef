"""What CONNECT asks, and what a refusal means."""

from __future__ import annotations

from edgebus.bus.errors import BrokerRefusedError
from edgebus.bus.settings import BrokerSettings
from edgebus.bus.transport import ConnectOptions, Will
from edgebus.mqtt._packets import Connack, Connect, LastWill
from edgebus.mqtt._properties import NO_PROPERTIES, Properties
from edgebus.mqtt._reasons import BAD_CREDENTIALS, NOT_AUTHORIZED, UNSUPPORTED_VERSION, reason_text

__all__ = ["connect_packet", "refusal"]


def connect_packet(settings: BrokerSettings, options: ConnectOptions) -> Connect:
    """The CONNECT packet for one connection."""
    v5 = settings.version == "5"
    expiry = options.session_expiry_s
    expiry_s = settings.session_expiry_s if expiry is None else expiry
    password = settings.password
    properties = NO_PROPERTIES
    if v5:
        properties = Properties(
            session_expiry_interval=expiry_s,
            receive_maximum=options.receive_maximum or settings.receive_maximum,
        )
    return Connect(
        client_id=options.client_id,
        clean_start=expiry_s == 0,
        keepalive_s=settings.keepalive_s,
        username=settings.username,
        password=None if password is None else password.get_secret_value().encode(),
        will=None if options.will is None else _last_will(options.will, v5=v5),
        properties=properties,
    )


def refusal(connack: Connack, settings: BrokerSettings) -> BrokerRefusedError:
    """Why the broker refused CONNECT, and what to do about it."""
    reason = reason_text(connack.code, connack.properties.reason_string)
    if connack.code == UNSUPPORTED_VERSION:
        other = "3.1.1" if settings.version == "5" else "5"
        reason += f"; it does not speak MQTT {settings.version}, try broker.version {other!r}"
    elif connack.code in (BAD_CREDENTIALS, NOT_AUTHORIZED):
        reason += "; see broker.username and broker.password"
    return BrokerRefusedError(url=settings.url, reason=reason)


def _last_will(will: Will, *, v5: bool) -> LastWill:
    properties = NO_PROPERTIES
    if v5 and will.content_type:
        properties = Properties(content_type=will.content_type)
    return LastWill(
        topic=will.topic,
        payload=will.payload,
        qos=will.qos,
        retain=will.retain,
        properties=properties,
    )
