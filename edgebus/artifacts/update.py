"""A change of weights, and the small file that carries it.

A patch names the tensors it changes and gives new values (`replace`) or one factor per channel
(`scale`). Whoever has the base file rebuilds the new one bit by bit: replacing copies bytes, and
a single float32 multiplication is exact by IEEE 754, so every machine gets the same product
(unless it flushes denormals; the digest notices, and the full file is fetched).
See docs/adr/0003-weight-patches.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgebus.artifacts.errors import BundleError, PatchError
from edgebus.artifacts.index import PATCH
from edgebus.artifacts.tensors import Array, TensorFile, dump_tensors

Floats = npt.NDArray[np.float32]

_FORMAT: Final = "patch/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A change of some tensors.

    Attributes:
        replace: New values, of the tensor's own shape.
        scale: Factors. One dimension: one factor per index of the tensor's first axis (the output
            channels of a convolution). Otherwise as many dimensions as the tensor, each 1 or
            the tensor's own.

    A tensor may be in one of the two, not in both.
    """

    replace: Mapping[str, Array] = field(default_factory=dict)
    scale: Mapping[str, Array] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Count of numbers that change."""
        return sum(value.size for group in (self.replace, self.scale) for value in group.values())


def apply_update(tensors: Mapping[str, Array], update: Update) -> dict[str, Array]:
    """The tensors with the update in; unchanged ones are the same objects.

    Raises:
        PatchError: A tensor is unknown, named twice, of another shape or not finite.
    """
    out = dict(tensors)
    for name, value in update.replace.items():
        _known(name, tensors)
        if name in update.scale:
            raise PatchError(tensor=name, reason="is both replaced and scaled; choose one")
        if value.shape != tensors[name].shape:
            reason = f"has shape {value.shape}, the tensor {tensors[name].shape}"
            raise PatchError(tensor=name, reason=reason)
        out[name] = _finite(name, value).astype(tensors[name].dtype, copy=True)
    for name, factor in update.scale.items():
        _known(name, tensors)
        base = tensors[name]
        if base.dtype != np.float32:
            raise PatchError(tensor=name, reason=f"is {base.dtype}; only float32 can be scaled")
        axes = _broadcastable(name, _finite(name, factor).astype(np.float32), base.shape)
        with np.errstate(over="ignore"):
            product = np.multiply(base, axes, dtype=np.float32)
        out[name] = _finite(name, product)
    return out


def difference(base: Mapping[str, Array], new: Mapping[str, Array]) -> Update:
    """The update that replaces every tensor that differs, bit by bit.

    Raises:
        PatchError: The two do not have the same tensors.
    """
    if base.keys() != new.keys():
        odd = sorted(base.keys() ^ new.keys())
        raise PatchError(reason=f"the tensors {', '.join(odd[:5])} are not in both")
    changed = {
        name: value for name, value in new.items() if value.tobytes() != base[name].tobytes()
    }
    return Update(replace=changed)


def encode_patch(base: TensorFile, update: Update) -> bytes:
    """Write an update as a safetensors file of two flat tensors and a list of names.

    One header line per tensor would cost a quarter of the patch, so lengths are not written:
    they follow from the shapes in the base.

    Raises:
        PatchError: The update does not fit, or scales along more than one axis.
    """
    apply_update(base.arrays(), update)  # refuses what does not fit
    replace = [name for name in base.entries if name in update.replace]
    for name in replace:
        if base.entries[name].dtype != "F32":
            raise PatchError(tensor=name, reason="is not float32; publish the full weights")
    channels = {
        name: _per_channel(name, update.scale[name], entry.shape)
        for name, entry in base.entries.items()
        if name in update.scale
    }
    scales: dict[str, list[str]] = {}
    for name, (axis, _) in channels.items():
        scales.setdefault(str(axis), []).append(name)
    factors = [channels[name][1] for names in scales.values() for name in names]
    values = [update.replace[name].astype(np.float32).reshape(-1) for name in replace]
    names_text = json.dumps({"replace": replace, "scale": scales}, separators=(",", ":"))
    return dump_tensors(
        {"replace": _flat(values), "scale": _flat(factors)},
        metadata={"format": _FORMAT, "names": names_text},
    )


def apply_patch(base: bytes, patch: bytes) -> bytes:
    """Rebuild a weights file; the caller checks the digest of the result.

    Args:
        base: The weights file that the patch is for.
        patch: What `encode_patch` made.

    Raises:
        PatchError: The patch is broken or is for other weights.
    """
    try:
        source = TensorFile.parse(base, file="the base weights")
        file = TensorFile.parse(patch, file=PATCH)
    except BundleError as error:
        raise PatchError(reason=str(error)) from error
    if file.metadata.get("format") != _FORMAT or set(file.entries) != {"replace", "scale"}:
        raise PatchError(reason=f"is no {_FORMAT} file")
    replace, scales = _names(file.metadata.get("names", ""))
    taken = _Cursor(file.array("replace"))
    shapes = {name: entry.shape for name, entry in source.entries.items()}
    new = {name: taken.next(name, _shape(name, shapes)) for name in replace}
    taken.end()
    taken = _Cursor(file.array("scale"))
    scale: dict[str, Array] = {}
    for axis, name in scales:
        shape = _shape(name, shapes)
        if not 0 <= axis < max(1, len(shape)):
            raise PatchError(tensor=name, reason=f"has no axis {axis}")
        ones = [1] * len(shape)
        if ones:
            ones[axis] = shape[axis]
        scale[name] = taken.next(name, tuple(ones))
    taken.end()
    update = Update(replace=new, scale=scale)
    if len(new) + len(scale) != len(replace) + len(scales):
        raise PatchError(reason="names a tensor twice")
    changed = apply_update(source.arrays(), update)
    return source.replaced({name: changed[name] for name in (*new, *scale)})


class _Cursor:
    """Cuts a flat tensor into pieces."""

    def __init__(self, flat: Array) -> None:
        if flat.dtype != np.float32 or flat.ndim != 1:
            raise PatchError(reason=f"holds {flat.dtype} {flat.shape}, not flat float32")
        self._flat = flat
        self._at = 0

    def next(self, name: str, shape: tuple[int, ...]) -> Array:
        size = int(np.prod(shape, dtype=np.int64))
        if self._at + size > self._flat.size:
            raise PatchError(tensor=name, reason="is cut off")
        piece = self._flat[self._at : self._at + size].reshape(shape)
        self._at += size
        return piece

    def end(self) -> None:
        if self._at != self._flat.size:
            raise PatchError(reason=f"{self._flat.size - self._at} numbers are left over")


def _names(text: str) -> tuple[list[str], list[tuple[int, str]]]:
    try:
        fields: Any = json.loads(text)
        replace = [str(name) for name in fields["replace"]]
        scales = [
            (int(axis), str(name)) for axis, names in fields["scale"].items() for name in names
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PatchError(reason=f"its list of names is broken: {error}") from error
    return replace, scales


def _shape(name: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    _known(name, shapes)
    return shapes[name]


def _known(name: str, tensors: Mapping[str, object]) -> None:
    if name not in tensors:
        raise PatchError(tensor=name, reason="is no tensor of the base; was it made for it?")


def _finite(name: str, value: Array) -> Array:
    if not bool(np.isfinite(value).all()):
        raise PatchError(tensor=name, reason="holds NaN or infinity; the training diverged")
    return value


def _broadcastable(name: str, factor: Array, shape: tuple[int, ...]) -> Array:
    """The factor with as many dimensions as the tensor."""
    if factor.ndim == 1 and len(shape) > 1:
        factor = factor.reshape(-1, *[1] * (len(shape) - 1))
    if factor.ndim != len(shape) or any(
        have not in {1, want} for have, want in zip(factor.shape, shape, strict=False)
    ):
        raise PatchError(tensor=name, reason=f"a scale of {factor.shape} does not fit {shape}")
    return factor


def _per_channel(name: str, factor: Array, shape: tuple[int, ...]) -> tuple[int, Floats]:
    """The one axis along which the factors vary, and one factor per index of it."""
    wide = _broadcastable(name, factor, shape)
    varying = [axis for axis, size in enumerate(wide.shape) if size > 1]
    if len(varying) > 1:
        reason = f"a scale of {factor.shape} varies along more than one axis; replace the tensor"
        raise PatchError(tensor=name, reason=reason)
    axis = varying[0] if varying else 0
    count = shape[axis] if shape else 1
    return axis, np.broadcast_to(wide.astype(np.float32).reshape(-1), (count,))


def _flat(parts: list[Floats]) -> Floats:
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)
