"""Every failing command ends with one clear line and a non-zero exit code."""

from __future__ import annotations

import errno

# What a missing module is part of; the core needs none of these.
_EXTRAS = {
    "cachetools": "edge",
    "cv2": "edge",
    "lap": "edge",
    "numpy": "edge",
    "onnx": "edge",
    "onnxruntime": "edge",
    "safetensors": "edge",
    "river": "drift",
    "faster_coco_eval": "cloud",
    "sqlalchemy": "cloud",
    "torch": "cloud",
    "influxdb_client": "telemetry",
    "foxglove_schemas_protobuf": "record",
    "google": "record",
    "mcap": "record",
    "zstandard": "record",
    "jinja2": "lab",
    "matplotlib": "lab",
    "nats_server": "lab",
    "paho": "paho",
    "socks": "paho",
}

_WAYS_OUT = {
    errno.ENOSPC: "; make room there, or name a place on another disk",
    errno.EDQUOT: "; make room there, or name a place on another disk",
    errno.EFBIG: "; name a place on a disk that takes larger files",
    errno.EROFS: "; name a place that can be written",
    errno.EACCES: "; name a place that this user may read and write",
}


def describe(error: BaseException) -> str:
    """An error in one line that tells the way out."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(describe(part) for part in error.exceptions))
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").partition(".")[0]
        if (extra := _EXTRAS.get(module)) is not None:
            from edgebus.service import install_command

            return f"{module} is not installed; run: {install_command(extra)}"
        return str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}{_WAYS_OUT.get(error.errno or 0, '')}"
    if _is_ours(error) or isinstance(error, OSError):
        return str(error)
    return f"{type(error).__name__}: {error} (a bug? see it all with edgebus --debug)"


def exit_code_of(error: BaseException) -> int:
    """The exit code that an error asks for: 2 for wrong input, 3 for a duplicate, else 1."""
    code = getattr(error, "exit_code", 1)
    return code if isinstance(code, int) else 1


def _is_ours(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0].startswith("edgebus")
