"""Keeps what is trained on and what is measured on apart: no near-duplicates on both sides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgebus_detection.datasets import Labelled
from edgebus_detection.vision import Hash, ImageError, difference_hash
from edgebus_retrainer.material import Material

__all__ = ["Apart", "Leak", "keep_apart"]

_CHUNK = 512
_FLAT = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """Training pictures of one set that look like held-out ones.

    Attributes:
        name: The set: ``new`` or ``replay``.
        leaking: How many look like a held-out picture.
        pictures: How many there are.
        example: One of them, and the held-out one that it looks like.
    """

    name: str
    leaking: int
    pictures: int
    example: tuple[str, str]

    @property
    def share(self) -> float:
        """The part of the set that leaks."""
        return self.leaking / self.pictures

    def words(self, *, distance: int) -> str:
        """What was found, with an example."""
        return (
            f"{self.leaking} of {self.pictures} training pictures ({self.name}) look like held-out "
            f"ones (difference hash within {distance} of 256 bits), for example {self.example[0]} "
            f"like {self.example[1]}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """What a job may use.

    Attributes:
        material: Without training pictures that look like held-out ones.
        leaks: What was found.
    """

    material: Material
    leaks: tuple[Leak, ...] = ()

    @property
    def left_out(self) -> int:
        """Training pictures that were left out."""
        return sum(leak.leaking for leak in self.leaks)


def keep_apart(material: Material, *, distance: int) -> Apart:
    """Leave out training pictures that nearly are held-out ones.

    Blocks of time are held out, but a block has neighbours, a recording may repeat, a camera may
    show one picture for hours, and two folders may hold the same files: what was learnt by heart
    would pass for understanding. Pictures without boxes cannot leak any.

    Args:
        material: What a job trains on and is measured on; it is not changed.
        distance: Hashes that differ in at most so many of 256 bits look alike, and in at most a
            twelfth of the bits that are set in either; below 0 none do.
    """
    if distance < 0:
        return Apart(material=material)
    held = _hashes((*material.new_holdout, *material.old_holdout))
    if not held:
        return Apart(material=material)
    leaks: list[Leak] = []

    def apart(name: str, pictures: tuple[Labelled, ...]) -> tuple[Labelled, ...]:
        alike = _alike(_hashes(pictures), held, distance=distance)
        if not alike:
            return pictures
        leaks.append(
            Leak(
                name=name,
                leaking=len(alike),
                pictures=len(pictures),
                example=next(iter(alike.items())),
            )
        )
        return tuple(picture for picture in pictures if picture.key not in alike)

    kept = replace(
        material, new=apart("new", material.new), replay=apart("replay", material.replay)
    )
    return Apart(material=kept, leaks=tuple(leaks))


def _hashes(pictures: Iterable[Labelled]) -> dict[str, Hash]:
    """Hashes of the pictures with boxes; those that cannot be read are somebody else's business."""
    found: dict[str, Hash] = {}
    for picture in pictures:
        if len(picture.truth.labels):
            try:
                found[picture.key] = difference_hash(picture.path.read_bytes())
            except (OSError, ImageError):
                continue
    return found


def _alike(pictures: dict[str, Hash], held: dict[str, Hash], *, distance: int) -> dict[str, str]:
    """Each picture that looks like a held-out one, and which."""
    names, others = list(pictures), list(held)
    against = np.stack(list(held.values()))
    alike: dict[str, str] = {}
    for at in range(0, len(names), _CHUNK):
        some: Sequence[str] = names[at : at + _CHUNK]
        mine = np.stack([pictures[name] for name in some])
        differing = np.bitwise_count(mine[:, None] ^ against[None]).sum(axis=2, dtype=np.int64)
        # A picture of a plain road or of the night has few edges, and its hash few bits set: eight
        # of them may be all that is on it. So at most a twelfth of those that either has set.
        either = np.bitwise_count(mine[:, None] | against[None]).sum(axis=2, dtype=np.int64)
        near = differing * _FLAT <= np.minimum(either, distance * _FLAT)
        for row in map(int, np.flatnonzero(near.any(axis=1))):
            column = int(np.where(near[row], differing[row], 256).argmin())
            alike[some[row]] = others[column]
    return alike
