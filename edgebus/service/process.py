"""A service as a process: logs, signals, exit code."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from typing import Any

import structlog

import edgebus
from edgebus.service.discovery import service_entry_points
from edgebus.service.errors import ServiceError, ServiceFailedError
from edgebus.service.log import configure_logging
from edgebus.service.runtime import Runtime
from edgebus.service.service import Service
from edgebus.service.settings import NodeSettings, ServiceSettings

_WRONG_INPUT = 2
_LEAVE_S = 5.0


def run_service(
    service_type: type[Service[Any]], node: NodeSettings, settings: ServiceSettings
) -> int:
    """Run a service until SIGTERM or SIGINT; a second signal does not wait for the drain.

    It is the last thing that a process does: once the service has stopped, the process ends within
    seconds, also where a thread of a stranger's code never does.

    Returns:
        The exit code: 0 stopped as asked, 1 a part of it failed, 3 another process already runs
        this service on this node.
    """
    from edgebus.mqtt import MqttTransport

    configure_logging(node.log)
    log = structlog.get_logger().bind(service=service_type.name)
    runtime: Runtime[Any] = Runtime(
        service_type,
        node=node,
        settings=settings,
        transport=MqttTransport(node.broker),
        version=version_of(service_type.name),
    )
    try:
        asyncio.run(_until_signal(runtime, log))
    except ServiceFailedError as error:
        # What a person got wrong (a path, a file) takes one line; a traceback is for bugs.
        cause = None if error.exit_code == _WRONG_INPUT else error.__cause__ or error
        log.error("went down", reason=error.reason, exc_info=cause)
        return error.exit_code
    except ServiceError as error:
        log.error("cannot run", reason=str(error))
        return error.exit_code
    except asyncio.CancelledError:
        log.warning("cut short by a second signal")
        return 1
    return 0


async def _until_signal(runtime: Runtime[Any], log: Any) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    living = asyncio.current_task()
    assert living is not None

    def asked(name: str) -> None:
        if stop.is_set():
            living.cancel()
            return
        log.info("asked to stop", signal=name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked, number.name)
    code = 1
    try:
        await runtime.run(stop)
        code = 0
    except ServiceError as error:
        code = error.exit_code
        raise
    finally:
        leave_in_time(code)


def leave_in_time(code: int) -> None:
    """End the process soon, whatever its threads do: nobody can end one that hangs.

    A stranger's code that never returns would else be waited for, after the service has stopped.
    """
    threading.Thread(target=_leave, args=(code,), name="leave", daemon=True).start()


def _leave(code: int) -> None:
    time.sleep(_LEAVE_S)
    hanging = [one.name for one in threading.enumerate() if not one.daemon][1:]
    structlog.get_logger().warning("leaving threads behind that do not end", threads=hanging)
    os._exit(code)


def version_of(service: str) -> str:
    """Version of the package that a service comes from; EdgeBus's own where it is not known."""
    point = service_entry_points().get(service)
    if point is not None and point.dist is not None:
        return point.dist.version
    return edgebus.__version__
