"""``python -m edgebus.training.worker SPEC``: one job in a process of its own.

Training holds the interpreter and the cores for minutes; in a process of its own it cannot delay
the bus, can be ended at any time, and gives all of its memory back. Standard output carries one
JSON event per line. The process ends with its parent: its standard input is a pipe from it.

Where `torchrun` starts several of these, one for each device, the first does the job and the others
take its training steps with it.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from pathlib import Path

from edgebus.artifacts import ArtifactError
from edgebus.serving import InferenceError
from edgebus.training.job import open_trainer, run_job
from edgebus.training.job_spec import JobEvent, JobOutcome, JobSpec
from edgebus.training.learning import assist
from edgebus.training.trainer import TrainingFailedError

_ORPHANED = 3
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def main(arguments: list[str]) -> int:
    """Run the job whose specification is the one argument; returns the exit code."""
    spec = JobSpec.model_validate_json(Path(arguments[0]).read_bytes())
    out = _take_stdout()
    threading.Thread(target=_end_with_parent, name="parent watch", daemon=True).start()
    os.nice(spec.settings.nice)
    threads = spec.settings.threads or max(1, (os.cpu_count() or 2) - 1)
    threads = max(1, threads // spec.settings.devices)
    if int(os.environ.get("RANK", "0")) > 0:
        assist(open_trainer(spec, threads=threads))
        return 0

    def report(event: JobEvent) -> None:
        os.write(out, event.model_dump_json(exclude_none=True).encode() + b"\n")

    try:
        outcome = run_job(spec, threads=threads, report=report)
    except (ArtifactError, InferenceError, TrainingFailedError, ValueError) as error:
        # What is known to go wrong is an outcome with its reason; anything else ends the process
        # with a traceback in the job's log.
        outcome = JobOutcome(outcome="failed", reason=f"{type(error).__name__}: {error}")
    except OSError as error:
        outcome = JobOutcome(outcome="failed", reason=_reason(error, spec))
    report(outcome)
    return 0


def _reason(error: OSError, spec: JobSpec) -> str:
    """An error of the system, with the way out where the disk is full."""
    if error.errno in _FULL:
        way_out = f"make room where {spec.folder} lies, or lower store.max_bytes"
        return f"the disk is full: {error}; {way_out}"
    return f"{type(error).__name__}: {error}"


def _take_stdout() -> int:
    """Keep the real standard output for events; whatever libraries print goes to the log."""
    sys.stdout.flush()
    out = os.dup(1)
    os.dup2(2, 1)
    return out


def _end_with_parent() -> None:
    # Unbuffered: at interpreter exit a buffered reader that is blocked in another thread would
    # keep its lock and abort the process.
    while os.read(0, 64):
        pass
    os._exit(_ORPHANED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
