"""Every snippet of the README and of the docs runs, and every link leads somewhere.

Python runs, page by page in one namespace, and its ``test_…`` functions are called. YAML, TOML and
JSON are read; a node's file is checked against the settings of the services that it names. Of
shell lines, the commands, options and topic filters of EdgeBus and the targets of make are looked
up: what they would do is tested elsewhere.
"""

import ast
import inspect
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from edgebus.cli.app import app
from edgebus.contracts.registry import all_topics
from edgebus.service import load_node, load_settings, service_entry_points
from guides import FENCE, ROOT, Snippet, snippets_of

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "services").glob("*/README.md")),
]
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)\s#]+)(?:#[^)]*)?\)")
PROGRAMS = {"edgebus", "make", "mosquitto_sub", "mosquitto_pub"}


ALL = [snippet for page in PAGES for snippet in snippets_of(page)]


def of(*languages: str) -> list[Snippet]:
    return [snippet for snippet in ALL if snippet.language in languages]


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


GUIDES = ROOT / "docs" / "guides"
# Followed by tests/e2e/test_guides.py, by tests/integration/test_from_anything.py, and by
# tests/unit/samples/test_other_tools.py.
FOLLOWED = {
    GUIDES / f"{name}.md"
    for name in ("write-a-service", "write-a-workload", "from-anything", "samples")
}


@pytest.mark.parametrize(
    "page", sorted({snippet.page for snippet in of("python")} - FOLLOWED), ids=page_name
)
async def test_python_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = [snippet for snippet in of("python") if snippet.page == page]
    if any("MqttTransport" in snippet.text for snippet in blocks):
        broker = request.getfixturevalue("mosquitto")
        monkeypatch.setenv("EDGEBUS_BROKER__URL", broker.url)
    for snippet in blocks:
        if snippet.title:
            (tmp_path / snippet.title).write_text(snippet.text)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, Any] = {"__name__": "docs"}
    for snippet in blocks:
        # Line numbers of the page, so that a traceback leads there.
        source = "\n" * snippet.line + snippet.text
        code = compile(source, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, names)
        if inspect.isawaitable(result):
            await result
    for name in [name for name in names if name.startswith("test_")]:
        result = names[name]()
        if inspect.isawaitable(result):
            await result


@pytest.mark.parametrize("snippet", of("yaml", "toml", "json"), ids=str)
def test_data_can_be_read(snippet: Snippet, tmp_path: Path) -> None:
    read = {"yaml": yaml.safe_load, "toml": tomllib.loads, "json": json.loads}[snippet.language]
    data = read(snippet.text)
    if snippet.language == "yaml" and isinstance(data, dict) and {"site", "node"} <= set(data):
        file = tmp_path / "node.yaml"
        file.write_text(snippet.text)
        known = {*service_entry_points(), "person-counter"}
        assert load_node(config=file, environment={}, sections=known).node == data["node"]
        for service in data.keys() & service_entry_points():
            load_settings(service, config=file, environment={})


def shell_lines() -> Iterator[Any]:
    for snippet in of("", "sh", "bash", "console", "shell"):
        text = snippet.text.replace("\\\n", " ")
        for number, line in enumerate(text.splitlines(), start=snippet.line + 1):
            # Several commands may stand side by side, four spaces apart.
            for part in re.split(r"\s{4,}", line.strip().removeprefix("$ ")):
                try:
                    words = shlex.split(part, comments=True)
                except ValueError:
                    continue  # prose or a drawing
                if words and words[0] in PROGRAMS:
                    yield pytest.param(words, id=f"{page_name(snippet.page)}:{number}")


@pytest.mark.parametrize("words", list(shell_lines()))
def test_shell_lines_name_what_exists(words: list[str]) -> None:
    program, *arguments = words
    if program == "make":
        makefile = (ROOT / "Makefile").read_text()
        for target in (word for word in arguments if "=" not in word):
            assert re.search(rf"^{re.escape(target)}:", makefile, re.M), target
    elif program == "edgebus":
        check_command(arguments)
    else:
        index = arguments.index("-t")
        check_filter(arguments[index + 1])


def check_command(arguments: list[str]) -> None:
    """Follow the words to a command and look its options up."""
    command: Any = typer.main.get_command(app)
    rest = list(arguments)
    while isinstance(command, typer.core.TyperGroup) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        command = command.get_command(None, name)
        assert command is not None, f"there is no command {name}"
    if command.name == "up":
        from edgebus.lab import load_lab
        from edgebus.lab.cli import make_command

        command = make_command(load_lab())
    known = {
        option
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    known |= {"--help", "-h"}
    for word in rest:
        if re.match(r"--?[a-z]", word):
            assert word.partition("=")[0] in known, f"{command.name} has no option {word}"
    if command.name == "watch":
        check_filter(rest[0])


def check_filter(text: str) -> None:
    """Some topic of the contracts, or of the guide's own service, matches the filter."""
    levels = text.split("/")
    guide = ["edgebus", "s", "n", "person-counter", "x", "persons"]
    concrete = [
        ["edgebus" if level == "{base}" else level for level in topic.levels]
        for topic in all_topics().values()
    ]
    assert any(matches(levels, names) for names in [*concrete, guide]), text


def matches(filter_levels: list[str], names: list[str]) -> bool:
    for position, level in enumerate(filter_levels):
        if level == "#":
            return True
        if position == len(names):
            return False
        name = names[position]
        if level not in ("+", name) and not name.startswith("{"):
            return False
    return len(filter_levels) == len(names)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    missing = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("guide", sorted(GUIDES.glob("*.md")), ids=page_name)
def test_every_guide_is_followed(guide: Path) -> None:
    """Its commands are typed by a test of the whole, not only looked up."""
    tests = [*(ROOT / "tests/e2e").glob("*.py"), *(ROOT / "tests/integration").glob("*.py")]
    assert any(guide.name in test.read_text() for test in tests)


def test_the_checks_can_fail() -> None:
    for words in (["nope"], ["run", "x", "--confg", "y"], ["topics", "watch", "else/#"]):
        with pytest.raises(AssertionError):
            check_command(words)
    with pytest.raises(AssertionError):
        check_filter("edgebus/+/+/camera/front/frames")
