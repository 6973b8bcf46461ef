"""MQTT 5 and 3.1.1 for asyncio: codec and session as plain code, one thin network shell."""

from edgebus.mqtt._connection import MqttConnection
from edgebus.mqtt._decoder import Parser
from edgebus.mqtt._encoder import PublishEncoder, encode_packet
from edgebus.mqtt._packets import (
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
    reason_text,
)
from edgebus.mqtt._properties import NO_PROPERTIES, Kind, Properties
from edgebus.mqtt._session import Memory
from edgebus.mqtt._wire import ProtocolError
from edgebus.mqtt.transport import MqttTransport

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
    "MqttTransport",
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
