"""Two packages that bring something of one name: neither is taken silently."""

from collections.abc import Callable
from pathlib import Path

import pytest

from edgebus.contracts.registry import RegistryError
from edgebus.mining import installed_policies
from edgebus.service import load_service
from edgebus.workload import load_workload
from packages import pretend_package

LOADERS: dict[str, tuple[str, Callable[[], object]]] = {
    "services": ("edgebus.services", lambda: load_service("twice")),
    "workloads": ("edgebus.workloads", lambda: load_workload("twice")),
    "policies.twins": ("edgebus.policies.twins", lambda: installed_policies("twins")),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_both_are_named(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group, load = LOADERS[kind]
    for name, version in (("first-maker", "1.2.0"), ("other-maker", "3.0.0")):
        module = name.replace("-", "_")
        pretend_package(
            tmp_path,
            name,
            version=version,
            entry_points={group: {"twice": f"{module}:Twice"}},
            code="class Twice: pass",
        )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RegistryError) as error:
        load()
    assert str(error.value) == (
        f"'twice' in {kind} is brought by first_maker:Twice of first-maker 1.2.0 and "
        "other_maker:Twice of other-maker 3.0.0; uninstall one of them, or rename it"
    )


def test_one_package_that_is_found_twice_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editable install beside an old one, for example."""
    for place, name in (("a", "old-name"), ("b", "new-name")):
        pretend_package(
            tmp_path / place,
            name,
            entry_points={"edgebus.workloads": {"same-thing": "same_thing:Same"}},
        )
        monkeypatch.syspath_prepend(tmp_path / place)
    (tmp_path / "a" / "same_thing.py").write_text("class Same: pass")
    assert type(load_workload("same-thing")).__name__ == "Same"
