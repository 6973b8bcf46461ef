"""Leaks between what is trained on and what is measured on: near-duplicates on both sides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from edgebus.training.trainer import Leak, LeakReport, Material
from edgebus_detection.datasets.labelled import Labelled
from edgebus_detection.vision import Hash, ImageError, difference_hash

_CHUNK = 512
_FLAT = 12


def remove_leaks(material: Material[Labelled], *, distance: int) -> LeakReport[Labelled]:
    """Leave out training pictures that nearly are held-out ones.

    Blocks of time are held out, but a block has neighbours, a recording may repeat, a camera may
    show one picture for hours, and two folders may hold the same files: what was learnt by heart
    would pass for understanding. Pictures without boxes cannot leak any.

    Args:
        material: What a job trains on and is measured on; it is not changed.
        distance: Bits of 256 in which hashes that look alike differ at most, and at most in a
            twelfth of the bits that are set in either; below 0 none look alike.
    """
    if distance < 0:
        return LeakReport(material=material)
    held = _hashes((*material.new_holdout, *material.old_holdout))
    if not held:
        return LeakReport(material=material)
    leaks: list[Leak] = []

    def apart(name: str, pictures: tuple[Labelled, ...]) -> tuple[Labelled, ...]:
        alike = _alike(_hashes(pictures), held, distance=distance)
        if not alike:
            return pictures
        first, like = next(iter(alike.items()))
        summary = (
            f"{len(alike)} of {len(pictures)} training pictures ({name}) look like held-out ones "
            f"(difference hash within {distance} of 256 bits), for example {first} like {like}"
        )
        leaks.append(Leak(name=name, leaking=len(alike), items=len(pictures), summary=summary))
        return tuple(picture for picture in pictures if picture.key not in alike)

    kept = replace(
        material, new=apart("new", material.new), replay=apart("replay", material.replay)
    )
    return LeakReport(material=kept, leaks=tuple(leaks))


def _hashes(pictures: Iterable[Labelled]) -> dict[str, Hash]:
    """Hashes of the pictures with boxes; those that cannot be read are left to the training."""
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
