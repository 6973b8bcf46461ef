"""Addresses that may hold a password: read as people write them, shown without their secrets."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final
from urllib.parse import quote, unquote, urlsplit
from urllib.request import url2pathname

HIDDEN: Final = "***"

# Name of a setting or an option whose value is a secret.
SECRET_NAME: Final = re.compile(
    r"password|passwd|passphrase|secret|token|credential|private|api_?key", re.IGNORECASE
)

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*://"
# An address in a text ends with the quotes around it, else at white space or where a list of
# addresses goes on. Without a scheme only `user:password@` shows one.
_IN_TEXT = re.compile(
    rf"""
    (?P<quote>["']) (?P<quoted>{_SCHEME}) (?P<inside>(?:\\.|(?!(?P=quote))[^\n])*) (?P=quote)
    | (?P<scheme>{_SCHEME}) (?P<rest>(?:(?!,\s*{_SCHEME})[^\s])*)
    | (?<![^\s"'=(\[]) [^\s/:@"'={{}}]+ : (?!//) [^\s"']* @ (?=[\w\[])
    """,
    re.VERBOSE,
)
_CLOSING = ".,;:!)]}>'\""
# `port` stands for a number in what tells people how to write an address.
_PLACE = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[^:@\[\]&=]*)(?::(?:\d*|port))?")
_ANOTHER = re.compile(rf",\s*(?={_SCHEME})")
_DELIMITER = re.compile(r"[/?#]")


def hide_credentials(text: str) -> str:
    """A text without the secrets of any address in it.

    What stands before a host is hidden, a query whole, and a path from where it holds an ``=``:
    there is no complete list of what devices call a password. Where it cannot be told which ``@``
    ends the password, nothing behind the scheme is shown.
    """
    return _IN_TEXT.sub(_hide, text) if ":" in text else text


def public_address(address: str) -> str:
    """The part of an address that may be shown: scheme, host and port; anything else as it is.

    A path may be a secret too (a stream's key), so it is left out.
    """
    scheme, mark, rest = address.partition("://")
    if not mark:
        return hide_credentials(address)
    shown = _shown(rest)
    place, slash, _ = shown.removeprefix(f"{HIDDEN}@").partition("/")
    before = f"{HIDDEN}@" if shown.startswith(f"{HIDDEN}@") else ""
    place, query, _ = place.partition("?")
    return f"{scheme}://{before}{place}" + ("/…" if slash or query else "")


def hide_argument(word: str) -> str:
    """A word of a command line without its secrets; an address in it goes on to the word's end."""
    if found := re.search(_SCHEME, word):
        return word[: found.start()] + public_address(word[found.start() :])
    key, equals, _ = word.rpartition("=")
    return f"{key}={HIDDEN}" if equals and SECRET_NAME.search(key) else hide_credentials(word)


def has_credentials(text: str) -> bool:
    """True for a text with an address of which something is hidden."""
    return hide_credentials(text) != text


def local_path(source: str) -> str:
    """The path of a ``file:`` address; anything else as it is.

    Raises:
        ValueError: It names another host.
    """
    if source[:5].lower() != "file:":
        return source
    parts = urlsplit(source)
    if parts.netloc not in ("", "localhost"):
        msg = f"file://{parts.netloc}/… names a host; a file of this one is file:///path"
        raise ValueError(msg)
    # Not parts.path: a file's name may hold a ? or a #.
    return url2pathname(source[5:].removeprefix(f"//{parts.netloc}"))


@dataclass(frozen=True, slots=True)
class Address:
    """An address in its parts.

    Attributes:
        scheme: In lower case.
        username: Decoded; None where it names none.
        password: Decoded.
        place: Host and port as written.
        tail: Path, query and fragment as written.
    """

    scheme: str
    username: str | None
    password: str | None = field(repr=False)
    place: str
    tail: str = field(repr=False)

    @property
    def bare(self) -> str:
        """The address without user and password."""
        return f"{self.scheme}://{self.place}{self.tail}"

    @property
    def url(self) -> str:
        """The whole address, with what is reserved in user and password written as %XX."""
        if self.username is None:
            return self.bare
        user = quote(self.username, safe="")
        if self.password is not None:
            user += f":{quote(self.password, safe='')}"
        return f"{self.scheme}://{user}@{self.place}{self.tail}"


def read_address(text: str) -> Address:
    """Read an address whose password may hold what a URL reserves: ``/``, ``@``, ``?``, ``#``.

    Raises:
        ValueError: It is no address, or may be read in two ways; the text never shows it.
    """
    if re.search(r"[\s\x00-\x1f\x7f]", text):
        msg = "an address holds white space or a control character; write a space as %20"
        raise ValueError(msg)
    scheme, mark, rest = text.partition("://")
    if not mark or not re.fullmatch(_SCHEME, f"{scheme}://"):
        msg = f"{public_address(text)!r} is no address, such as scheme://host:port"
        raise ValueError(msg)
    userinfo, after = _split_user(rest)
    place, tail = _split_place(after)
    if userinfo is None:
        return Address(scheme.lower(), None, None, place, tail)
    name, colon, password = userinfo.partition(":")
    return Address(scheme.lower(), _decode(name), _decode(password) if colon else None, place, tail)


def _split_user(rest: str) -> tuple[str | None, str]:
    """User and password, and what follows them."""
    readings: list[tuple[str | None, str]] = []
    for at in (-1, *(number for number, char in enumerate(rest) if char == "@")):
        userinfo, after = (None, rest) if at < 0 else (rest[:at], rest[at + 1 :])
        place = _split_place(after)[0]
        # What follows the last `user:` must be a host; a user without a password has no slash.
        if not place or not _PLACE.fullmatch(place):
            continue
        if userinfo and _DELIMITER.search(userinfo) and ":" not in userinfo:
            continue
        # An @ in a query belongs to it: ?user=me@example.com
        if readings and re.search(r"\?[^@]*=", readings[0][1][: len(readings[0][1]) - len(after)]):
            break
        readings.append((userinfo, after))
    if not readings:
        msg = "an address names no host, or no number as its port; write scheme://host:port"
        raise ValueError(msg)
    if len(readings) > 1 and readings[0][0] is not None:
        # `p@ss/word@10.0.0.1`: of several hosts the one that looks like one.
        likely = [reading for reading in readings if _looks_like_host(reading[1])]
        readings = likely if len(likely) == 1 else readings
    if len(readings) > 1:
        msg = (
            "an address may be read in two ways: it has an @ behind a / or ?; write it as %40, "
            "and in a password / as %2F, ? as %3F"
        )
        raise ValueError(msg)
    return readings[0]


def _split_place(rest: str) -> tuple[str, str]:
    found = _DELIMITER.search(rest)
    return (rest, "") if found is None else (rest[: found.start()], rest[found.start() :])


def _looks_like_host(after: str) -> bool:
    place = _split_place(after)[0]
    host = place if place.startswith("[") else place.partition(":")[0]
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return "." in host or host == "localhost" or ":" in place
    return True


def _decode(text: str) -> str:
    """Decode %XX; any other % is itself, as people write it."""
    return unquote(re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", text))


def _hide(found: re.Match[str]) -> str:
    if found["quoted"]:
        several = _ANOTHER.split(found["quoted"] + found["inside"])
        parts = [address.partition("://") for address in several]
        shown = ",".join(f"{scheme}://{_shown(rest)}" for scheme, _, rest in parts)
        return f"{found['quote']}{shown}{found['quote']}"
    if scheme := found["scheme"]:
        rest = found["rest"].rstrip(_CLOSING)
        return f"{scheme}{_shown(rest)}{found['rest'][len(rest) :]}"
    return f"{HIDDEN}@"


def _shown(rest: str) -> str:
    """The rest of an address behind its scheme, without its secrets."""
    head, tail = _split_place(rest)
    if "@" in tail or any(char.isspace() for char in rest):
        try:
            userinfo, after = _split_user(rest)
        except ValueError:
            return HIDDEN
        head, tail = _split_place(after)
        head = head if userinfo is None else f"{HIDDEN}@{head}"
    _user, at, place = head.rpartition("@")
    if not _PLACE.fullmatch(place):
        return HIDDEN
    path, mark, _ = re.sub("#", "?", tail).partition("?")
    if "=" in path:
        path = f"{path[: path.index('=')].rpartition('/')[0]}/{HIDDEN}"
    return (f"{HIDDEN}@" if at else "") + place + path + (f"?{HIDDEN}" if mark else "")
