"""XML labels: Pascal VOC (a file per picture) and CVAT's own (a file for all)."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from edgebus_detection.datasets.files import read_text
from edgebus_detection.datasets.index import PictureIndex
from edgebus_detection.datasets.picture import (
    Corners,
    DatasetBox,
    DatasetPicture,
    SourceError,
    bounds,
    sample_id_in,
    stated_size,
)

_GRID = 1.5
"""Some tools write whole pixels, and some count them from 1."""


def read_xml(file: Path) -> Element:
    """The root of an XML file.

    Raises:
        SourceError: It is none.
    """
    try:
        return ElementTree.fromstring(read_text(file))
    except ElementTree.ParseError as error:
        raise SourceError(source=str(file), reason=f"cannot be read as XML: {error}") from error


def read_voc(file: Path, root: Element, index: PictureIndex) -> DatasetPicture:
    """The picture of a VOC file; `difficult` objects are regions to ignore, as in VOC's measure.

    Corners are taken as they are: the tools of today count pixels from 0.
    """
    wrong: list[str] = []
    name = (root.findtext("filename") or "").strip()
    # The file's own name first: what it says inside is often that of before a renaming.
    own = file.with_suffix("")
    if own.is_relative_to(index.root):
        own = own.relative_to(index.root)
    picture = index.find_stem(str(own), near=file)
    if picture is None and name:
        picture = index.find(name, near=file)
        picture = picture or index.find_stem(Path(name).stem, near=file)
    try:
        size = stated_size(root.findtext("size/width"), root.findtext("size/height"))
    except ValueError as error:
        size = None
        wrong.append(f"{file.name}: {error}")
    boxes: list[DatasetBox] = []
    for number, each in enumerate(root.findall("object"), start=1):
        where = f"{file.name}, object {number}"
        try:
            boxes.append(
                DatasetBox(
                    label=(each.findtext("name") or "").strip(),
                    corners=_voc_corners(each),
                    ignore=(each.findtext("difficult") or "0").strip() == "1",
                    where=where,
                )
            )
        except ValueError as error:
            wrong.append(f"{where}: {error}")
    return DatasetPicture(
        name=picture.name if picture is not None else name or file.stem,
        file=picture,
        boxes=tuple(boxes),
        size=size,
        sample=sample_id_in(file.stem) or sample_id_in(name),
        where=file.name,
        wrong=tuple(wrong),
        grid=_GRID,
    )


def _voc_corners(each: Element) -> Corners:
    box, polygon = each.find("bndbox"), each.find("polygon")
    if box is not None:
        x1, y1, x2, y2 = (
            _number(box.findtext(key), key) for key in ("xmin", "ymin", "xmax", "ymax")
        )
        return x1, y1, x2, y2
    if polygon is None:
        raise ValueError("it has no bndbox; boxes are upright, with xmin, ymin, xmax, ymax")
    # x1, y1, x2, ... of Roboflow and Label Studio; or points with an x and a y, of LabelMe.
    found = [(part.tag, _number(part.text, part.tag)) for part in polygon.iter() if _is_axis(part)]
    across = [value for tag, value in found if tag.startswith("x")]
    down = [value for tag, value in found if tag.startswith("y")]
    return bounds(list(zip(across, down, strict=True)))


def _is_axis(part: Element) -> bool:
    return part.tag[:1] in ("x", "y") and (part.tag[1:] or "0").isdecimal()


def read_cvat(file: Path, root: Element, index: PictureIndex) -> list[DatasetPicture]:
    """Pictures of a "CVAT for images" file; of polygons and masks it is their bounds.

    Raises:
        SourceError: It is of a video: its boxes belong to frames, not to pictures.
    """
    if root.find("track") is not None:
        reason = "holds tracks of a video; export the task as 'CVAT for images' or 'COCO'"
        raise SourceError(source=str(file), reason=reason)
    found: list[DatasetPicture] = []
    for image in root.findall("image"):
        name = image.get("name", "")
        where = f"{file.name}, image {image.get('id')}"
        boxes: list[DatasetBox] = []
        wrong: list[str] = []
        for number, shape in enumerate(image, start=1):
            if shape.tag == "tag":
                continue  # a word about the whole picture
            at = f"{where}, {shape.tag} {number}"
            try:
                label, corners = shape.get("label", ""), _cvat_corners(shape)
            except ValueError as error:
                wrong.append(f"{at}: {error}")
                continue
            boxes.append(DatasetBox(label=label, corners=corners, where=at))
        try:
            size = stated_size(image.get("width"), image.get("height"))
        except ValueError as error:
            size = None
            wrong.append(f"{where}: {error}")
        found.append(
            DatasetPicture(
                name=name,
                file=index.find(name, near=file, subset=image.get("subset", "")),
                boxes=tuple(boxes),
                size=size,
                sample=sample_id_in(name),
                where=where,
                wrong=tuple(wrong),
            )
        )
    return found


def _cvat_corners(shape: Element) -> Corners:
    turned = float(shape.get("rotation", "0"))
    if turned:
        raise ValueError(f"rotated by {turned:g} degrees; boxes are upright: draw it anew")
    if shape.tag == "box":
        x1, y1, x2, y2 = (_number(shape.get(key), key) for key in ("xtl", "ytl", "xbr", "ybr"))
        return x1, y1, x2, y2
    if shape.tag == "polygon":
        pairs = (pair.split(",") for pair in shape.get("points", "").split(";"))
        return bounds([(float(x), float(y)) for x, y in pairs])
    if shape.tag == "mask":
        left, top, width, height = (
            _number(shape.get(key), key) for key in ("left", "top", "width", "height")
        )
        return left, top, left + width, top + height
    raise ValueError("is no box; boxes, polygons and masks are read")


def _number(text: str | None, what: str) -> float:
    try:
        return float(text or "")
    except ValueError as error:
        raise ValueError(f"{what} is {text!r}, and should be a number") from error
