"""The command line as a user types it: results on standard output, one line of trouble else."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgebus.cli.errors import describe
from edgebus.service import install_command
from packages import pretend_package

ROOT = Path(__file__).resolve().parents[3]


def edgebus(
    *arguments: str, cwd: Path | None = None, path: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the program as its own process."""
    search = [str(part) for part in (path, ROOT, ROOT / "services") if part is not None]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("EDGEBUS_")}
    return subprocess.run(
        [sys.executable, "-c", "from edgebus.cli import main; main()", *arguments],
        cwd=cwd or ROOT,
        env={**clean, "PYTHONPATH": os.pathsep.join(search), "COLUMNS": "120", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_teaches_and_needs_nothing_heavy() -> None:
    done = edgebus("--help")
    assert done.returncode == 0
    for word in ("up", "run", "topics", "model", "schema", "services", "edgebus run telemetry"):
        assert word in done.stdout
    code = (
        "import sys; sys.argv = ['edgebus', '--help']\n"
        "from edgebus.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'cv2', 'torch', 'onnx', 'paho', 'pydantic', 'edgebus.lab'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)"
    )
    clean = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["run", "detectr"], 2, "no service 'detectr' is installed"),
        (["model", "show", "gone"], 2, "gone is no folder"),
        (["topics", "watch", "--set", "sight=x"], 2, "did you mean site?"),
        (["topics", "watch", "--config", "gone.yaml"], 2, "gone.yaml"),
        (["topics", "watch", "--broker", "http://x"], 2, "write mqtt://host:port"),
        (["topics", "watch", "--broker", "mqtt://127.0.0.1:1"], 1, "no broker at"),
        (["model", "list", "--broker", "mqtt://127.0.0.1:1"], 1, "no broker at"),
        (["model", "import", "gone.onnx"], 2, "gone.onnx"),
    ],
)
def test_a_failure_is_one_line(
    arguments: list[str], code: int, reason: str, tmp_path: Path
) -> None:
    done = edgebus(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("edgebus: ")


def test_debug_shows_the_traceback() -> None:
    done = edgebus("--debug", "run", "detectr")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "UnknownServiceError" in done.stderr


def test_lists() -> None:
    topics = edgebus("topics", "list", COLUMNS="400")
    assert "{base}/{site}/{node}/{service}/{camera}/detections" in topics.stdout
    schemas = edgebus("schema", "list")
    assert "detections/1" in schemas.stdout
    assert edgebus("--version").stdout.startswith("edgebus ")


def test_schema_export_writes_what_is_published(tmp_path: Path) -> None:
    """All but the schema of a run's summary, which is no message."""
    done = edgebus("schema", "export", str(tmp_path / "out"))
    assert done.returncode == 0
    exported = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    published = {
        path.name: path.read_text()
        for path in (ROOT / "schemas").iterdir()
        if path.suffix in {".json", ".yaml"} and path.name != "summary.json"
    }
    assert exported == published


def test_a_closed_pipe_is_no_error() -> None:
    # The table is larger than head takes; the writer finds the pipe closed.
    code = "from edgebus.cli import main; main(['schema', 'list'])"
    done = subprocess.run(
        f'{sys.executable} -c "{code}" | true',
        shell=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_a_missing_extra_names_itself() -> None:
    error = ModuleNotFoundError("No module named 'torch'", name="torch._C")
    assert describe(error) == f"torch is not installed; run: {install_command('cloud')}"
    group = ExceptionGroup("x", [ModuleNotFoundError("no", name="cv2"), OSError("disk")])
    assert describe(group) == f"cv2 is not installed; run: {install_command('edge')}; disk"
    assert "a bug?" in describe(KeyError("x"))


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (
            {"url": "file:///home/me/my%20edgebus", "dir_info": {"editable": True}},
            "pip install -e '/home/me/my edgebus[lab]'",
        ),
        ({"url": "file:///src/edgebus", "dir_info": {}}, "pip install '/src/edgebus[lab]'"),
        (
            {"url": "file:///tmp/edgebus-1.whl", "archive_info": {}},
            "pip install '/tmp/edgebus-1.whl[lab]'",
        ),
        (
            {"url": "https://host/edgebus.git", "vcs_info": {"vcs": "git", "commit_id": "1"}},
            "pip install 'edgebus[lab] @ git+https://host/edgebus.git'",
        ),
        (
            {"url": "https://host/edgebus-1.whl", "archive_info": {}},
            "pip install 'edgebus[lab] @ https://host/edgebus-1.whl'",
        ),
        (None, "pip install '.[lab]' in a checkout of EdgeBus"),
    ],
)
def test_the_advice_names_where_edgebus_came_from(
    origin: object, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not at PyPI: `pip install edgebus` would bring somebody else's package, or none."""

    class Installed:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return None if origin is None else json.dumps(origin)

    monkeypatch.setattr("edgebus.service.discovery.distribution", lambda _: Installed())
    assert install_command("lab") == command


def test_every_module_that_may_be_missing_has_its_extra() -> None:
    """Each import of the code belongs to the core's own dependencies, or advice knows its extra."""
    core = {
        *("psutil", "pydantic", "pydantic_core", "pydantic_settings", "yaml", "rich"),
        *("setproctitle", "structlog", "typer", "uuid_utils"),
    }
    by_others = {"opentelemetry", "urllib3"}  # imported only where they are there
    imported = set()
    for folder in ("edgebus", "workloads", "services"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    imported |= {name.name.partition(".")[0] for name in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    imported.add(str(node.module).partition(".")[0])
    foreign = {
        name
        for name in imported - sys.stdlib_module_names - core - by_others
        if not name.startswith("edgebus")
    }
    for name in sorted(foreign):
        text = describe(ModuleNotFoundError(f"No module named {name!r}", name=name))
        assert "is not installed; run: " in text, name


@pytest.mark.parametrize("code", [0, 3])
def test_setting_up_shows_how_far_it_is_and_fails_as_pip_does(code: int, tmp_path: Path) -> None:
    pip = tmp_path / "pip"
    pip.write_text(
        "#!/bin/sh\n"
        "echo 'Collecting numpy'\n"
        "echo '  Downloading numpy-2.0-cp311.whl (16.5 MB)'\n"
        "echo 'Installing collected packages: numpy, x, y'\n"
        f"[ {code} = 0 ] || echo 'ERROR: No matching distribution'\n"
        f"exit {code}\n"
    )
    pip.chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts" / "install.sh", pip, ".[all]"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == code
    assert "  downloading numpy-2.0-cp311.whl (16.5 MB)\n  installing 3 packages\n" in done.stdout
    assert ("ERROR: No matching" in done.stdout) == (code != 0)


def test_make_help_lists_what_a_user_needs() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for words in (
        "make install",
        "make demo",
        "make test",
        "make clean",
        "PYTHON=",
        "edgebus --help",
    ):
        assert words in done.stdout


def test_services_of_third_parties_are_listed(tmp_path: Path) -> None:
    for package, name, place in (
        ("good-thing", "thing", "thing:Thing"),
        ("bad-thing", "bad", "thing:NotThere"),
        ("other-thing", "other", "thing:Thing"),
        ("no-thing", "nothing", "thing:Nothing"),
    ):
        pretend_package(tmp_path, package, entry_points={"edgebus.services": {name: place}})
    (tmp_path / "thing.py").write_text(
        "from edgebus.service import Service, ServiceSettings\n"
        "class Thing(Service[ServiceSettings]):\n"
        "    '''Does things.'''\n"
        "    name = 'thing'\n"
        "class Nothing: pass\n"
    )
    rows = edgebus("services", path=tmp_path, COLUMNS="400").stdout.splitlines()
    said = {row.split()[0]: row for row in rows}
    assert "good-thing 1.0.0" in said["thing"]
    assert "Does things." in said["thing"]
    assert "cannot be loaded" in said["bad"]
    assert "calls itself thing" in said["other"]
    assert "no subclass of edgebus.service.Service" in said["nothing"]
    near = edgebus("run", "thin", path=tmp_path)
    assert "did you mean thing?" in near.stderr
