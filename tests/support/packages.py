"""Packages that pip might have installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["pretend_package"]


def pretend_package(
    folder: Path,
    name: str,
    *,
    version: str = "1.0.0",
    entry_points: Mapping[str, Mapping[str, str]],
    code: str | None = None,
) -> None:
    """Write what pip leaves behind: a dist-info with entry points, and the module if there is one.

    Args:
        folder: To be put on the module path.
        name: Of the package.
        version: Of the package.
        entry_points: By group and name.
        code: Of the module, named like the package with underscores.
    """
    module = name.replace("-", "_")
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        line
        for group, points in entry_points.items()
        for line in (f"[{group}]", *(f"{key} = {value}" for key, value in points.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    if code is not None:
        (folder / f"{module}.py").write_text(code)
