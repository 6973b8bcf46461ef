"""Structured logs on standard error: lines for people, or one JSON object per line."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TextIO, cast

import structlog

from edgebus.addresses import hide_credentials
from edgebus.service.settings import LogSettings


def configure_logging(settings: LogSettings, *, stream: TextIO | None = None) -> None:
    """Set up this process's logs; called once, by the program and never by the library.

    Records of the standard library's `logging` (of paho, of SQLAlchemy) go the same way from
    warning upwards.
    """
    out = sys.stderr if stream is None else stream
    lines = cast("TextIO", _LogLines(out))
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    as_json = settings.format == "json" or (settings.format == "auto" and not out.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
        _readable,
    ]
    last: list[structlog.typing.Processor]
    if as_json:
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        last = [
            structlog.dev.ConsoleRenderer(
                colors=out.isatty(),
                timestamp_key="time",
                # Not rich's: that shows local variables, which may be secrets.
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=lines),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(lines)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)


def _readable(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Times and paths as people write them, not as Python does."""
    for key, value in event.items():
        if isinstance(value, datetime):
            event[key] = value.isoformat(timespec="seconds")
        elif isinstance(value, Path):
            event[key] = str(value)
    return event


class _LogLines:
    """A stream for logs: lines that do not fit on a full disk are gone, and nobody stops for it.

    Where standard error is a file on the disk that a service is about to call full, the line that
    reports it would else end the service.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, if it can be written, without the secrets of any address."""
        with suppress(OSError, ValueError):  # a closed stream is a ValueError
            self._stream.write(hide_credentials(text))
        return len(text)

    def flush(self) -> None:
        """Flush, if it can be flushed."""
        with suppress(OSError, ValueError):
            self._stream.flush()
