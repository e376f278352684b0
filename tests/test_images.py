import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, UnidentifiedImageError, features

from captioning.data.images import ImageSource, decode, open_image, read_bytes

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
CORNERS = Image.new("RGB", (2, 2))  # red, green over blue, white
CORNERS.putdata([RED, GREEN, BLUE, WHITE])
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def row_of(mode: str, *pixels) -> Image.Image:
    image = Image.new(mode, (len(pixels), 1))
    image.putdata(pixels)
    return image


def pixels_of(image: Image.Image) -> list[tuple[int, int, int]]:
    return [tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()]


def with_palette(*colors) -> Image.Image:
    image = row_of("P", *range(len(colors)))
    image.putpalette([channel for color in colors for channel in color])
    return image


# A half transparent pixel is as near to white as to its own color: 128 of 255 parts of it, 127 of white.
@pytest.mark.parametrize(
    ("file", "expected"),
    [
        pytest.param(encoded(row_of("RGB", RED, BLUE)), [RED, BLUE], id="RGB"),
        pytest.param(encoded(row_of("L", 0, 77)), [BLACK, (77, 77, 77)], id="gray"),
        pytest.param(encoded(row_of("1", 0, 255)), [BLACK, WHITE], id="1-bit"),
        pytest.param(encoded(row_of("RGBA", (9, 9, 9, 0), (255, 0, 0, 128))), [WHITE, (255, 127, 127)], id="RGBA"),
        pytest.param(encoded(row_of("LA", (0, 128), (7, 255))), [(127, 127, 127), (7, 7, 7)], id="LA"),
        pytest.param(encoded(with_palette(RED, BLUE)), [RED, BLUE], id="palette"),
        pytest.param(encoded(with_palette(RED, BLUE), transparency=0), [WHITE, BLUE], id="palette, one transparent"),
        pytest.param(
            encoded(with_palette(RED, BLUE), transparency=b"\xff\x80"), [RED, (127, 127, 255)], id="palette with alpha"
        ),
        pytest.param(encoded(row_of("RGB", RED, BLUE), transparency=RED), [WHITE, BLUE], id="RGB, one transparent"),
        pytest.param(encoded(row_of("L", 5, 9), transparency=5), [WHITE, (9, 9, 9)], id="gray, one transparent"),
        pytest.param(encoded(row_of("I;16", 0, 0x8000, 0xFFFF)), [BLACK, (127,) * 3, WHITE], id="16-bit gray"),
        pytest.param(encoded(row_of("I;16", 100, 255)), [BLACK, BLACK], id="16-bit gray, dark all over"),
        pytest.param(encoded(row_of("I", 0, 0x8000, 0xFFFF), "TIFF"), [BLACK, (127,) * 3, WHITE], id="32-bit gray"),
        pytest.param(encoded(row_of("I", 0, 100), "TIFF"), [BLACK, (100,) * 3], id="32-bit gray with 8-bit levels"),
        pytest.param(encoded(row_of("CMYK", (0, 255, 255, 0)), "TIFF"), [RED], id="CMYK"),
        pytest.param(
            encoded(row_of("RGB", RED), "GIF", save_all=True, append_images=[row_of("RGB", BLUE)]),
            [RED],
            id="animated GIF",
        ),
        pytest.param(
            encoded(row_of("RGB", RED), save_all=True, append_images=[row_of("RGB", BLUE)]), [RED], id="animated PNG"
        ),
    ],
)
def test_an_image_is_decoded_as_a_person_sees_it(file, expected):
    assert pixels_of(decode(file)) == expected


def test_a_cmyk_jpeg_is_not_inverted():
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    assert pixels_of(decode(encoded(cyan, "JPEG", quality=100)))[0] == pytest.approx((0, 255, 255), abs=3)


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, [RED, GREEN, BLUE, WHITE]),
        (2, [GREEN, RED, WHITE, BLUE]),  # mirrored
        (3, [WHITE, BLUE, GREEN, RED]),  # upside down
        (4, [BLUE, WHITE, RED, GREEN]),  # flipped
        (5, [RED, BLUE, GREEN, WHITE]),  # rows are columns
        (6, [BLUE, RED, WHITE, GREEN]),  # turned right to be seen
        (7, [WHITE, GREEN, BLUE, RED]),
        (8, [GREEN, WHITE, RED, BLUE]),  # turned left to be seen
    ],
)
def test_an_image_is_turned_as_its_exif_says(orientation, expected):
    assert pixels_of(decode(encoded(CORNERS, exif=exif(orientation)))) == expected


def test_a_turned_image_swaps_its_sides():
    portrait = encoded(Image.new("RGB", (30, 20)), "JPEG", exif=exif(6))
    assert decode(portrait).size == (20, 30)


def huge() -> bytes:
    """A PNG of a few bytes whose header promises 3600 megapixels."""
    size = struct.pack(">II", 60_000, 60_000) + b"\x08\x02\x00\x00\x00"
    header = struct.pack(">I", 13) + b"IHDR" + size + struct.pack(">I", zlib.crc32(b"IHDR" + size))
    return b"\x89PNG\r\n\x1a\n" + header + encoded(CORNERS)[33:]


NO_IMAGES = [
    pytest.param(b"", id="empty file"),
    pytest.param(b"<!DOCTYPE html><title>404 Not Found</title>", id="web page"),
    pytest.param(encoded(NOISE, "JPEG")[:-300], id="truncated JPEG"),
    pytest.param(encoded(NOISE, "PNG")[:-300], id="truncated PNG"),
    pytest.param(encoded(NOISE, "PNG")[:20], id="PNG cut in its header"),
    pytest.param(encoded(NOISE, "PNG").replace(b"\0\0\0\rIHDR", b"\0\0\0\x05IHDR"), id="PNG with a short header"),
    pytest.param(encoded(NOISE, "GIF")[:200], id="truncated GIF"),
    pytest.param(encoded(NOISE, "WEBP")[:-100], id="truncated WebP"),
    pytest.param(encoded(NOISE, "TIFF", compression="tiff_lzw")[:200], id="truncated TIFF"),
    pytest.param(encoded(NOISE, "PPM").replace(b"20", b"2x"), id="PPM without a width"),
    pytest.param(huge(), id="decompression bomb"),
]
if features.check("avif"):
    NO_IMAGES.append(pytest.param(encoded(NOISE, "AVIF").replace(b"iloc", b"xxxx"), id="damaged AVIF"))


@pytest.mark.parametrize("file", NO_IMAGES)
def test_what_cannot_be_decoded_is_an_oserror(file):
    with pytest.raises(OSError, match=r"\w"):  # and says why
        decode(file)


FILES = [
    *(encoded(NOISE, kind) for kind in ("PNG", "GIF", "BMP", "PPM", "TGA", "PCX", "SGI")),
    *(encoded(NOISE, kind, exif=exif(6)) for kind in ("PNG", "JPEG", "WEBP")),
    encoded(with_palette(RED, BLUE), transparency=b"\xff\x80"),
]


places = st.integers(0, 40) | st.integers(0, 2000)  # the former are in the header


@settings(max_examples=300)
@given(st.sampled_from(FILES), st.none() | places, st.lists(st.tuples(places, st.integers(0, 255)), max_size=4))
def test_however_a_file_is_damaged_it_is_decoded_or_an_oserror(file, end, changes):
    damaged = bytearray(file[:end])
    for at, value in changes:
        if at < len(damaged):
            damaged[at] = value
    try:
        image = decode(bytes(damaged))
    except OSError:
        return
    assert image.mode == "RGB"


@pytest.mark.parametrize("given", [b"given", b""])
def test_the_encoded_image_is_the_bytes_where_they_are_given(tmp_path, given):
    (tmp_path / "a.png").write_bytes(b"of the file")
    assert read_bytes(ImageSource(bytes=given, path=str(tmp_path / "a.png"))) == given


def test_the_encoded_image_is_else_that_of_the_file(tmp_path):
    (tmp_path / "a.png").write_bytes(b"of the file")
    assert read_bytes(ImageSource(bytes=None, path=str(tmp_path / "a.png"))) == b"of the file"


@pytest.mark.parametrize(
    "source", [None, ImageSource(bytes=None, path=None), ImageSource(bytes=None, path="/nowhere/a.png")]
)
def test_an_image_that_is_not_there_is_an_oserror(source):
    with pytest.raises(OSError, match=r"no image|No such file"):
        read_bytes(source)


def test_a_program_that_draws_is_not_run():
    postscript = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(postscript, "EPS")
    with pytest.raises(UnidentifiedImageError):
        decode(postscript.getvalue())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_an_image_whose_exif_is_damaged_is_taken_as_it_lies():
    damaged = encoded(NOISE, "WEBP", lossless=True, exif=exif(6)).replace(b"MM\0*", b"XX\0*")
    assert pixels_of(decode(damaged)) == pixels_of(NOISE)


@pytest.mark.parametrize(
    ("file", "mode", "rotated", "frames"),
    [
        pytest.param(encoded(NOISE.convert("CMYK"), "JPEG"), "CMYK", False, 1, id="CMYK"),
        pytest.param(encoded(NOISE, "PNG", exif=exif(6)), "RGB", True, 1, id="on its side"),
        pytest.param(encoded(NOISE, "PNG", exif=exif(1)), "RGB", False, 1, id="upright by its own word"),
        pytest.param(
            encoded(NOISE, "GIF", save_all=True, append_images=[NOISE.rotate(90)]), "P", False, 2, id="animated"
        ),
        pytest.param(
            encoded(NOISE, "MPO", save_all=True, append_images=[NOISE.rotate(90)]), "RGB", False, 1, id="with a preview"
        ),
    ],
)
def test_what_an_image_was_in_its_file_is_known(file, mode, rotated, frames):
    assert open_image(file)[1:] == (mode, rotated, frames)
