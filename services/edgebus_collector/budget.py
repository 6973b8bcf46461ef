"""Budget of what a node may send: token buckets, without a clock of their own."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from edgebus.service import ServiceSettings

Positive = Annotated[float, Field(gt=0)]

Kind = Literal["train", "holdout", "audit"]
"""Purpose of a sample: to train on, to measure on, or to see what nobody finds wrong."""

_ASKED_LATELY_S = 600.0
_MAX_STREAMS = 256


class BudgetSettings(ServiceSettings):
    """Budget of the node.

    It is shared evenly by the streams that have something to send. Samples that were asked for by
    a command, and those of operators, do not count.
    """

    samples_per_minute: Positive = 60.0
    """Samples per minute, of all kinds together. A minute's worth can be saved up."""
    bytes_per_hour: Positive = 200e6
    """Bytes per hour, of all kinds together. A quarter of an hour's worth can be saved up."""
    holdout_share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of everything that only held-out samples may use."""
    audit_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share that only audited samples may use; 0: they are paid from the rest."""
    samples_per_hour: Positive | None = None
    """Samples per hour, a second limit for the long run; null: there is none. A quarter of an
    hour's worth can be saved up."""
    burst_s: Positive | None = None
    """Seconds' worth that can be saved up, instead: the shorter, the more evenly it is spent."""
    feedback_per_minute: Positive = 30.0
    """Samples per minute that operators may send; an automation that runs wild is no operator. No
    node's feedback may use more than half of it."""

    @model_validator(mode="after")
    def _something_is_left(self) -> Self:
        if self.holdout_share + self.audit_share >= 1:
            msg = (
                f"holdout_share {self.holdout_share:g} and audit_share {self.audit_share:g} leave "
                "nothing for hard inputs; their sum has to be below 1"
            )
            raise ValueError(msg)
        return self


class TokenBucket:
    """Token bucket: tokens per second, saved up to a capacity (RFC 2697's committed bucket).

    Args:
        rate: Tokens per second.
        capacity: The most that can be saved up; the bucket starts full.
    """

    def __init__(self, *, rate: float, capacity: float) -> None:
        if rate <= 0 or capacity <= 0:
            msg = f"a bucket of {capacity} tokens at {rate}/s lets nothing through; use more than 0"
            raise ValueError(msg)
        self._rate = rate
        self._capacity = capacity
        self._tokens = capacity
        self._time: float | None = None

    def available(self, now: float) -> float:
        """Tokens at a time, in seconds of a clock that never goes back."""
        if self._time is not None and now > self._time:
            self._tokens = min(self._capacity, self._tokens + (now - self._time) * self._rate)
        self._time = now if self._time is None else max(now, self._time)
        return self._tokens

    def spend(self, amount: float) -> None:
        """Take tokens out; the level may become negative and is then waited for."""
        self._tokens -= amount

    def resize(self, *, rate: float, capacity: float, now: float) -> None:
        """Another rate and capacity from now on."""
        self._tokens = min(self.available(now), capacity)
        self._rate, self._capacity = rate, capacity


@dataclass(frozen=True, slots=True)
class _Limit:
    """A rate per second, and how much of it can be saved up."""

    rate: float
    capacity: float
    unit: float
    """The least capacity that lets anything through."""

    def share(self, part: float) -> _Limit:
        """A part of it."""
        return _Limit(self.rate * part, max(self.unit, self.capacity * part), self.unit)


class _Purse:
    """Buckets of one kind of sample, the last one of bytes."""

    def __init__(self, limits: tuple[_Limit, ...]) -> None:
        self._limits = limits
        self._buckets = [TokenBucket(rate=limit.rate, capacity=limit.capacity) for limit in limits]

    def affords(self, now: float) -> bool:
        """Whether another sample may be sent.

        One that is larger than the whole byte bucket passes when there is anything in it, and is
        paid off afterwards: large inputs are rare, not impossible.
        """
        *samples, size = (bucket.available(now) for bucket in self._buckets)
        return all(tokens >= 1 for tokens in samples) and size > 0

    def pay(self, size: int) -> None:
        """Pay for one sample of `size` bytes."""
        *samples, last = self._buckets
        for bucket in samples:
            bucket.spend(1)
        last.spend(size)

    def resize(self, part: float, now: float) -> None:
        """Only a part of the limits counts from now on."""
        for bucket, limit in zip(self._buckets, self._limits, strict=True):
            some = limit.share(part)
            bucket.resize(rate=some.rate, capacity=some.capacity, now=now)


class Budget:
    """Samples and bytes that a node may send, divided by purpose and by stream.

    By purpose: a part is only for held-out samples, and a part only for the audit. Without the
    first, a stream in trouble would spend everything on hard inputs and leave nothing to measure
    the next model on.

    By stream: each may spend at most its share of what there is, which is an n-th while n streams
    have wanted to send something in the last ten minutes. So one that floods pays for it alone,
    and one that is alone has everything.
    """

    def __init__(self, settings: BudgetSettings) -> None:
        def limit(rate: float, saved_s: float, unit: float) -> _Limit:
            return _Limit(rate, rate * (settings.burst_s or saved_s), unit)

        limits = [limit(settings.samples_per_minute / 60, 60, 1.0)]
        if settings.samples_per_hour is not None:
            limits.append(limit(settings.samples_per_hour / 3600, 900, 1.0))
        limits.append(limit(settings.bytes_per_hour / 3600, 900, 1.0))
        holdout, audit = settings.holdout_share, settings.audit_share
        parts: dict[Kind, float] = {"train": 1 - holdout - audit, "holdout": holdout}
        if audit:
            parts["audit"] = audit
        own = {kind: tuple(one.share(part) for one in limits) for kind, part in parts.items()}
        self._purses = {kind: _Purse(limits) for kind, limits in own.items()}
        self._shares = {kind: _Shares(limits) for kind, limits in own.items()}

    def take(self, *, size: int, kind: Kind, stream: str, now: float) -> bool:
        """Whether a sample of `size` bytes may be sent now; if so, it is paid for."""
        kind = kind if kind in self._purses else "train"
        common = self._purses[kind]
        own = self._shares[kind].of(stream, now)
        if not (common.affords(now) and own.affords(now)):
            return False
        common.pay(size)
        own.pay(size)
        return True


class _Shares:
    """Each stream's share of one kind."""

    def __init__(self, limits: tuple[_Limit, ...]) -> None:
        self._limits = limits
        self._streams: OrderedDict[str, tuple[_Purse, float]] = OrderedDict()

    def of(self, stream: str, now: float) -> _Purse:
        """The purse of a stream, which has asked now."""
        before = len(self._streams)
        known = self._streams.pop(stream, None)
        purse = _Purse(self._limits) if known is None else known[0]
        self._streams[stream] = (purse, now)  # in the order of asking: the first asked longest ago
        while (
            len(self._streams) > _MAX_STREAMS
            or next(iter(self._streams.values()))[1] < now - _ASKED_LATELY_S
        ):
            self._streams.popitem(last=False)
        if len(self._streams) != before or known is None:
            part = 1 / len(self._streams)
            for other, _ in self._streams.values():
                other.resize(part, now)
        return purse
