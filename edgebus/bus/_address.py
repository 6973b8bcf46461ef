"""Where brokers are: one address, or several of one cluster, separated by commas."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

__all__ = ["BrokerAddress", "Credentials", "read_addresses", "take_credentials"]

_PORTS = {"mqtt": 1883, "mqtts": 8883}
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
    """

    url: str
    host: str
    port: int
    tls: bool


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a URL says about who connects."""

    username: str
    password: str | None


def take_credentials(text: str) -> tuple[str, Credentials | None]:
    """Separate user and password from the addresses.

    Args:
        text: One or several URLs; those that name a user all name the same one.

    Returns:
        The URLs without them, and what they said.

    Raises:
        ValueError: One of them is no URL, or they differ in user or password.
    """
    bare: list[str] = []
    found: dict[Credentials, str] = {}
    for url in _SEPARATOR.split(text.strip()):
        parts = urlsplit(url)
        name, _, place = parts.netloc.rpartition("@")
        bare.append(parts._replace(netloc=place).geturl() if name else url)
        if parts.username is not None:
            password = None if parts.password is None else unquote(parts.password)
            found.setdefault(Credentials(unquote(parts.username), password), bare[-1])
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
                "write mqtts:// for all of them, or mqtt:// for all"
            )
            raise ValueError(msg)
        place = (address.host, address.port)
        if place in places:
            msg = f"{address.url} is there twice; name each broker once"
            raise ValueError(msg)
        places.add(place)
    return addresses


def _read(url: str) -> BrokerAddress:
    parts = urlsplit(url)
    scheme = parts.scheme
    if scheme not in _PORTS:
        msg = f"{url!r} is no broker address; write mqtt://host:port or mqtts://host:port"
        raise ValueError(msg)
    _check(url, parts)
    return BrokerAddress(
        url=url,
        host=parts.hostname or "",
        port=parts.port or _PORTS[scheme],
        tls=scheme == "mqtts",
    )


def _check(url: str, parts: SplitResult) -> None:
    scheme = parts.scheme
    if "," in parts.netloc:
        msg = (
            f"{url!r} has a comma that no address follows; several brokers are written "
            f"{scheme}://first:{_PORTS[scheme]},{scheme}://second:{_PORTS[scheme]}"
        )
        raise ValueError(msg)
    if not parts.hostname:
        msg = f"{url!r} names no host; write {scheme}://host:{_PORTS[scheme]}"
        raise ValueError(msg)
    if parts.path not in ("", "/") or parts.query:
        msg = f"{url!r} has a path; a broker's address ends with its port"
        raise ValueError(msg)
    if parts.port == 0:  # reading it raises ValueError where it is no port at all
        msg = f"{url!r}: nobody listens on port 0; name the broker's port"
        raise ValueError(msg)
