"""A guide, followed as a reader would: files written, commands typed, in a fresh environment.

What a page shows decides what is done. A block with a ``title`` is a file; a block of ``sh`` is
typed into a shell, word by word; ``sh terminal=NAME`` is typed into another terminal, whose command
goes on running while the next blocks are typed.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path

__all__ = ["FENCE", "ROOT", "Environment", "Reader", "Snippet", "build_wheel", "snippets_of"]

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S
)
# Third parties' programs that guides name.
_PROGRAMS = {"pip", "pytest", "opentelemetry-instrument"}
_END_S = 30.0


@dataclass(frozen=True)
class Snippet:
    """A fenced block.

    Attributes:
        page: Its page.
        line: Line of its fence.
        language: First word behind the fence.
        title: Name of the file that it is.
        terminal: Name of the terminal that it is typed into; empty: the reader's first one.
        text: Its lines.
    """

    page: Path
    line: int
    language: str
    title: str
    terminal: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def snippets_of(page: Path) -> Iterator[Snippet]:
    """Every fenced block of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        language, _, rest = match["info"].strip().partition(" ")
        title = re.search(r'title="([^"]+)"', rest)
        terminal = re.search(r"terminal=(\w+)", rest)
        yield Snippet(
            page=page,
            line=text.count("\n", 0, match.start()) + 1,
            language=language,
            title=title[1] if title else "",
            terminal=terminal[1] if terminal else "",
            text=match["text"],
        )


class Environment:
    """A virtual environment with EdgeBus installed in it as users have it, from its wheel.

    Third parties' packages come from the environment that the tests run in, and nothing is
    downloaded: pip builds with what is there.

    Args:
        folder: Where it is made.
        wheel: EdgeBus.
    """

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.bin = folder / "bin"
        venv.create(folder, symlinks=True)
        (site,) = folder.glob("lib/python*/site-packages")
        others = [
            path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")
        ]
        (site / "others.pth").write_text("".join(f"{path}\n" for path in others))
        for point in entry_points(group="console_scripts"):
            if point.name in _PROGRAMS:
                script = self.bin / point.name
                code = (
                    f"import sys; from {point.module} import {point.attr}; sys.exit({point.attr}())"
                )
                script.write_text(f"#!{self.bin}/python\n{code}\n")
                script.chmod(0o755)
        (self.bin / "nats-server").symlink_to(Path(sys.executable).parent / "nats-server")
        home = folder / "home"
        home.mkdir()
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("EDGEBUS_", "PYTHON", "PYTEST", "PIP_", "OTEL_"))
        }
        self.variables = inherited | {
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "VIRTUAL_ENV": str(folder),
            "HOME": str(home),
            "PYTHONUNBUFFERED": "1",
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip's way to say: none
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        run = [self.bin / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
        subprocess.run([*run, wheel], env=self.variables, check=True, cwd=folder)


def build_wheel(folder: Path) -> Path:
    """EdgeBus's wheel, from the source around here."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("edgebus-*.whl")
    return wheel


@dataclass
class Reader:
    """Somebody who does what a guide says.

    Attributes:
        page: The guide.
        folder: Where the reader works.
        variables: Environment of the reader's shells.
        words: What the reader fills in for words of the page: the port of an own broker, an id that
            an earlier command printed.
        screen: All that the first terminal has shown.
        ready: What a terminal shows when the reader goes on, by its name.
        timeout_s: Longest time that a command may take.
    """

    page: Path
    folder: Path
    variables: Mapping[str, str]
    words: dict[str, str | Callable[[], str]] = field(default_factory=dict)
    screen: str = ""
    ready: dict[str, str] = field(default_factory=dict)
    timeout_s: float = 300.0
    _terminals: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def follow(self) -> dict[int, str]:
        """Do what the page says, from top to bottom.

        Returns:
            What each block of commands of the first terminal printed, by the line of the page.
        """
        printed = {}
        for snippet in snippets_of(self.page):
            if snippet.title:
                self.write(snippet)
            elif snippet.language == "sh":
                if snippet.terminal:
                    self.start(snippet)
                    if snippet.terminal in self.ready:
                        self.seen(snippet.terminal, self.ready[snippet.terminal])
                else:
                    printed[snippet.line] = self.type(snippet.text)
        return printed

    def commands(self, start: str) -> list[str]:
        """The page's commands that begin with these words, in order."""
        lines = (
            line
            for snippet in snippets_of(self.page)
            if snippet.language in ("", "sh")
            for line in snippet.text.replace("\\\n", " ").splitlines()
        )
        found = [" ".join(line.split()) for line in lines if line.startswith(start)]
        assert found, f"{self.page} has no command {start!r}"
        return found

    def run_until(self, command: str, *patterns: str, within_s: float) -> str:
        """Type a command, press Ctrl-C once it has shown all patterns; what it printed."""
        self._start("run", command)
        try:
            for pattern in patterns:
                self.seen("run", pattern, within_s=within_s)
        finally:
            self.stop("run")
        return self._output("run").read_text()

    def write(self, snippet: Snippet) -> Path:
        """Write a file of the page."""
        path = self.folder / snippet.title
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._filled_in(snippet.text))
        return path

    def type(self, text: str) -> str:
        """Type commands into a shell, one after the other; what they printed.

        Raises:
            AssertionError: One of them failed.
        """
        script = f"set -e; . ./.exported\n{self._filled_in(text)}\nexport -p > .exported"
        (self.folder / ".exported").touch()
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", script],
            cwd=self.folder,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=self.timeout_s,
            check=False,
        )
        self.screen += done.stdout
        assert done.returncode == 0, f"{text}\n{done.stdout}"
        return done.stdout

    def start(self, snippet: Snippet) -> None:
        """Type a command into another terminal, where it goes on; what ran there ends first."""
        self.stop(snippet.terminal)
        self._start(snippet.terminal, snippet.text)

    def _start(self, terminal: str, text: str) -> None:
        with self._output(terminal).open("w") as output:
            self._terminals[terminal] = subprocess.Popen(
                ["bash", "-c", self._filled_in(text)],
                cwd=self.folder,
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def stop(self, terminal: str) -> None:
        """Press Ctrl-C in a terminal, and wait."""
        process = self._terminals.pop(terminal, None)
        if process is None:
            return
        for number in (signal.SIGINT, signal.SIGKILL):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, number)
                process.wait(_END_S)

    def close(self) -> None:
        """Press Ctrl-C in every terminal."""
        for terminal in list(self._terminals):
            self.stop(terminal)

    def seen(self, terminal: str, pattern: str, *, within_s: float = 60.0) -> re.Match[str]:
        """What a terminal shows, once it shows that.

        Raises:
            AssertionError: It does not in time.
        """
        deadline = time.monotonic() + within_s
        while True:
            text = self._output(terminal).read_text()
            if found := re.search(pattern, text):
                return found
            assert time.monotonic() < deadline, f"{terminal} shows no {pattern!r}:\n{text}"
            time.sleep(0.1)

    def _output(self, terminal: str) -> Path:
        return self.folder / f".{terminal}.terminal"

    def _filled_in(self, text: str) -> str:
        for word, value in self.words.items():
            if word in text:
                text = text.replace(word, value() if callable(value) else value)
        return text
