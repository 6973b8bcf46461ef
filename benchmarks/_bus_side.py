"""One side of a bus benchmark, in a process of its own: ``python _bus_side.py '<job>'``."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from benchmarks._bus_job import Job


def main() -> None:
    """Run the job given on the command line."""
    job = Job(**json.loads(sys.argv[1]))
    if job.core is not None:
        os.sched_setaffinity(0, {job.core})
    if job.client == "paho":
        from benchmarks import _bus_paho

        gc.freeze()
        _bus_paho.run(job)
        return
    from benchmarks._bus_async import run as run_side
    from benchmarks._bus_clients import CLIENTS

    runner: Callable[[Any], None] = asyncio.run
    if job.uvloop:
        runner = import_module("uvloop").run
    gc.freeze()
    runner(run_side(job, CLIENTS[job.client]()))


if __name__ == "__main__":
    main()
