"""What a node may send: token buckets, without a clock of their own."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

__all__ = ["Budget", "Kind", "TokenBucket"]

Kind = Literal["train", "holdout", "audit"]
"""What a sample is for: to train on, to measure on, or to see what nobody finds wrong."""

_ASKED_LATELY_S = 600.0
_MAX_CAMERAS = 256


class TokenBucket:
    """So many tokens per second, saved up to a capacity (RFC 2697's committed bucket).

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
    """So much per second, and so much of it saved up."""

    rate: float
    capacity: float
    unit: float
    """The least capacity that lets anything through."""

    def share(self, part: float) -> _Limit:
        """A part of it."""
        return _Limit(self.rate * part, max(self.unit, self.capacity * part), self.unit)

    def bucket(self) -> TokenBucket:
        """A full bucket."""
        return TokenBucket(rate=self.rate, capacity=self.capacity)


class _Purse:
    """What one kind of sample may cost: buckets of samples, the last one of bytes."""

    def __init__(self, limits: tuple[_Limit, ...]) -> None:
        self._limits = limits
        self._buckets = [limit.bucket() for limit in limits]

    def affords(self, now: float) -> bool:
        """Whether another sample may be sent.

        One that is larger than the whole byte bucket passes when there is anything in it, and is
        paid off afterwards: large pictures are rare, not impossible.
        """
        *samples, size = (bucket.available(now) for bucket in self._buckets)
        return all(tokens >= 1 for tokens in samples) and size > 0

    def pay(self, size: int) -> None:
        """For one sample of so many bytes."""
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
    """Samples and bytes that a node may send, divided by purpose and by camera.

    By purpose: a part is only for held-out samples, and a part only for the audit. Without the
    first, a camera in trouble would spend everything on hard frames and leave nothing to measure
    the next model on.

    By camera: each may spend at most its share of what there is, which is an n-th while n cameras
    have wanted to send something in the last ten minutes. So one that floods pays for it alone,
    and one that is alone has everything.

    Args:
        samples_per_minute: Of all kinds together.
        bytes_per_hour: Of all kinds together.
        holdout_share: The part of everything that only held-out samples may use, 0 to 1.
        audit_share: The part that only audited samples may use; 0: they are paid from the rest.
        samples_per_hour: A second limit, for the long run; None: there is none.
        burst_s: Seconds' worth that can be saved up: the shorter, the more evenly is it spent.
            None: a minute of samples per minute, a quarter of an hour of all that is per hour.
    """

    def __init__(
        self,
        *,
        samples_per_minute: float,
        bytes_per_hour: float,
        holdout_share: float,
        audit_share: float = 0.0,
        samples_per_hour: float | None = None,
        burst_s: float | None = None,
    ) -> None:
        def limit(rate: float, saved_s: float, unit: float) -> _Limit:
            return _Limit(rate, rate * (burst_s or saved_s), unit)

        limits = [limit(samples_per_minute / 60, 60, 1.0)]
        if samples_per_hour is not None:
            limits.append(limit(samples_per_hour / 3600, 900, 1.0))
        limits.append(limit(bytes_per_hour / 3600, 900, 1.0))
        parts: dict[Kind, float] = {"train": 1 - holdout_share - audit_share}
        parts["holdout"] = holdout_share
        if audit_share:
            parts["audit"] = audit_share
        self._limits = {
            kind: tuple(limit.share(part) for limit in limits) for kind, part in parts.items()
        }
        self._purses = {kind: _Purse(limits) for kind, limits in self._limits.items()}
        self._shares: dict[Kind, _Shares] = {
            kind: _Shares(own) for kind, own in self._limits.items()
        }

    def take(self, *, size: int, kind: Kind, camera: str, now: float) -> bool:
        """Whether a sample of `size` bytes may be sent now; if so, it is paid for."""
        kind = kind if kind in self._purses else "train"
        common = self._purses[kind]
        own = self._shares[kind].of(camera, now)
        if not (common.affords(now) and own.affords(now)):
            return False
        common.pay(size)
        own.pay(size)
        return True


class _Shares:
    """Each camera's share of one kind."""

    def __init__(self, limits: tuple[_Limit, ...]) -> None:
        self._limits = limits
        self._cameras: OrderedDict[str, tuple[_Purse, float]] = OrderedDict()

    def of(self, camera: str, now: float) -> _Purse:
        """A camera's purse; it has asked now."""
        known = self._cameras.get(camera)
        purse = _Purse(self._limits) if known is None else known[0]
        before = len(self._cameras)
        self._cameras[camera] = (purse, now)
        self._cameras.move_to_end(camera)
        # In the order of asking: the first ones asked longest ago.
        while len(self._cameras) > _MAX_CAMERAS or self._oldest() < now - _ASKED_LATELY_S:
            self._cameras.popitem(last=False)
        if len(self._cameras) != before or known is None:
            part = 1 / len(self._cameras)
            for other, _ in self._cameras.values():
                other.resize(part, now)
        return purse

    def _oldest(self) -> float:
        return next(iter(self._cameras.values()))[1]
