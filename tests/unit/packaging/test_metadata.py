"""The package's metadata: what an index shows of it, and what its extras bring."""

from __future__ import annotations

import re
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from guides import ROOT, build_wheel

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HOME = PROJECT["urls"]["Repository"]


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> Message:
    wheel = build_wheel(tmp_path_factory.mktemp("wheel"))
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_the_shown_readme_leads_nowhere_but_to_files_of_the_repository(metadata: Message) -> None:
    text = re.sub(r"```.*?```", "", metadata.get_payload(), flags=re.S)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    ours = [target for target in targets if target.startswith(HOME)]
    assert len(ours) > 20
    for target in ours:
        kind, branch, path = target.removeprefix(f"{HOME}/").split("/", 2)
        assert (ROOT / path.partition("#")[0]).exists(), target
        picture = Path(path).suffix in (".jpg", ".png")
        assert (kind, branch) == ("raw" if picture else "blob", "main")
    assert [t for t in targets if not t.startswith(("https://", "http://", "#"))] == []


def test_addresses_and_classifiers(metadata: Message) -> None:
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL"))
    assert urls["Repository"] == HOME
    for address in (urls["Documentation"], urls["Changelog"]):
        assert (ROOT / address.removeprefix(f"{HOME}/blob/main/")).is_file()
    pythons = [c for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    lowest = PROJECT["requires-python"].removeprefix(">=")
    # Others are named once the whole suite has passed there.
    assert [each.rpartition(" ")[2] for each in pythons] == [lowest]


def test_a_device_without_drift_installs_neither_scipy_nor_torch() -> None:
    extras = PROJECT["optional-dependencies"]
    edge = " ".join(PROJECT["dependencies"] + extras["edge"])
    assert not re.search(r"\b(scipy|river|torch|sqlalchemy|matplotlib)\b", edge)
    assert [line.partition(">")[0] for line in extras["drift"]] == ["river"]
