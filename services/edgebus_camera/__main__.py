"""``python -m edgebus_camera``: writes pictures of a source to disk, of the street with boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import cv2
import typer

from edgebus.contracts import TRUTH
from edgebus_camera.settings import ViewSettings
from edgebus_camera.sources import PictureSkippedError, SourceError, open_source
from edgebus_camera.sources.listing import ListSource
from edgebus_camera.view import View
from edgebus_detection.datasets import coco_document
from edgebus_detection.emulation.drift import EFFECTS, EffectName
from edgebus_detection.emulation.effects import Effects
from edgebus_detection.emulation.street import CLASSES, Scene
from edgebus_detection.messages import SourcedBox
from edgebus_detection.vision import encode_jpeg

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _main() -> None:
    """Tools of the camera emulator."""


@app.command()
def export(
    *,
    out: Annotated[Path, typer.Option(help="Folder to write; must not hold an export yet.")],
    frames: Annotated[int, typer.Option(min=1, help="Frames per camera.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the first camera; the others count up.")] = 0,
    cameras: Annotated[int, typer.Option(min=1, help="How many cameras, each its own street.")] = 1,
    every: Annotated[int, typer.Option(min=1, help="Take one frame in this many.")] = 1,
    start: Annotated[int, typer.Option(min=0, help="First frame number.")] = 0,
    effect: Annotated[
        list[str] | None, typer.Option(help="NAME=STRENGTH, for example dusk=1.0; repeatable.")
    ] = None,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT in pixels.")] = "320x240",
    fps: Annotated[float, typer.Option(help="Frames per second of the scene.")] = 10.0,
    quality: Annotated[int, typer.Option(min=1, max=100, help="JPEG quality.")] = 90,
) -> None:
    """Write images/*.jpg and annotations.json (COCO). Equal options give equal files."""
    strengths = dict(_parse_effect(text) for text in effect or [])
    width, height = _parse_size(size)
    annotations = out / "annotations.json"
    if annotations.exists():
        raise typer.BadParameter(f"{annotations} exists; name another folder or delete it first")
    (out / "images").mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    images: list[tuple[dict[str, object], list[SourcedBox]]] = []
    for number in range(cameras):
        try:
            scene = Scene(seed=seed + number, width=width, height=height, fps=fps)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        effects = Effects(seed=seed + number)
        for index in range(start, start + frames * every, every):
            picture, truth, _ = scene.render(index)
            lights = scene.lights(index) if strengths.get("dusk") else None
            picture, truth = effects.apply(picture, truth, strengths, index=index, lights=lights)
            name = f"seed{seed + number}-{index:06d}.jpg"
            (out / "images" / name).write_bytes(encode_jpeg(picture, quality=quality))
            fields = {
                "file_name": name, "width": width, "height": height,
                "camera": f"seed{seed + number}", "frame_index": index,
            }  # fmt: skip
            images.append((fields, [SourcedBox(box=box, by=TRUTH) for box in truth]))
    info = {"description": "EdgeBus procedural street", "effects": strengths, "fps": fps}
    document = coco_document(images, CLASSES, info=info)
    annotations.write_text(json.dumps(document), encoding="utf-8")
    boxes = sum(len(truth) for _, truth in images)
    typer.echo(f"{len(images)} pictures with {boxes} boxes in {out}")


@app.command()
def frames(
    source: Annotated[str, typer.Argument(help="A video, a folder, a list of these, or scene.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder to write; must not exist.")],
    count: Annotated[int, typer.Option(min=1, help="At most so many.")] = 200,
    stride: Annotated[int, typer.Option(min=1, help="Take one picture in this many.")] = 1,
    quality: Annotated[int, typer.Option(min=1, max=100, help="JPEG quality.")] = 90,
) -> None:
    """Write the first pictures of a source, as a camera would send them, with their numbers.

    Of a list only those of its first entry: what comes later may be another view.
    """
    settings = ViewSettings(source=source, stride=stride, quality=quality, loop=False)
    if settings.is_live:
        shown = settings.public_source
        raise typer.BadParameter(f"{shown} is live; give a video, a folder or a list")
    if out.exists():
        raise typer.BadParameter(f"{out} exists; name another folder")
    cv2.setNumThreads(1)
    try:
        opened = open_source(settings)
    except SourceError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from error
    view = View(settings)
    out.mkdir(parents=True)
    written = 0
    for slot in range(count):
        try:
            frame = opened.read(slot)
        except PictureSkippedError as error:
            typer.echo(f"left out: {error}", err=True)
            continue
        if frame is None or (isinstance(opened, ListSource) and opened.entry > 0):
            break
        encoded = view.encode(frame, time_s=0.0)
        (out / f"{slot:06d}.jpg").write_bytes(encoded.jpeg)
        written += 1
    opened.close()
    typer.echo(f"{written} pictures in {out}")


def _parse_effect(text: str) -> tuple[EffectName, float]:
    name, _, value = text.partition("=")
    for known in EFFECTS:
        if name == known:
            try:
                strength = float(value)
            except ValueError:
                strength = -1.0
            if 0 <= strength <= 1:
                return known, strength
            raise typer.BadParameter(f"{text!r}: the strength goes from 0 to 1, as in {known}=0.5")
    raise typer.BadParameter(
        f"{text!r}: there is no effect {name!r}; there are {', '.join(EFFECTS)}"
    )


def _parse_size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise typer.BadParameter(f"size {text!r} is not WIDTHxHEIGHT, as in 320x240")
    return int(width), int(height)


if __name__ == "__main__":
    app()
