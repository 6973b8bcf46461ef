"""Published contracts: in a folder, at a git revision, or in this version."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import yaml

from edgebus.schema.compatibility import Contracts

_ASYNCAPI = "asyncapi.yaml"
_MESSAGE = re.compile(r"(.+)-(\d+)\.json")


class ContractsNotFoundError(Exception):
    """There are no schemas to compare with.

    Attributes:
        place: The revision or folder that was asked for.
    """

    exit_code = 2

    def __init__(self, place: str, *, reason: str) -> None:
        super().__init__(
            f"no schemas at {place!r}: {reason}; name a git revision (with --folder where they are "
            "not in ./schemas) or a folder written by 'edgebus schema export'"
        )
        self.place = place


def current() -> Contracts:
    """The contracts of this version."""
    from edgebus.schema.files import asyncapi_document, schema_documents

    return Contracts(schemas=schema_documents(), asyncapi=asyncapi_document())


def published(place: str, *, folder: str = "schemas") -> Contracts:
    """The contracts in a folder, or at a git revision of the repository around here.

    Args:
        place: A folder, or else a revision.
        folder: Where the schemas are at that revision, relative to the current folder.

    Raises:
        ContractsNotFoundError: There are none.
    """
    path = Path(place)
    if path.is_dir():
        files = {p.name: p.read_text(encoding="utf-8") for p in path.iterdir() if p.is_file()}
    else:
        files = _at_revision(place, folder)
    return _parsed(place, files)


def _at_revision(revision: str, folder: str) -> dict[str, str]:
    inside = Path(folder).as_posix().rstrip("/")
    listing = _git(revision, "ls-tree", "--name-only", "-z", f"{revision}:./{inside}")
    names = [name for name in listing.split("\0") if name.endswith(".json") or name == _ASYNCAPI]
    return {name: _git(revision, "show", f"{revision}:./{inside}/{name}") for name in names}


def _git(revision: str, *arguments: str) -> str:
    if revision.startswith("-"):
        raise ContractsNotFoundError(revision, reason="that is no revision")
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, check=True, text=True, encoding="utf-8"
        )
    except FileNotFoundError as error:
        raise ContractsNotFoundError(revision, reason="git is not installed") from error
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().removeprefix("fatal: ") or "git has failed"
        raise ContractsNotFoundError(revision, reason=reason) from error
    return done.stdout


def _parsed(place: str, files: Mapping[str, str]) -> Contracts:
    schemas = {}
    try:
        for name, text in files.items():
            # Files of other things may lie there too.
            if (match := _MESSAGE.fullmatch(name)) is not None:
                schemas[f"{match[1]}/{match[2]}"] = json.loads(text)
        asyncapi = yaml.safe_load(files.get(_ASYNCAPI, "")) or {}
    except (ValueError, yaml.YAMLError) as error:
        raise ContractsNotFoundError(place, reason=f"{name} cannot be read ({error})") from error
    if not schemas:
        raise ContractsNotFoundError(place, reason="no file like detections-1.json there")
    return Contracts(schemas=schemas, asyncapi=asyncapi)
