"""Reference pictures for novelty: the normal view of the user's cameras, put into the model."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from edgebus_detection.lab.compose import is_live

if TYPE_CHECKING:
    from edgebus_detection.vision import Image

FIRST_FRAMES = 200
"""Frames of each recording that count as normal: a camera is set up for what it shows first."""


def with_reference(
    model: Path,
    *,
    sources: Sequence[str],
    replay: Path | None,
    folder: Path,
    echo: Callable[[str], None],
) -> Path:
    """The model with a reference of normal pictures, so that novelty and drift are measured.

    A reference that the bundle brings stays. Otherwise it is made of the first frames of the
    recordings, since a picture is strange or not for a camera; where all cameras are live, of the
    replay pictures, which the model knows. Where there are neither, the model stays as it is.

    Args:
        model: Folder of a bundle; replaced if it is `folder`, else left alone.
        sources: As given by the user.
        replay: Pictures that the model must not forget.
        folder: Where the new bundle is written.
        echo: Prints a line: of which pictures the reference is, or why there is none.

    Returns:
        Folder of the bundle to serve.
    """
    from edgebus.artifacts import Bundle
    from edgebus.serving import InferenceError
    from edgebus_detection.models import add_novelty, detection_spec

    bundle = Bundle.open(model)
    if detection_spec(bundle.manifest).novelty is not None:
        return model
    recordings = [source for source in sources if not is_live(source)]
    with TemporaryDirectory(prefix="edgebus-") as scratch:
        place = Path(scratch)
        if recordings:
            what = "the first frames of " + ", ".join(Path(source).name for source in recordings)
            folders = [
                _first_frames(source, out=place / f"{number}")
                for number, source in enumerate(recordings)
            ]
        elif replay is not None:
            what, folders = f"the pictures of {replay.name}", [replay]
        else:
            echo("no reference: what is normal here is not known; --replay brings pictures")
            return model
        try:
            made = add_novelty(bundle, _pictures(folders), out=place / "bundle")
        except InferenceError as error:
            echo(f"no reference of {what}: {error}")
            return model
        if folder.exists():
            shutil.rmtree(folder)
        shutil.move(place / "bundle", folder)
    novelty = detection_spec(made.manifest).novelty
    assert novelty is not None
    echo(f"normal is what {novelty.pictures} pictures show: {what}")
    return folder


def _first_frames(source: str, *, out: Path) -> Path:
    """Written by the camera's own tool; nothing where it fails, the camera reports why."""
    command = [sys.executable, "-m", "edgebus_camera", "frames", source, "--out", str(out)]
    subprocess.run([*command, "--count", str(FIRST_FRAMES)], capture_output=True, check=False)
    return out


def _pictures(folders: Sequence[Path]) -> Iterator[Image]:
    from edgebus_detection.datasets.files import files_below, is_picture
    from edgebus_detection.vision import ImageError, read_picture

    for folder in folders:
        found = files_below(folder) if folder.is_dir() else ()
        paths = sorted(path for path in found if is_picture(path))
        # Spread over a large folder; a recording has no more than this.
        for path in paths[:: max(1, len(paths) // FIRST_FRAMES)][:FIRST_FRAMES]:
            with suppress(ImageError):  # a damaged picture is no reason not to start
                yield read_picture(path)
