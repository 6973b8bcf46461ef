#!/usr/bin/env python3
"""Write schemas/ and the generated pages of docs/, or check that they are what they must be.

python scripts/generate_schemas.py            # write
python scripts/generate_schemas.py --check    # exit 1 and name what is stale
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path

from edgebus.contracts.registry import all_topics
from edgebus.schema import (
    asyncapi_document,
    asyncapi_page,
    schema_files,
    settings_page,
    topics_page,
)
from edgebus.service import find_services
from edgebus.workload import installed_workloads
from edgebus_detection.lab.summary import DetectionSummary

ROOT = Path(__file__).resolve().parent.parent


def expected(root: Path) -> dict[Path, str]:
    """Every generated file and its text."""
    files = {root / "schemas" / name: text for name, text in schema_files().items()}
    # Not on the bus, but published too: the file that a run of `edgebus up` leaves behind.
    files[root / "schemas" / "summary.json"] = (
        json.dumps(DetectionSummary.json_schema(), indent=2) + "\n"
    )
    files[root / "docs" / "topics.md"] = topics_page()
    files[root / "docs" / "settings.md"] = settings_page()
    files[root / "docs" / "asyncapi.html"] = asyncapi_page(asyncapi_document())
    return files


def stale(root: Path) -> list[str]:
    """What differs from the contracts, in words; empty when all is fresh."""
    files = expected(root)
    problems: list[str] = []
    for path, text in files.items():
        name = path.relative_to(root)
        if not path.exists():
            problems.append(f"{name} is missing")
        elif path.read_text(encoding="utf-8") != text:
            problems.append(f"{name} is not what the contracts say")
    there = {p for p in (root / "schemas").glob("*") if p.suffix in {".json", ".yaml"}}
    leftover = sorted(there - set(files))
    return problems + [f"{path.relative_to(root)} belongs to no message" for path in leftover]


def write(root: Path) -> None:
    """Write every file and remove what belongs to no message."""
    files = expected(root)
    for path in (root / "schemas").glob("*.json"):
        if path not in files:
            path.unlink()
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def left_out() -> list[str]:
    """What cannot be imported and would be missing from every file; most often an extra's."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        _, failed = find_services()
        all_topics()
        installed_workloads()
    return [
        *(f"service {name} is left out: {error}" for name, error in failed.items()),
        *(str(warning.message) for warning in caught),
    ]


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, only compare")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if missing := left_out():
        print(
            *missing,
            "nothing can be generated without: pip install -e '.[all]'",
            sep="\n",
            file=sys.stderr,
        )
        return 1
    if not arguments.check:
        write(arguments.root)
        return 0
    problems = stale(arguments.root)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        print("run: python scripts/generate_schemas.py", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
