"""From valid to hostile: damaged bytes, and JSON that no honest sender writes."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from random import Random
from typing import Any

__all__ = ["Raw", "dump", "mutated_bytes", "mutated_json"]


class Raw:
    """A piece of JSON text that goes out as it is, right or wrong."""

    def __init__(self, text: str) -> None:
        self.text = text


Pairs = list[tuple[str, Any]]
"""An object of JSON as its pairs, so that a name can occur twice."""

_DEEP = 100_000
_LARGEST = 2 * 2**20
"""Bytes that a repeated piece may grow to; brokers let through no more than a few megabytes."""
_WORDS = (
    "",
    "\0",
    "+",
    "#",
    "$SYS",
    "a/b",
    "../../../etc/passwd",
    "\ud800",
    "\u202e",
    "x" * 70_000,
    "NaN",
    "-1",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    "1969-12-31T23:59:59Z",
    "2026-02-30T00:00:00Z",
    "2026-11-22T10:00:00",
    "F" * 64,
    "0" * 63,
    "site/node/service/more",
    "//",
    "%s%n{0}{here}",
    "\x1b[2J",
)
_NUMBERS = (
    0,
    -1,
    1,
    2**31,
    2**53,
    2**63 - 1,
    2**63,
    2**64,
    10**30,
    10**400,
    1e308,
    -1e308,
    5e-324,
    -0.0,
    0.1,
)
_TOKENS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    "9" * 5000,
    "0x10",
    "01",
    "1.",
    "truefalse",
    '"\\ud800"',
    '"\\ud800\\u0041"',
    '"\\u0000"',
    '"\\x41"',
    "'a'",
    "//",
    "/*",
    "",
    ",",
    "[" * _DEEP,
    "[" * _DEEP + "]" * _DEEP,
    '{"a":' * _DEEP + "1" + "}" * _DEEP,
    "[" * 100 + "]" * 100,
    "[" * 195 + "]" * 195,
    "[" * 900 + "]" * 900,
    "[" * 960 + "]" * 960,
    "[" * 990 + "]" * 990,
    "[" + "0," * 20_000 + "0]",
)
_INTEGERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


def mutated_bytes(random: Random, data: bytes, *, other: bytes = b"") -> bytes:
    """`data` with a few damages.

    Args:
        random: Chooses them.
        data: What is damaged.
        other: Something valid of which a piece may get in.
    """
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        data = random.choice(_DAMAGES)(random, data, other)
    return data


def mutated_json(random: Random, tree: Any) -> bytes:
    """JSON like `tree`, with a few values, names or pairs that should not be there."""
    pairs = _as_pairs(tree)
    for _ in range(random.choice((1, 1, 2, 3))):
        pairs = _spoilt(random, pairs)
    try:
        return dump(pairs).encode()
    except UnicodeEncodeError:
        return dump(pairs).encode(errors="surrogatepass")  # no UTF-8, as a careless writer's


def dump(tree: Any) -> str:
    """JSON text; objects are lists of pairs in `_Object`."""
    if isinstance(tree, Raw):
        return tree.text
    if isinstance(tree, _Object):
        return "{" + ",".join(f"{json.dumps(k)}:{dump(v)}" for k, v in tree.pairs) + "}"
    if isinstance(tree, list):
        return "[" + ",".join(map(dump, tree)) + "]"
    # Half of the senders of this world write characters, the other half escapes.
    return json.dumps(tree, ensure_ascii=isinstance(tree, str) and len(tree) % 2 == 0)


class _Object:
    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs


def _as_pairs(tree: Any) -> Any:
    if isinstance(tree, dict):
        return _Object([(key, _as_pairs(value)) for key, value in tree.items()])
    if isinstance(tree, list):
        return [_as_pairs(item) for item in tree]
    return tree


def _spoilt(random: Random, tree: Any) -> Any:
    """Go down to some place and change it."""
    if isinstance(tree, _Object) and tree.pairs and random.random() < 0.9:
        place = random.randrange(len(tree.pairs))
        name, value = tree.pairs[place]
        pairs = list(tree.pairs)
        what = random.random()
        if what < 0.70:
            pairs[place] = (name, _spoilt(random, value))
        elif what < 0.78:
            del pairs[place]
        elif what < 0.86:
            pairs.append((name, _hostile(random)))  # the same name again
        elif what < 0.93:
            pairs.append((random.choice(_WORDS), _hostile(random)))
        else:
            pairs[place] = (random.choice((*_WORDS, name.upper(), name + " ")), value)
        return _Object(pairs)
    if isinstance(tree, list) and tree and random.random() < 0.8:
        items = list(tree)
        place = random.randrange(len(items))
        if random.random() < 0.2 and len(items) < 50:
            times = random.choice((2, 100, 2000))
            return items * min(times, 1 + _LARGEST // (1 + len(dump(items))))
        items[place] = _spoilt(random, items[place])
        return items
    return _hostile(random)


def _hostile(random: Random) -> Any:
    kind = random.random()
    if kind < 0.35:
        return random.choice(_WORDS)
    if kind < 0.65:
        return random.choice(_NUMBERS)
    if kind < 0.85:
        return Raw(random.choice(_TOKENS))
    return random.choice((None, True, [], _Object([]), [None], _Object([("a", 1)])))


def _flip(random: Random, data: bytes, _other: bytes) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _set(random: Random, data: bytes, _other: bytes) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    changed[random.randrange(len(data))] = random.choice((0, 0x22, 0x5C, 0x7B, 0x80, 0xD8, 0xFF))
    return bytes(changed)


def _cut(random: Random, data: bytes, _other: bytes) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _remove(random: Random, data: bytes, _other: bytes) -> bytes:
    start, length = _range(random, data)
    return data[:start] + data[start + length :]


def _repeat(random: Random, data: bytes, _other: bytes) -> bytes:
    start, length = _range(random, data)
    times = random.choice((1, 2, 50))
    return data[:start] + data[start : start + length] * times + data[start:]


def _insert(random: Random, data: bytes, _other: bytes) -> bytes:
    at = random.randrange(len(data) + 1)
    noise = random.choice(
        (random.randbytes(random.choice((1, 4, 64))), b"\xff" * 300, b"\0" * 300, b"\xed\xa0\x80")
    )
    return data[:at] + noise + data[at:]


def _number(random: Random, data: bytes, _other: bytes) -> bytes:
    """A length or an offset that lies."""
    form = random.choice(("<B", ">H", "<H", ">I", "<I", "<Q"))
    size = struct.calcsize(form)
    if len(data) < size:
        return data
    at = random.randrange(len(data) - size + 1)
    value = random.choice(_INTEGERS) & (256**size - 1)
    return data[:at] + struct.pack(form, value) + data[at + size :]


def _splice(random: Random, data: bytes, other: bytes) -> bytes:
    start, length = _range(random, other)
    at, over = _range(random, data)
    return data[:at] + other[start : start + length] + data[at + over :]


def _nothing(_random: Random, _data: bytes, _other: bytes) -> bytes:
    return b""


def _range(random: Random, data: bytes) -> tuple[int, int]:
    start = random.randrange(len(data) + 1)
    return start, random.randrange(min(len(data) - start, 400) + 1)


_DAMAGES: tuple[Callable[[Random, bytes, bytes], bytes], ...] = (
    _flip,
    _flip,
    _set,
    _set,
    _cut,
    _remove,
    _repeat,
    _insert,
    _number,
    _number,
    _splice,
    _nothing,
)
