"""Valid values of any message: what hostile ones are made from.

Everything is drawn from a `random.Random`. A seeded one makes a case that can be repeated from
its number; hypothesis gives one that it can shrink.
"""

from __future__ import annotations

import string
import types
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import annotated_types as at
from pydantic import AfterValidator, AwareDatetime, BaseModel, JsonValue
from pydantic.fields import FieldInfo

from edgebus.contracts import Digest, Segment, Source, Timestamp, new_id
from edgebus_detection.messages import Box

__all__ = ["Maker", "text"]

M = TypeVar("M", bound=BaseModel)
Make = Callable[["Maker", dict[str, Any]], Any]

_LARGEST = 2**53 - 1
_LETTERS = string.ascii_letters + string.digits + "-_.~äß漢字😀"
_TEXT = string.printable + "äöüß€漢字😀\u200b\u202e\ufffd\0"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS = int((datetime(2200, 1, 1, tzinfo=UTC) - _EPOCH).total_seconds())


def _validator(annotation: Any) -> Any:
    found = next(item for item in get_args(annotation) if isinstance(item, AfterValidator))
    return found.func


class Maker:
    """Makes values of the types that messages are built from.

    Args:
        random: Where every choice comes from.
    """

    def __init__(self, random: Random) -> None:
        self.random = random

    def model(self, kind: type[M], **given: Any) -> M:
        """A valid instance of a message or a part of one.

        Args:
            kind: Its class.
            given: Fields that are not left to chance.
        """
        values = dict(given)
        for name, make, required in _recipe(kind):
            if name in values:
                continue
            if required or self.random.random() < 0.7:
                values[name] = make(self, values)
        return kind.model_validate(values)

    def box(self, width: int, height: int) -> Box:
        """A box with an area, inside its frame."""
        x1, x2 = self._span(width)
        y1, y2 = self._span(height)
        score = self.random.choice((None, 0.0, 1.0, self.random.random()))
        return Box(label=text(self.random, 1, 12), x1=x1, y1=y1, x2=x2, y2=y2, score=score)

    def segment(self) -> str:
        """A name that can be a level of a topic."""
        length = self.random.choice((1, 3, 8, 96))
        name = "".join(self.random.choice(_LETTERS) for _ in range(length))
        return "dot" if name in {".", ".."} else name

    def json(self, depth: int = 2) -> JsonValue:
        """Any JSON."""
        kind = self.random.randrange(7 if depth else 5)
        if kind == 5:
            return [self.json(depth - 1) for _ in range(self.random.randint(0, 3))]
        if kind == 6:
            return {text(self.random): self.json(depth - 1) for _ in range(2)}
        number = self.random.randint(-_LARGEST, _LARGEST)
        return (None, True, number, self.random.random(), text(self.random))[kind]

    def digest(self) -> str:
        """64 hexadecimal digits."""
        return f"{self.random.getrandbits(256):064x}"

    def instant(self) -> datetime:
        """A moment between 1970 and 2200, to the microsecond."""
        shift = timedelta(
            seconds=self.random.randrange(_SECONDS), microseconds=self.random.randrange(10**6)
        )
        return _EPOCH + shift

    def _span(self, limit: int) -> tuple[float, float]:
        first, second = sorted((self.random.random() * limit, self.random.random() * limit))
        return (first, second) if second > first else (0.0, float(limit))


def text(random: Random, shortest: int = 0, longest: int = 24) -> str:
    """Any text, strange characters included."""
    length = random.randint(shortest, longest)
    return "".join(random.choice(_TEXT) for _ in range(length))


_SPECIAL: dict[Any, Make] = {
    _validator(Segment): lambda maker, _: maker.segment(),
    _validator(Digest): lambda maker, _: maker.digest(),
    _validator(Source): lambda maker, _: "/".join(maker.segment() for _ in range(3)),
    _validator(Timestamp): lambda maker, _: maker.instant(),
}
_RECIPES: dict[type[BaseModel], list[tuple[str, Make, bool]]] = {}


def _recipe(kind: type[BaseModel]) -> list[tuple[str, Make, bool]]:
    """How to make each field of a model, in their order."""
    found = _RECIPES.get(kind)
    if found is None:
        fields = dict(kind.model_fields)
        # Boxes have to lie inside the frame: its size comes first.
        order = sorted(fields, key=lambda name: name not in ("width", "height"))
        found = _RECIPES[kind] = [
            (
                name,
                _maker(fields[name].annotation, fields[name].metadata),
                # The bus fills some in, and no message on the wire lacks them.
                fields[name].is_required() or name in getattr(kind, "STAMPED", ()),
            )
            for name in order
            # The schema of a message that others build upon is text, and still not any text.
            if name != "schema_" or fields[name].annotation is not str
        ]
    return found


def _maker(annotation: Any, metadata: list[Any]) -> Make:
    """How to make a value of a type; what cannot be made is an error, here and now."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner, *extra = arguments
        return _maker(inner, [*metadata, *extra])
    rules = _flat(metadata)
    for rule in rules:
        if isinstance(rule, AfterValidator) and rule.func in _SPECIAL:
            return _SPECIAL[rule.func]
    if origin is Literal:
        return lambda maker, _: maker.random.choice(arguments)
    if origin in (Union, types.UnionType):
        options = [_maker(item, metadata) for item in arguments]
        return lambda maker, values: maker.random.choice(options)(maker, values)
    if origin is tuple:
        return _tuple_maker(arguments, rules)
    if origin is dict:
        value = _maker(arguments[1], [])
        return lambda maker, values: {
            text(maker.random): value(maker, values) for _ in range(maker.random.randint(0, 3))
        }
    if annotation is JsonValue:
        return lambda maker, _: maker.json()
    if annotation is types.NoneType:
        return lambda maker, _: None
    if annotation is Box:
        return lambda maker, values: maker.box(values.get("width", 64), values.get("height", 48))
    if annotation is JsonValue:
        return lambda maker, _: _json_value(maker.random, depth=3)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return lambda maker, _: maker.model(annotation)
    return _scalar_maker(annotation, rules)


def _tuple_maker(arguments: tuple[Any, ...], rules: list[Any]) -> Make:
    if arguments[-1] is not Ellipsis:
        parts = [_maker(item, []) for item in arguments]
        return lambda maker, values: tuple(part(maker, values) for part in parts)
    item = _maker(arguments[0], [])
    least = next((rule.min_length for rule in rules if isinstance(rule, at.MinLen)), 0)

    def make(maker: Maker, values: dict[str, Any]) -> tuple[Any, ...]:
        made = [item(maker, values) for _ in range(least + maker.random.choice((0, 1, 2, 5)))]
        # Names in a list have to differ wherever it matters.
        return tuple({_name(value): value for value in made}.values())

    return make


def _json_value(random: Random, *, depth: int) -> Any:
    leaf = random.choice((None, True, False, 0, -1.5, _LARGEST, text(random)))
    if not depth:
        return leaf
    count = random.randint(0, 3)
    below = [_json_value(random, depth=depth - 1) for _ in range(count)]
    return random.choice((leaf, below, {text(random): value for value in below}))


def _name(value: Any) -> Any:
    if isinstance(value, str):
        return value
    name = getattr(value, "name", None)
    return name if isinstance(name, str) else id(value)


def _scalar_maker(annotation: Any, rules: list[Any]) -> Make:
    low, high = _bounds(rules)
    if annotation is bool:
        return lambda maker, _: maker.random.random() < 0.5
    if annotation is int:
        least = 0 if low is None else int(low)
        most = _LARGEST if high is None else int(high)
        edges = (least, most, min(most, least + 1), min(most, least + 1000))
        return lambda maker, _: maker.random.choice((*edges, maker.random.randint(least, most)))
    if annotation is float:
        return lambda maker, _: _float(maker.random, low, high)
    if annotation is str:
        if any(getattr(rule, "pattern", None) for rule in rules):
            return lambda maker, _: new_id()
        shortest = next((rule.min_length for rule in rules if isinstance(rule, at.MinLen)), 0)
        return lambda maker, _: text(maker.random, shortest)
    if annotation is AwareDatetime:
        return lambda maker, _: maker.instant()
    msg = f"nobody knows how to make a {annotation} with {rules}; teach tests.soak.making"
    raise TypeError(msg)


def _float(random: Random, low: float | None, high: float | None) -> float:
    """A finite number; `low` above zero is the least, of a strict bound a little more."""
    if low is not None and high is not None:
        return random.choice((low, high, random.uniform(low, high)))
    value = random.choice((0.0, 1.0, 1e-300, 5e-324, 0.1, 1e16, 10 ** random.uniform(-30, 30)))
    value = value if low is not None or random.random() < 0.5 else -value
    return value if low is None else max(value, low)


def _flat(metadata: list[Any]) -> list[Any]:
    found: list[Any] = []
    for item in metadata:
        found += item.metadata if isinstance(item, FieldInfo) else [item]
    return found


def _bounds(rules: list[Any]) -> tuple[float | None, float | None]:
    low: Any = None
    high: Any = None
    for rule in rules:
        low = getattr(rule, "ge", low)
        if isinstance(rule, at.Gt):
            low = rule.gt + 1e-9  # type: ignore[operator]
        high = getattr(rule, "le", getattr(rule, "lt", high))
    return low, high
