"""What a `nats-server` says about itself over HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import Any

__all__ = ["ask"]


async def ask(host: str, port: int, path: str) -> dict[str, Any]:
    """An answer of the server's monitoring (JSON); empty while there is none.

    Args:
        host: Where it listens.
        port: Its `http` port.
        path: Such as ``/healthz`` or ``/jsz``.
    """
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return {}
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        said = json.loads((await reader.read(-1)).partition(b"\r\n\r\n")[2])
    except (OSError, ValueError):
        return {}
    finally:
        writer.close()
    return said if isinstance(said, dict) else {}
