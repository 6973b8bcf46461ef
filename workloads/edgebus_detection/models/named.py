"""Task and classes of a model, as exporters write them into a file's metadata."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any, Final

_NAMES: Final = ("names", "classes", "class_names", "labels", "id2label", "categories")
_OTHER_TASKS: Final = re.compile(
    r"pose|key.?point|obb|orient|rotat|seg|mask|classif|cls|depth|caption|ocr|track", re.IGNORECASE
)


def other_task(metadata: Mapping[str, str]) -> str | None:
    """The task that a file names, where it is not the detection of boxes."""
    task = next((value for key, value in metadata.items() if key.lower() == "task"), "").strip()
    if _OTHER_TASKS.search(task):
        return task
    return "pose" if "kpt_shape" in metadata and not task else None


def named_classes(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """The classes that a file names, in the model's order; None where it names none.

    Known are a list, a mapping from numbers (both as JSON or as Python writes them, which is what
    Ultralytics does), and names separated by commas or line ends.
    """
    lower = {key.lower(): value for key, value in metadata.items()}
    text = next((lower[key].strip() for key in _NAMES if lower.get(key, "").strip()), "")
    names = _in_order(_value(text)) if text else None
    if not names or not all(names) or len(set(names)) != len(names):
        return None
    return names


def _value(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return [part.strip() for part in re.split(r"[,;\n]", text) if part.strip()]


def _in_order(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, Mapping):
        try:
            numbered = {int(key): name for key, name in value.items()}
        except (TypeError, ValueError):
            return None
        if sorted(numbered) != list(range(len(numbered))):
            return None
        value = [numbered[number] for number in range(len(numbered))]
    if isinstance(value, list | tuple | set):
        names = [item.get("name") if isinstance(item, Mapping) else item for item in value]
        return tuple(str(name).strip() for name in names) if None not in names else None
    return None
