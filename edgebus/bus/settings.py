"""Settings of the broker's connection and of the bus on top of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from edgebus.addresses import hide_credentials, read_address

_PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
_PROXY_PORTS = {"http": 8080, "socks4": 1080, "socks5": 1080}
# Only before a scheme does a comma separate: a password may hold one.
_SEPARATOR = re.compile(r"\s*,\s*(?=[A-Za-z][A-Za-z0-9+.-]*://)")


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """One address of a broker.

    Attributes:
        url: As written, without credentials.
        host: Host name or IP address.
        port: TCP port.
        tls: Whether the connection is encrypted.
        websocket: Whether MQTT goes through a WebSocket.
        path: Of the WebSocket; empty: /mqtt.
    """

    url: str
    host: str
    port: int
    tls: bool
    websocket: bool = False
    path: str = ""


@dataclass(frozen=True, slots=True)
class ProxyAddress:
    """Address of a proxy: ``http``, ``socks4`` or ``socks5``, host and port."""

    scheme: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Credentials:
    """User and password from a URL."""

    username: str
    password: str | None = field(repr=False)


def take_credentials(text: str) -> tuple[str, Credentials | None]:
    """Separate user and password from the addresses.

    Args:
        text: One or several URLs; those that name a user all name the same one.

    Returns:
        The URLs without them, and the credentials.

    Raises:
        ValueError: One of them is no URL, or they differ in user or password.
    """
    bare: list[str] = []
    found: dict[Credentials, str] = {}
    for url in _SEPARATOR.split(text.strip()):
        if "@" not in url:
            bare.append(url)
            continue
        address = read_address(url)
        bare.append(address.bare)
        if address.username is not None:
            found.setdefault(Credentials(address.username, address.password), bare[-1])
    if len(found) > 1:
        first, second = list(found.values())[:2]
        msg = (
            f"{first} and {second} come with different credentials; a client has one user "
            "and one password: name them once, or as broker.username and broker.password"
        )
        raise ValueError(msg)
    return ",".join(bare), next(iter(found), None)


def read_addresses(text: str) -> tuple[BrokerAddress, ...]:
    """The addresses in ``mqtt://a:1883,mqtt://b:1883``, in the order of the text.

    Raises:
        ValueError: One of them is no address of a broker, is there twice, or has TLS where another
            has none.
    """
    addresses = tuple(_read(url) for url in _SEPARATOR.split(text))
    first = addresses[0]
    places: set[tuple[str, int]] = set()
    for address in addresses:
        if address.tls != first.tls:
            msg = (
                f"{first.url} and {address.url}: one with TLS and one without; "
                "write mqtts:// (or wss://) for all of them, or mqtt:// (or ws://) for all"
            )
            raise ValueError(msg)
        place = (address.host, address.port)
        if place in places:
            msg = f"{address.url} is there twice; name each broker once"
            raise ValueError(msg)
        places.add(place)
    return addresses


def _read(text: str) -> BrokerAddress:
    parts = urlsplit(text)
    url = hide_credentials(text)
    scheme = parts.scheme
    if scheme not in _PORTS:
        msg = (
            f"{url!r} is no broker address; write mqtt://host:port or mqtts://host:port, "
            "over a WebSocket ws://host:port/path or wss://host:port/path"
        )
        raise ValueError(msg)
    _check(text, parts)
    return BrokerAddress(
        url=url,
        host=parts.hostname or "",
        port=parts.port or _PORTS[scheme],
        tls=scheme in ("mqtts", "wss"),
        websocket=scheme in ("ws", "wss"),
        path=parts.path.rstrip("/"),
    )


def read_proxy(text: str) -> ProxyAddress:
    """The address in ``http://host:port`` or ``socks5://host:port``.

    Raises:
        ValueError: It is none.
    """
    parts = urlsplit(text)
    if parts.scheme not in _PROXY_PORTS or not parts.hostname or parts.path.strip("/"):
        msg = f"{text!r} is no proxy address; write http://, socks5:// or socks4://host:port"
        raise ValueError(msg)
    port = parts.port or _PROXY_PORTS[parts.scheme]
    return ProxyAddress(scheme=parts.scheme, host=parts.hostname, port=port)


def _check(text: str, parts: SplitResult) -> None:
    scheme, url = parts.scheme, hide_credentials(text)
    if "," in parts.netloc:
        msg = (
            f"{url!r} has a comma that no address follows; several brokers are written "
            f"{scheme}://first:{_PORTS[scheme]},{scheme}://second:{_PORTS[scheme]}"
        )
        raise ValueError(msg)
    if parts.netloc:
        read_address(text)  # its error does not show a port that is none, and may be a password
    if not parts.hostname:
        msg = f"{url!r} names no host; write {scheme}://host:{_PORTS[scheme]}"
        raise ValueError(msg)
    if parts.query or (parts.path not in ("", "/") and scheme not in ("ws", "wss")):
        msg = f"{url!r} has a path; a broker's address ends with its port"
        if parts.query:
            msg = "a broker's address has no query, which would be shown and logged"
        raise ValueError(msg)
    if parts.port == 0:  # reading it raises ValueError where it is no port at all
        msg = f"{url!r}: nobody listens on port 0; name the broker's port"
        raise ValueError(msg)


_DEFAULT_PACKET_311 = 1024 * 1024


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class BrokerSettings(_Settings):
    """The connection to the broker.

    Credentials in the URL (``mqtt://user:password@host``) are taken out of it and kept as
    `username` and `password`, so that the URL can be shown; those of the proxy likewise.

    A cluster of brokers that share sessions and retained values has several addresses, separated
    by commas: ``mqtt://a:1883,mqtt://b:1883``. The first one that answers is used, and the next
    ones in turn when it is gone. Write another one first on other devices to spread the load.
    """

    # An input may hold a password; every message of ours names what is wrong without it.
    model_config = ConfigDict(hide_input_in_errors=True)

    url: str = "mqtt://localhost:1883"
    """Address: mqtt://host:port, or mqtts:// for TLS; ws://host:port/path or wss:// over a
    WebSocket; a cluster's are separated by commas."""
    client: Literal["native", "paho"] | None = None
    """Implementation of MQTT: the own one, or paho-mqtt (extra `paho`), which also goes over
    WebSockets and through proxies; null: paho where the address or a proxy needs it."""
    proxy: str | None = None
    """Proxy to connect through: http://host:port (CONNECT), socks5:// or socks4://."""
    proxy_username: str | None = None
    """Name to log in to the proxy with."""
    proxy_password: SecretStr | None = None
    """Password to log in to the proxy with."""
    version: Literal["5", "3.1.1"] | None = None
    """Version of MQTT; null: 5, and 3.1.1 where the broker refuses that, hangs up or keeps
    silent."""
    profile: Literal["standard", "nats"] | None = None
    """Repairs beyond MQTT. nats: what a NATS server acknowledges late and may not have retained is
    published again, and what was subscribed to is subscribed to once more, a second later. null:
    nats where `version` is null and the broker refuses MQTT 5, as NATS does; else standard."""
    username: str | None = None
    """Name to log in with."""
    password: SecretStr | None = None
    """Password to log in with."""
    ca_file: Path | None = None
    """CA of the broker's certificate, PEM; null: those of the system."""
    cert_file: Path | None = None
    """Own certificate, PEM; null: none is shown."""
    key_file: Path | None = None
    """Key of the own certificate, PEM."""
    keepalive_s: int = Field(default=30, ge=1, le=65535)
    """Seconds without traffic after which the broker is asked for a sign of life."""
    connect_timeout_s: float = Field(default=10.0, gt=0)
    """Seconds after which a try to connect to one address has failed."""
    session_expiry_s: int = Field(default=86_400, ge=0, le=0xFFFFFFFF)
    """Seconds for which the broker keeps events for a service that is away; 0: not at all."""
    max_packet_bytes: int | None = Field(default=None, ge=256, le=268_435_455)
    """Largest packet to send, in bytes; null: what the broker announces (MQTT 5), 1 MiB on
    MQTT 3.1.1, where brokers announce none. Packets of up to 16 MiB, or of this size, are received
    (MQTT 5)."""
    receive_maximum: int = Field(default=1024, ge=1, le=65535)
    """Events that the broker may send ahead of their acknowledgement (MQTT 5)."""
    send_window: int = Field(default=100, ge=1, le=65535)
    """Events sent ahead of their acknowledgement."""

    @model_validator(mode="before")
    @classmethod
    def _take_credentials(cls, values: Any) -> Any:
        """Move user and password from the URL to their own fields."""
        if not isinstance(values, dict):
            return values
        for key, prefix in (("url", ""), ("proxy", "proxy_")):
            if not isinstance(values.get(key), str):
                continue
            url, credentials = take_credentials(values[key])
            values = {**values, key: url}
            if credentials is not None:
                values.setdefault(f"{prefix}username", credentials.username)
                if credentials.password is not None:
                    values.setdefault(f"{prefix}password", credentials.password)
        return values

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        read_addresses(value)
        return value

    @field_validator("proxy")
    @classmethod
    def _check_proxy(cls, value: str | None) -> str | None:
        if value is not None:
            read_proxy(value)
        return value

    @model_validator(mode="after")
    def _check_client(self) -> Self:
        if self.client == "native":
            for given in (*self.addresses, self.proxy):
                if isinstance(given, str) or (given is not None and given.websocket):
                    what = given if isinstance(given, str) else given.url
                    msg = f"client native cannot use {what}; set client to paho, or leave it out"
                    raise ValueError(msg)
        return self

    @property
    def uses_paho(self) -> bool:
        """True where paho-mqtt makes the connection."""
        needed = self.proxy is not None or any(each.websocket for each in self.addresses)
        return self.client == "paho" or needed

    @property
    def proxy_address(self) -> ProxyAddress:
        """The proxy that the settings name."""
        return read_proxy(self.proxy or "")

    @property
    def addresses(self) -> tuple[BrokerAddress, ...]:
        """The broker's address; several for a cluster, in the order in which they are tried."""
        return read_addresses(self.url)

    @property
    def host(self) -> str:
        """Host name or address, of the first where there are several."""
        return self.addresses[0].host

    @property
    def port(self) -> int:
        """TCP port, of the first where there are several; 1883 or, with TLS, 8883 by default."""
        return self.addresses[0].port

    @property
    def tls(self) -> bool:
        """True for an encrypted connection."""
        return self.addresses[0].tls

    @property
    def packet_limit(self) -> int | None:
        """Largest packet that may be sent, as far as the settings know it."""
        if self.max_packet_bytes is not None:
            return self.max_packet_bytes
        return _DEFAULT_PACKET_311 if self.version == "3.1.1" else None


class OutboxSettings(_Settings):
    """Events that the broker does not have yet."""

    durable: bool = True
    """Keep them on disk, in the service's data folder, so that they outlive the process."""
    path: Path | None = None
    """Folder for the file with them, another file for each identity; null: a service's data folder,
    or memory only for a bus without a service."""
    max_messages: int = Field(default=10_000, ge=1)
    """Most events that wait."""
    max_bytes: int = Field(default=64 * 1024 * 1024, ge=1)
    """Most bytes of payload that wait."""
    overflow: Literal["refuse", "drop_oldest"] = "refuse"
    """Refuse the new event, or drop the oldest, counted, when it is full and the broker away."""


class InboxSettings(_Settings):
    """Events acknowledged before their handlers are done, so that others come in behind them.

    They are on disk where the outbox is. A bus in memory only does it once 16 events wait, and
    after five times as long; a kill loses them.
    """

    after_s: float = Field(default=1.0, gt=0)
    """Seconds after which an event that is not handled is noted and acknowledged."""
    max_messages: int = Field(default=10_000, ge=0)
    """Most events that are acknowledged and not handled; 0: none ever is."""
    max_bytes: int = Field(default=64 * 1024 * 1024, ge=1)
    """Most bytes of their payload."""


class BusSettings(_Settings):
    """Limits and times of the bus. The defaults fit a service on a device."""

    outbox: OutboxSettings = OutboxSettings()
    """Events that the broker does not have yet."""
    inbox: InboxSettings = InboxSettings()
    """Events acknowledged before their handlers are done."""
    connect_wait_s: float = Field(default=5.0, ge=0)
    """Seconds for which opening waits for the broker before it goes on without."""
    backoff_first_s: float = Field(default=0.2, gt=0)
    """Longest pause before the first try to reconnect, in seconds; doubles with each try."""
    backoff_max_s: float = Field(default=30.0, gt=0)
    """Longest pause between two tries to reconnect, in seconds."""
    handler_s: float = Field(default=30.0, gt=0)
    """Seconds that a handler may take for one message; then it is cancelled, and the message is a
    dead letter."""
    dedup_ids: int = Field(default=16_384, ge=1)
    """Ids of handled messages that a subscription remembers, 0.2 to 0.3 kB each. More than an
    outbox holds: a publisher killed before its disk knew what had left sends all of it again."""
    max_held_bytes: int = Field(default=256 * 1024 * 1024, ge=1)
    """Bytes received and not handled, over all subscriptions, above which reading pauses."""
    orphan_grace_s: float = Field(default=10.0, ge=0)
    """Seconds for which events of a resumed session wait for their handler to subscribe."""
    dead_letters_retained: int = Field(default=16, ge=0, le=1024)
    """Dead letters of this service that the broker retains; 0: none."""
    dead_letter_bytes: int = Field(default=256 * 1024, ge=0)
    """Largest payload, in bytes, that is published with its dead letter."""
    dead_letters_burst: int = Field(default=100, ge=1)
    """Dead letters that one subscription may publish at once."""
    dead_letters_per_s: float = Field(default=1.0, ge=0)
    """Dead letters that one subscription may publish per second after that."""
    ephemeral: bool = False
    """For tools: a unique client id and no session at the broker."""


class RetryPolicy(_Settings):
    """Retries of a handler that fails.

    The delay before attempt n + 1 is `first_delay_s` * `factor` ** (n - 1), at most `max_delay_s`.
    """

    attempts: int = Field(default=3, ge=1)
    """Calls in total, the first included."""
    first_delay_s: float = Field(default=0.1, ge=0)
    """Seconds between the first and the second call."""
    factor: float = Field(default=4.0, ge=1)
    """Growth of the delay from one call to the next."""
    max_delay_s: float = Field(default=10.0, ge=0)
    """Longest delay between two calls, in seconds."""

    def delay(self, attempt: int) -> float:
        """Seconds to rest after failed attempt number `attempt`, counted from 1."""
        return min(self.max_delay_s, self.first_delay_s * self.factor ** (attempt - 1))
