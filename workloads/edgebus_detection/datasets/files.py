"""Files of a data set: text in any encoding that names itself, folders behind links, sizes."""

from __future__ import annotations

import codecs
import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from edgebus_detection.datasets.picture import PICTURES, SourceError
from edgebus_detection.vision import ImageError, read_picture

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_HEADER_BYTES = 1 << 18
_ZIP_FACTOR, _ZIP_BYTES = 20, 1 << 28  # pictures hardly shrink, text does
# Start of frame: height and width of a JPEG (T.81 §B.2.2); C4, C8 and CC mean other things.
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def read_text(path: Path) -> str:
    """A text file's content without its byte order mark: UTF-8, or what the mark says.

    Raises:
        SourceError: It cannot be read, or is in another encoding.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        raise SourceError(source=str(path), reason=reason) from error
    mark, encoding = next((each for each in _MARKS if data.startswith(each[0])), (b"", "utf-8"))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        reason = (
            f"is no text in {encoding.upper()} (byte {error.start + len(mark)}: {error.reason}); "
            "save it as UTF-8"
        )
        raise SourceError(source=str(path), reason=reason) from error
    if "\x00" in text:
        reason = (
            "is no text in UTF-8: it has zero bytes, as UTF-16 without a byte order mark; save it "
            "as UTF-8"
        )
        raise SourceError(source=str(path), reason=reason)
    return text


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """A zip's files in a folder that is gone afterwards; anything else as it is.

    Raises:
        SourceError: It is no whole zip, or asks for far more room than its own size.
    """
    if path.suffix.lower() != ".zip" or not path.is_file():
        yield path
        return
    with TemporaryDirectory(prefix="edgebus-") as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                size = sum(each.file_size for each in archive.infolist())
                if size > _ZIP_FACTOR * path.stat().st_size + _ZIP_BYTES:
                    reason = f"would be {size} bytes unpacked; unpack it yourself, and give that"
                    raise SourceError(source=str(path), reason=reason)
                archive.extractall(folder)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            reason = f"cannot be unpacked: {error}"
            raise SourceError(source=str(path), reason=reason) from error
        yield Path(folder)


def files_below(folder: Path) -> Iterator[Path]:
    """Files of a folder and of those in it, by name; links are followed, each folder read once.

    A link that leads nowhere is among them: what uses it names it.

    Raises:
        SourceError: A folder cannot be read.
    """

    def fail(error: OSError) -> None:
        reason = f"cannot be read: {error.strerror or error}"
        raise SourceError(source=str(error.filename or folder), reason=reason) from error

    seen: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # Real folders first: the one that a link leads to is known by its own name.
        folders.sort(key=lambda name: (os.path.islink(os.path.join(place, name)), name))
        yield from (Path(place, name) for name in sorted(names))


def pictures_below(folder: Path) -> list[Path]:
    """The pictures of a folder and of those in it, by path.

    Raises:
        SourceError: It has none, or cannot be read.
    """
    if not folder.is_dir():
        reason = "there is no such folder; check the path"
        raise SourceError(source=str(folder), reason=reason)
    found = sorted(path for path in files_below(folder) if is_picture(path))
    if not found:
        reason = f"has no pictures ({', '.join(sorted(PICTURES))})"
        raise SourceError(source=str(folder), reason=reason)
    return found


def is_picture(path: Path) -> bool:
    """Whether a file's name is a picture's; not one of macOS's hidden companions."""
    return path.suffix.lower() in PICTURES and not path.name.startswith("._")


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height as `read_picture` returns them, of the header alone where that is enough.

    Raises:
        ImageError: It cannot be read, or is no picture.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER_BYTES)
    except OSError as error:
        raise ImageError(size=0, reason=f"{path} cannot be read: {error.strerror}") from error
    size = _png_size(head) or _jpeg_size(head)
    if size is None:
        height, width = read_picture(path).shape[:2]
        size = width, height
    return size


def _png_size(head: bytes) -> tuple[int, int] | None:
    if not head.startswith(b"\x89PNG\r\n\x1a\n") or len(head) < 24 or b"eXIf" in head:
        return None
    width, height = struct.unpack_from(">II", head, 16)
    return width, height


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    """Of the frame header; None where Exif may turn the picture, or the header is further in."""
    at = 2
    while head.startswith(b"\xff\xd8") and at + 9 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        (length,) = struct.unpack_from(">H", head, at + 2)
        if marker == 0xE1 and head[at + 4 : at + 8] == b"Exif":
            return None
        if marker in _SOF:
            height, width = struct.unpack_from(">HH", head, at + 5)
            return width, height
        at += 2 + length
    return None
