"""Nobody phones home: what the product loads looks up no name, and connects to nobody.

A process in a network namespace of its own, where a resolver of the test's hears every question,
and where there is no way out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from program import clean_environment

# Brings the loopback up, puts a resolver there, runs a program and says which names it asked for.
_TRAP = """
import fcntl, json, os, socket, struct, subprocess, sys, tempfile, threading
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    SIOCSIFFLAGS, IFF_UP_RUNNING = 0x8914, 0x41
    fcntl.ioctl(probe, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP_RUNNING))
asked = []
resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
resolver.bind(("127.0.0.1", 53))
def hear():
    while True:
        question, who = resolver.recvfrom(4096)
        place, name = 12, []
        while question[place]:
            name.append(question[place + 1 : place + 1 + question[place]].decode())
            place += 1 + question[place]
        asked.append(".".join(name))
        resolver.sendto(question[:2] + b"\\x81\\x83" + question[4:], who)  # there is no such name
threading.Thread(target=hear, daemon=True).start()
with tempfile.NamedTemporaryFile("w") as conf:
    conf.write("nameserver 127.0.0.1\\n")
    conf.flush()
    subprocess.run(["mount", "--bind", conf.name, "/etc/resolv.conf"], check=True)
    done = subprocess.run([sys.executable, "-c", sys.argv[1], *sys.argv[2:]])
print(json.dumps([done.returncode, sorted(set(asked))]))
"""

_ASK = """
import contextlib, socket
with contextlib.suppress(OSError):
    socket.getaddrinfo("home.example", 80)
"""

# Every engine and library that a service loads, and a model that runs; then time to phone.
_PRODUCT = """
import importlib, pkgutil, sys, time
from pathlib import Path
for package in ("edgebus", "edgebus_detection", *sys.argv[2:]):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
from edgebus.serving import EngineSettings
from edgebus.serving.engine import OrtEngine
from edgebus_detection.models.testing import tiny_bundle
bundle = tiny_bundle(Path(sys.argv[1]))
engine = OrtEngine(bundle, EngineSettings(threads=1))
time.sleep(3)
"""
SERVICES = ("edgebus_camera", "edgebus_collector", "edgebus_detector", "edgebus_distributor")
MORE = ("edgebus_retrainer", "edgebus_samples", "edgebus_telemetry")


def names_asked(program: str, *arguments: str) -> list[str]:
    # Not what this process has set already, nor what tells a library that it is under test.
    quiet = ("TELEMETRY", "DO_NOT_TRACK")
    environment = {
        name: value
        for name, value in clean_environment().items()
        if name != "CI" and not any(word in name for word in quiet)
    }
    trap = ["unshare", "-rnm", sys.executable, "-c", _TRAP, program, *arguments]
    done = subprocess.run(
        trap,
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if "unshare" in done.stderr:
        pytest.skip(f"no namespaces here, so nothing can be said: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    code, names = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    return names


def test_the_trap_hears_who_phones() -> None:
    assert names_asked(_ASK) == ["home.example"]


def test_nothing_that_the_product_loads_phones_home(tmp_path: Path) -> None:
    assert names_asked(_PRODUCT, str(tmp_path / "model"), *SERVICES, *MORE) == []
