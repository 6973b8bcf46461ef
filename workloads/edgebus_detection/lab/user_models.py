"""The user's own models: read and checked before anything is started."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgebus.topology import TopologyError

if TYPE_CHECKING:
    from edgebus.artifacts import Bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class UserModels:
    """Bundles on disk.

    Attributes:
        served: Folder of the bundle that the edges serve first.
        name: Its name.
        classes: Its classes.
        teacher: Folder of the bundle that labels, if there is one.
        untrainable: Why `served` cannot be trained further; empty where it can.
    """

    served: Path
    name: str
    classes: tuple[str, ...] = ()
    teacher: Path | None = None
    untrainable: str = ""

    def moved(self, old: Path, new: Path) -> UserModels:
        """The same after everything in the folder `old` was moved to `new`."""

        def place(path: Path) -> Path:
            return new / path.relative_to(old) if path.is_relative_to(old) else path

        teacher = None if self.teacher is None else place(self.teacher)
        return replace(self, served=place(self.served), teacher=teacher)


def open_models(
    model: Path,
    *,
    teacher: Path | None,
    folder: Path,
    echo: Callable[[str], None],
    classes: Sequence[str] = (),
) -> UserModels:
    """Open bundles, and turn ONNX files into such.

    Args:
        model: The edges' first model, a bundle's folder or an ONNX file.
        teacher: The larger model that labels, likewise.
        folder: Where ONNX files become bundles.
        echo: Prints a line about each model.
        classes: Classes of the labels; each has to be one of the model's.

    Raises:
        TopologyError: A path does not exist, the model lacks one of the classes, or the teacher
            knows no class of the model.
        ArtifactError: A file is no model that can be served; the error gives the reason.
    """
    from edgebus_detection.models import detection_spec

    missing = [
        f"--{what} {path}: no such file or folder"
        for what, path in (("model", model), ("teacher", teacher))
        if path is not None and not path.exists()
    ]
    if missing:
        raise TopologyError(source="command line", problems=missing)
    served = _open(model, folder / "model", trainable=True)
    echo(f"model {_describe(served)}")
    known = detection_spec(served.manifest).classes
    _check_classes(classes, known)
    models = UserModels(
        served=_place(model, folder / "model"),
        name=served.manifest.name,
        classes=known,
        untrainable=_untrainable(served),
    )
    if teacher is None:
        return models
    labelling = _open(teacher, folder / "teacher", trainable=False)
    teaches = detection_spec(labelling.manifest).classes
    common = set(teaches) & set(known)
    echo(f"teacher {_describe(labelling)}, {len(common)} of them the model's")
    if not common:
        problem = (
            f"--teacher {teacher}: knows none of the model's classes "
            f"({_shorten(known)}); it knows {_shorten(teaches)}"
        )
        raise TopologyError(source="command line", problems=[problem])
    return replace(models, teacher=_place(teacher, folder / "teacher"))


def _check_classes(classes: Sequence[str], known: Sequence[str]) -> None:
    problems = []
    for name in classes:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {_shorten(known)}"
            problems.append(f"--classes {name}: the model has no such class; {hint}")
    if problems:
        raise TopologyError(source="command line", problems=problems)


def _place(given: Path, imported: Path) -> Path:
    return given if given.is_dir() else imported


def model_name(path: Path) -> str:
    """A name that can be a topic level, from a file's."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-") or "model"


def _open(path: Path, out: Path, *, trainable: bool) -> Bundle:
    from edgebus.artifacts import Bundle
    from edgebus_detection.models import import_onnx

    if path.is_dir():
        return Bundle.open(path)
    name = model_name(path)
    if not trainable:
        return import_onnx(path, name=name, out=out, serve_only=True)
    from edgebus.serving import make_probe
    from edgebus.training.graph import check_supported

    return import_onnx(
        path, name=name, out=out, serve_only=True, check=check_supported, probe=make_probe
    )


def _untrainable(bundle: Bundle) -> str:
    from edgebus_detection.models import TRAINABLE_HEADS, detection_spec

    manifest = bundle.manifest
    if not manifest.trainable:
        return manifest.trainable_reason or "its graph has operators that torch has no rule for"
    kind = detection_spec(manifest).decoder.kind
    if kind not in TRAINABLE_HEADS:
        known = ", ".join(sorted(TRAINABLE_HEADS))
        return f"there is no loss for {kind} heads, only for {known}"
    return ""


def _describe(bundle: Bundle) -> str:
    from edgebus_detection.models import detection_spec, input_spec

    manifest = bundle.manifest
    spec, picture = detection_spec(manifest), input_spec(manifest)
    megabytes = sum(file.size for file in bundle.index.files) / 1e6
    return (
        f"{manifest.name} v{manifest.version}: {spec.decoder.kind} head, "
        f"{picture.width} x {picture.height}, {megabytes:.1f} MB, "
        f"{len(spec.classes)} classes"
    )


def _shorten(names: Sequence[str], *, most: int = 5) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
