"""Start a program that dies with its parent: ``python launch.py PARENT_PID PROGRAM ARGS…``.

Run by its path and without site packages, so it costs a few milliseconds. It sets the parent-death
signal (Linux, prctl(2)) and becomes the program. Doing this between fork and exec in the parent
would need `preexec_fn`, which is unsafe in a process with threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Become the program; never returns."""
    parent, program = int(arguments[0]), arguments[1:]
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the signal was set
            os._exit(0)
    os.execvp(program[0], program)


if __name__ == "__main__":
    main(sys.argv[1:])
