"""Bytes from strangers in, whole RGB pictures out. The one place where pictures are decoded.

A picture's size is read from its header and checked before a pixel is decoded, and the plugin is chosen by the
signature of the bytes: Pillow's own `Image.open` would warn or raise at a limit that is not ours.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from sightline.errors import PictureTooLarge, PictureTooManyPixels, PictureUnreadable
from sightline.limits import MAX_PICTURE_BYTES, MAX_PICTURE_PIXELS

PICTURE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""File names that `decode_picture` can be expected to read, in lower case."""

_WHITE = (255, 255, 255)
_QUARTER_TURNS = frozenset({5, 6, 7, 8})
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error, zlib.error)
"""What Pillow's plugins raise on bytes that are not a whole picture."""

_SIGNATURES: tuple[tuple[bytes, Callable[[io.BytesIO], ImageFile.ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"GIF8", GifImageFile),
    (b"RIFF", WebPImageFile),
    (b"BM", BmpImageFile),
    (b"II*\x00", TiffImageFile),
    (b"MM\x00*", TiffImageFile),
)


def decode_picture(
    data: bytes,
    *,
    max_bytes: int = MAX_PICTURE_BYTES,
    max_pixels: int = MAX_PICTURE_PIXELS,
    min_side: int | None = None,
) -> Image.Image:
    """The first frame of a JPEG, PNG, GIF, WebP, BMP or TIFF as 8-bit RGB, upright, transparency on white.

    `min_side` allows a JPEG to be decoded at a half, quarter or eighth of its
    size as long as both sides keep at least that many pixels. Safe to call from
    many threads. Raises PictureTooLarge, PictureTooManyPixels (before decoding)
    or PictureUnreadable.
    """
    return decode_with_size(data, max_bytes=max_bytes, max_pixels=max_pixels, min_side=min_side)[0]


def decode_with_size(
    data: bytes,
    *,
    max_bytes: int = MAX_PICTURE_BYTES,
    max_pixels: int = MAX_PICTURE_PIXELS,
    min_side: int | None = None,
) -> tuple[Image.Image, tuple[int, int]]:
    """What `decode_picture` gives, and the upright width and height that it has when `min_side` reduces nothing."""
    if len(data) > max_bytes:
        raise PictureTooLarge(f"picture: got {len(data)} bytes, limit {max_bytes}", value=len(data), limit=max_bytes)
    _check_webp_canvas(data, max_pixels=max_pixels)
    try:
        picture = _open(data)
        width, height = picture.size
        _check_pixels((width, height), max_pixels=max_pixels)
        if min_side is not None:
            picture.draft("RGB", (min_side, min_side))
        picture.load()
        upright, is_turned = _upright(picture)
        return _as_rgb(upright), (height, width) if is_turned else (width, height)
    except Image.DecompressionBombError as error:
        raise PictureTooManyPixels(f"picture: {error}", value="unknown", limit=max_pixels) from error
    except _BROKEN as error:
        raise _unreadable(str(error)) from error


def _open(data: bytes) -> ImageFile.ImageFile:
    for signature, opener in _SIGNATURES:
        if data.startswith(signature):
            return opener(io.BytesIO(data))
    raise _unreadable(f"{len(data)} bytes start with the signature of no supported format")


def _unreadable(detail: str) -> PictureUnreadable:
    return PictureUnreadable(f"picture: not a whole JPEG, PNG, GIF, WebP, BMP or TIFF: {detail}", detail=detail)


def _check_pixels(size: tuple[int, int], *, max_pixels: int) -> None:
    pixels = size[0] * size[1]
    if pixels > max_pixels:
        message = f"picture: header promises {size[0]}x{size[1]} = {pixels} pixels, limit {max_pixels}"
        raise PictureTooManyPixels(message, value=pixels, limit=max_pixels)


def _check_webp_canvas(data: bytes, *, max_pixels: int) -> None:
    """Refuse a huge WebP from its first 30 bytes: its decoder allocates the canvas as soon as it is opened."""
    chunk = data[12:16] if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= 30 else b""
    if chunk == b"VP8X":
        size = (1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little"))
    elif chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        size = (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    elif chunk == b"VP8 ":
        size = (int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF)
    else:
        return
    _check_pixels(size, max_pixels=max_pixels)


def _upright(picture: Image.Image) -> tuple[Image.Image, bool]:
    """The picture as EXIF wants it seen, and whether that took a quarter turn."""
    try:
        is_turned = picture.getexif().get(ExifTags.Base.Orientation) in _QUARTER_TURNS
        return ImageOps.exif_transpose(picture), is_turned
    except _BROKEN:
        return picture, False  # Broken EXIF around whole pixels: the pixels are what was asked for.


def _as_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise ValueError("32-bit float pixels have no defined white")
    if picture.mode.startswith("I"):
        return Image.fromarray(_to_8_bit(np.asarray(picture))).convert("RGB")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        canvas = Image.new("RGB", rgba.size, _WHITE)
        canvas.paste(rgba, mask=rgba.getchannel("A"))
        return canvas
    return picture.convert("RGB")


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """16-bit samples scaled to 8 bits; Pillow's own conversion of mode I clips at 255 instead."""
    return np.clip(values.astype(np.int64) >> 8, 0, 255).astype(np.uint8)
