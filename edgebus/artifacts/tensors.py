"""Safetensors files: tensors by name behind a JSON header, without pickle.

Format: https://huggingface.co/docs/safetensors. Eight bytes (little endian) give the length of a
JSON header that maps each name to dtype, shape and offsets; the tensors follow without gaps.
Written here rather than by the library because a weight patch must leave every byte of the
layout where the base has it, and because a bundle from the network is checked field by field.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

import numpy as np
import numpy.typing as npt

from edgebus.artifacts.errors import BundleFormatError, BundleLimitError, BundleTensorError

Array = npt.NDArray[Any]

DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
"""Types by the names that safetensors has for them."""
_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}
_ALIGN: Final = 64  # a cache line, and what SIMD loads like
_MAX_HEADER: Final = 8 * 2**20
_MAX_RANK: Final = 16
_MAX_VALUES: Final = 2**48


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Place of one tensor: ``file[start:end]``, counted from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class TensorFile:
    """A whole safetensors file in memory.

    Attributes:
        data: The bytes of the file.
        entries: Tensors by name, in the order of the file.
        metadata: The header's free strings.
    """

    data: bytes
    entries: dict[str, TensorEntry]
    metadata: dict[str, str]

    @classmethod
    def parse(cls, data: bytes, *, file: str) -> TensorFile:
        """Read a file and check every field of its header.

        Args:
            data: The whole file.
            file: Its name, for errors.

        Raises:
            BundleFormatError: It is no safetensors file, or its tensors overlap or leave gaps.
            BundleLimitError: Its header is absurdly long.
            BundleTensorError: One tensor's dtype, shape or offsets are wrong.
        """
        header, begin = _read_header(data, file)
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(
            isinstance(value, str) for value in metadata.values()
        ):
            raise BundleFormatError(file=file, reason="__metadata__ does not map names to strings")
        entries = {name: _read_entry(name, fields, begin, file) for name, fields in header.items()}
        ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)))
        at = begin
        for name, entry in ordered.items():
            if entry.start != at:
                raise BundleTensorError(
                    file=file, tensor=name, reason=f"starts at byte {entry.start}, expected {at}"
                )
            at = entry.end
        if at != len(data):
            raise BundleFormatError(
                file=file, reason=f"its tensors end at byte {at}, the file at {len(data)}"
            )
        return cls(data=data, entries=ordered, metadata=metadata)

    def array(self, name: str) -> Array:
        """One tensor, read-only, without a copy.

        Raises:
            KeyError: There is no such tensor.
        """
        entry = self.entries[name]
        dtype = DTYPES[entry.dtype]
        count = (entry.end - entry.start) // dtype.itemsize
        flat: Array = np.frombuffer(self.data, dtype=dtype, count=count, offset=entry.start)
        return flat.reshape(entry.shape)

    def arrays(self) -> dict[str, Array]:
        """All tensors, read-only, without copies."""
        return {name: self.array(name) for name in self.entries}

    def replaced(self, tensors: Mapping[str, Array]) -> bytes:
        """The same file with the bytes of some tensors replaced; the layout stays.

        Raises:
            KeyError: There is no such tensor.
            ValueError: A tensor has another dtype or shape.
        """
        out = bytearray(self.data)
        for name, value in tensors.items():
            entry = self.entries[name]
            if dtype_name(value.dtype) != entry.dtype or value.shape != entry.shape:
                msg = f"{name} is {value.dtype} {value.shape}, not {entry.dtype} {entry.shape}"
                raise ValueError(msg)
            out[entry.start : entry.end] = _raw(value)
        return bytes(out)


def dump_tensors(
    tensors: Mapping[str, Array], *, metadata: Mapping[str, str] | None = None
) -> bytes:
    """Write tensors, in the given order, as a safetensors file.

    The same tensors in the same order give the same bytes. The data starts at a multiple of 64.

    Raises:
        TypeError: A dtype has no safetensors name.
    """
    header: dict[str, Any] = {}
    if metadata:
        header["__metadata__"] = dict(sorted(metadata.items()))
    at = 0
    for name, value in tensors.items():
        header[name] = {
            "dtype": dtype_name(value.dtype),
            "shape": list(value.shape),
            "data_offsets": [at, at + value.nbytes],
        }
        at += value.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(len(text) + 8) % _ALIGN)
    return b"".join([struct.pack("<Q", len(text)), text, *map(_raw, tensors.values())])


def _raw(value: Array) -> bytes:
    little = value.astype(value.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).tobytes()


def dtype_name(dtype: np.dtype[Any]) -> str:
    """The name that safetensors has for a type, for example ``F32``.

    Raises:
        TypeError: It has none.
    """
    name = _NAMES.get(dtype.newbyteorder("<"))
    if name is None:
        msg = f"no safetensors type for {dtype}"
        raise TypeError(msg)
    return name


def _read_header(data: bytes, file: str) -> tuple[dict[str, Any], int]:
    if len(data) < 8:
        raise BundleFormatError(file=file, reason=f"{len(data)} bytes are no safetensors file")
    (length,) = struct.unpack_from("<Q", data)
    if length > _MAX_HEADER:
        raise BundleLimitError(file=file, size=length, limit=_MAX_HEADER, what="bytes of header")
    if 8 + length > len(data):
        reason = f"cut off: its header says {length} bytes, {len(data) - 8} follow"
        raise BundleFormatError(file=file, reason=reason)
    try:
        header = json.loads(data[8 : 8 + length], object_pairs_hook=_no_doubles)
    except (ValueError, RecursionError) as error:
        raise BundleFormatError(file=file, reason=f"its header is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise BundleFormatError(file=file, reason="its header is no JSON object")
    return header, 8 + length


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        msg = "a name occurs twice"
        raise ValueError(msg)
    return found


def _read_entry(name: str, fields: Any, begin: int, file: str) -> TensorEntry:
    def wrong(reason: str) -> BundleTensorError:
        return BundleTensorError(file=file, tensor=name, reason=reason)

    if not isinstance(fields, dict):
        raise wrong("has no dtype, shape and offsets")
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise wrong("has a name that is no text")
    dtype, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise wrong(f"has dtype {dtype!r}; known are {', '.join(DTYPES)}")
    if not _naturals(shape) or len(shape) > _MAX_RANK:
        raise wrong(f"has shape {shape!r}")
    if math.prod(size or 1 for size in shape) > _MAX_VALUES:
        # Without elements, and still more than NumPy can count.
        raise wrong(f"has shape {shape!r}")
    if not _naturals(offsets) or len(offsets) != 2:
        raise wrong(f"has offsets {offsets!r}")
    start, end = offsets
    size = math.prod(shape) * DTYPES[dtype].itemsize
    if end - start != size:
        raise wrong(f"has {end - start} bytes; {dtype} {shape} takes {size}")
    return TensorEntry(dtype=dtype, shape=tuple(shape), start=begin + start, end=begin + end)


def _naturals(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
