"""MQTT 5 and 3.1.1 for asyncio: codec and session as plain code, one thin network shell."""

from edgebus.bus.native._connection import MqttConnection
from edgebus.bus.native._encoder import PublishEncoder, encode_packet
from edgebus.bus.native._errors import ProtocolError
from edgebus.bus.native._packets import (
    Ack,
    Auth,
    Connack,
    Connect,
    Disconnect,
    LastWill,
    Packet,
    Pingreq,
    Pingresp,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from edgebus.bus.native._parser import Parser
from edgebus.bus.native._properties import NO_PROPERTIES, Kind, Properties
from edgebus.bus.native._reasons import reason_text
from edgebus.bus.native._session import Memory

__all__ = [
    "NO_PROPERTIES",
    "Ack",
    "Auth",
    "Connack",
    "Connect",
    "Disconnect",
    "Kind",
    "LastWill",
    "Memory",
    "MqttConnection",
    "Packet",
    "Parser",
    "Pingreq",
    "Pingresp",
    "Properties",
    "ProtocolError",
    "Publish",
    "PublishEncoder",
    "Suback",
    "Subscribe",
    "Subscription",
    "Unsuback",
    "Unsubscribe",
    "encode_packet",
    "reason_text",
]
