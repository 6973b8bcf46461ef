"""What a node may send: token buckets, without a clock of their own."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Budget", "TokenBucket"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Buckets:
    samples: TokenBucket
    size: TokenBucket


class Budget:
    """Samples per minute and bytes per hour, part of them kept for held-out samples.

    Without that part, a camera in trouble would spend everything on hard frames and leave
    nothing to measure the next model on.

    Args:
        samples_per_minute: Of both kinds together; a minute's worth can be saved up.
        bytes_per_hour: Of both kinds together; a quarter of an hour's worth can be saved up.
        holdout_share: The part of both that only held-out samples may use, 0 to 1.
    """

    def __init__(
        self, *, samples_per_minute: float, bytes_per_hour: float, holdout_share: float
    ) -> None:
        def buckets(share: float) -> _Buckets:
            return _Buckets(
                samples=TokenBucket(
                    rate=samples_per_minute * share / 60,
                    capacity=max(1.0, samples_per_minute * share),
                ),
                size=TokenBucket(
                    rate=bytes_per_hour * share / 3600, capacity=bytes_per_hour * share / 4
                ),
            )

        self._train = buckets(1 - holdout_share)
        self._holdout = buckets(holdout_share)

    def take(self, *, size: int, holdout: bool, now: float) -> bool:
        """Whether a sample of `size` bytes may be sent now; if so, it is paid for.

        A sample larger than the whole byte bucket passes when the bucket is full, and is paid
        off afterwards: large pictures are rare, not impossible.
        """
        buckets = self._holdout if holdout else self._train
        if buckets.samples.available(now) < 1 or buckets.size.available(now) <= 0:
            return False
        buckets.samples.spend(1)
        buckets.size.spend(size)
        return True
