"""Decoding: every kind of picture becomes upright 8-bit RGB, and no bad picture is decoded."""

from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from sightline.data.pictures import decode_picture
from sightline.errors import PictureTooLarge, PictureTooManyPixels, PictureUnreadable

RED = (220, 20, 30)


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def half_red(mode: str = "RGB") -> Image.Image:
    """40x20, left half red, right half blue."""
    picture = Image.new("RGB", (40, 20), (20, 30, 220))
    picture.paste(RED, (0, 0, 20, 20))
    return picture.convert(mode)


def png_promising(width: int, height: int) -> bytes:
    """A PNG whose header promises a size and whose data holds one byte."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\x00")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_every_supported_format_becomes_rgb(kind: str) -> None:
    picture = decode_picture(encoded(half_red(), kind))
    assert (picture.mode, picture.size) == ("RGB", (40, 20))
    assert np.allclose(picture.getpixel((5, 10)), RED, atol=40)


def test_lossless_rgb_is_unchanged() -> None:
    source = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
    assert np.array_equal(np.asarray(decode_picture(encoded(source))), np.asarray(source))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA"])
def test_other_modes_become_rgb(mode: str) -> None:
    assert decode_picture(encoded(half_red(mode))).mode == "RGB"


def test_cmyk_is_converted() -> None:
    picture = decode_picture(encoded(half_red("CMYK"), "JPEG", quality=95))
    assert picture.mode == "RGB"
    assert np.allclose(picture.getpixel((5, 10)), RED, atol=25)


def test_sixteen_bit_grey_keeps_its_brightness() -> None:
    ramp = np.array([[0, 0x4000, 0x8000, 0xFFFF]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        grey = np.asarray(decode_picture(encoded(Image.fromarray(ramp), kind)))[0, :, 0]
        assert grey.tolist() == [0, 0x40, 0x80, 0xFF]


def test_float_picture_is_refused() -> None:
    with pytest.raises(PictureUnreadable, match="no defined white"):
        decode_picture(encoded(Image.new("F", (4, 4)), "TIFF"))


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    picture = decode_picture(encoded(half_red(), "JPEG", exif=exif, quality=95))
    assert picture.size == (20, 40)
    assert np.allclose(picture.getpixel((10, 5)), RED, atol=25)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_broken_exif_does_not_lose_the_picture() -> None:
    data = encoded(half_red(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert decode_picture(data).size == (40, 20)


def test_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, (0, 0, 255), (0, 255, 0))]
    for kind in ("GIF", "PNG", "WEBP"):
        data = encoded(
            frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
        )
        assert np.allclose(decode_picture(data).getpixel((4, 4)), RED, atol=6)


def test_transparency_lies_on_white() -> None:
    picture = Image.new("RGBA", (4, 4), (*RED, 0))
    picture.putpixel((0, 0), (*RED, 255))
    for kind in ("PNG", "WEBP"):
        decoded = decode_picture(encoded(picture, kind, lossless=True))
        assert decoded.getpixel((3, 3)) == (255, 255, 255)
        assert decoded.getpixel((0, 0)) == RED


def test_half_transparency_is_mixed_with_white() -> None:
    assert decode_picture(encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 128)))).getpixel((0, 0)) == (127, 127, 127)


def test_palette_transparency_lies_on_white() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([*RED, 0, 0, 0])
    picture.putpixel((1, 0), 1)
    decoded = decode_picture(encoded(picture, transparency=1))
    assert [decoded.getpixel((x, 0)) for x in (0, 1)] == [RED, (255, 255, 255)]


def test_bytes_over_the_limit_are_refused() -> None:
    data = encoded(half_red())
    assert decode_picture(data, max_bytes=len(data)).size == (40, 20)
    with pytest.raises(PictureTooLarge) as caught:
        decode_picture(data, max_bytes=len(data) - 1)
    assert caught.value.metadata == {"value": str(len(data)), "limit": str(len(data) - 1)}


def test_pixels_over_the_limit_are_refused() -> None:
    assert decode_picture(encoded(half_red()), max_pixels=800).size == (40, 20)
    with pytest.raises(PictureTooManyPixels, match="40x20 = 800 pixels, limit 799"):
        decode_picture(encoded(half_red()), max_pixels=799)


@pytest.mark.parametrize("side", [7_000, 12_000, 60_000])
def test_decompression_bomb_is_refused_by_its_header(side: int) -> None:
    """Below and above the sizes at which the library itself warns and raises."""
    with pytest.raises(PictureTooManyPixels):
        decode_picture(png_promising(side, side))


def test_huge_webp_is_refused_before_it_is_opened() -> None:
    small = encoded(Image.new("RGBA", (4, 4), (1, 2, 3, 90)), "WEBP", lossless=True)
    at = small.index(b"VP8L") + 9
    bits = int.from_bytes(small[at : at + 4], "little") & ~0xFFFFFFF | 0xFFFFFFF
    with pytest.raises(PictureTooManyPixels, match="16384x16384"):
        decode_picture(small[:at] + bits.to_bytes(4, "little") + small[at + 4 :])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_picture_is_refused(kind: str, share: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    with pytest.raises(PictureUnreadable):
        decode_picture(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"<svg/>", b"\xff\xd8\xff", b"RIFF1234WAVE", b"GIF8", b"BM", b"II*\x00"]
)
def test_bytes_that_are_no_picture_are_refused(data: bytes) -> None:
    with pytest.raises(PictureUnreadable):
        decode_picture(data)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_flipped_bytes_never_raise_anything_else() -> None:
    rng = np.random.default_rng(1)
    sources = [encoded(half_red(), kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")]
    for data in sources * 15:
        spoiled = bytearray(data)
        for at in rng.integers(0, len(data), 6):
            spoiled[at] = int(rng.integers(0, 256))
        try:
            assert decode_picture(bytes(spoiled), max_pixels=1_000_000).mode == "RGB"
        except (PictureUnreadable, PictureTooManyPixels):
            continue


def test_draft_keeps_the_sides_asked_for() -> None:
    large = encoded(Image.new("RGB", (800, 640), RED), "JPEG")
    picture = decode_picture(large, min_side=100)
    assert min(picture.size) >= 100
    assert max(picture.size) < 800
    assert decode_picture(large).size == (800, 640)


def test_many_threads_decode_the_same_pixels() -> None:
    data = encoded(half_red(), "JPEG")
    expected = np.asarray(decode_picture(data))
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(np.asarray(got), expected) for got in pool.map(decode_picture, [data] * 32))
