"""Pictures below a folder, found by the names that label files have for them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from edgebus_detection.datasets.files import files_below, is_picture
from edgebus_detection.datasets.picture import SourceError

_SPLIT = re.compile(r"(train|valid|val|test)[a-z]*\d*", re.IGNORECASE)
_UPLOAD = re.compile(r"[0-9a-f]{4,}-(?=.)")


class PictureIndex:
    """The pictures of a folder, by the ends of their paths.

    Label files name pictures relative to one place or another, by the path on somebody's disk, or
    by an address. So the picture with the most equal last levels is the one that is meant; never
    one outside of the folder.

    Args:
        root: The folder.

    Raises:
        SourceError: It cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: list[Path] = []
        self.others: list[Path] = []
        """Files that are no pictures: labels may be among them."""
        for path in files_below(root):
            (self.files if is_picture(path) else self.others).append(path)
        self.files.sort()
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for path in self.files:
            self._by_name[path.name].append(path)
            self._by_stem[path.stem].append(path)

    def find(self, name: str, *, near: Path, subset: str = "") -> Path | None:
        """The picture that a label file means; None where there is none.

        Args:
            name: As the label file has it.
            near: The label file: of several, the picture beside it is meant.
            subset: Of several, one below a folder of this name is meant, such as ``val2017``.

        Raises:
            SourceError: Several are alike.
        """
        parts = _parts(name)
        if not parts:
            return None
        found = self._by_name.get(parts[-1]) or []
        if not found and (upload := _UPLOAD.match(parts[-1])):
            # Label Studio puts such a word before the names of what is uploaded to it.
            parts = (*parts[:-1], parts[-1][upload.end() :])
            found = self._by_name.get(parts[-1]) or []
        return self._best(found, parts, near=near, subset=subset, name=name)

    def find_stem(self, name: str, *, near: Path) -> Path | None:
        """As `find`, by a name without its suffix."""
        parts = _parts(name)
        if not parts:
            return None
        found = self._by_stem.get(parts[-1]) or []
        return self._best(found, parts, near=near, subset="", name=name, stem=True)

    def _best(
        self,
        found: Sequence[Path],
        parts: tuple[str, ...],
        *,
        near: Path,
        subset: str,
        name: str,
        stem: bool = False,
    ) -> Path | None:
        wanted = _splits((*parts[:-1], subset))
        # A train/a.jpg is not the val/a.jpg that happens to be there.
        found = [
            path
            for path in found
            if not wanted or not (mine := _splits(self._levels(path))) or wanted & mine
        ]
        for score in (
            lambda path: _equal_levels(self._levels(path, stem=stem), parts),
            lambda path: bool(subset) and subset in self._levels(path),
            lambda path: path.parent == near.parent,
        ):
            if len(found) > 1:
                best = max(map(score, found))
                found = [path for path in found if score(path) == best]
        if len(found) > 1:
            places = ", ".join(str(path.relative_to(self.root)) for path in found[:3])
            reason = (
                f"names {name}, and {len(found)} pictures could be meant ({places}); write more of "
                "its path, or give the folder of one of them"
            )
            raise SourceError(source=str(near), reason=reason)
        return found[0] if found else None

    def _levels(self, path: Path, *, stem: bool = False) -> tuple[str, ...]:
        levels = path.relative_to(self.root).parts
        return (*levels[:-1], path.stem) if stem else levels


def _parts(name: str) -> tuple[str, ...]:
    """The levels of a path of any system, or of an address, without those that lead up."""
    text = name.strip()
    if "://" in text or text.startswith("/data/"):
        address = urlsplit(text)
        # Label Studio serves local files as /data/local-files/?d=PATH.
        text = parse_qs(address.query).get("d", [unquote(address.path)])[0]
    levels = PurePosixPath(text.replace("\\", "/")).parts
    return tuple(level for level in levels if level not in ("/", "..", ".") and level[-1] != ":")


def _splits(levels: Sequence[str]) -> frozenset[str]:
    """What parts of a data set the levels name: train, val, test."""
    found = (_SPLIT.fullmatch(level) for level in levels)
    return frozenset(match[1].lower()[:3] for match in found if match)


def _equal_levels(first: Sequence[str], second: Sequence[str]) -> int:
    count = 0
    for mine, theirs in zip(reversed(first), reversed(second), strict=False):
        if mine != theirs:
            break
        count += 1
    return count
