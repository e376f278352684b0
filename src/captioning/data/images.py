"""From a file or bytes to an RGB image: one way, for training, evaluation and inference alike."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
from PIL import ExifTags, Image, ImageOps


class ImageSource(TypedDict):
    """Where an image is, as ``datasets.Image(decode=False)`` has it: its encoded bytes, or else a path."""

    bytes: bytes | None
    path: str | None


class OpenedImage(NamedTuple):
    """An upright RGB image, and what it was in its file."""

    image: Image.Image
    mode: str  # PIL's, in the file
    rotated: bool  # or mirrored, by its EXIF orientation
    frames: int  # above 1: an animation, of which this is the first


def read_bytes(source: ImageSource | None) -> bytes:
    """The encoded image; raises OSError where its file can't be read, or a Hub data set has none."""
    if source is not None and source["bytes"] is not None:
        return source["bytes"]
    if source is None or source["path"] is None:
        raise OSError("no image there")
    return Path(source["path"]).read_bytes()


def read_image(source: ImageSource | None) -> Image.Image:
    """The image of a source, decoded; raises OSError where it can't be read or decoded."""
    return decode(read_bytes(source))


def decode(encoded: bytes) -> Image.Image:
    """The image in RGB: upright by its EXIF orientation, on white where it is transparent.

    Raises OSError: not an image (``PIL.UnidentifiedImageError``), a damaged one, or a decompression bomb.
    """
    return open_image(encoded).image


def open_image(encoded: bytes) -> OpenedImage:
    """The same as :func:`decode`, with what the image was in its file."""
    with _damage_as_os_error():
        image = Image.open(io.BytesIO(encoded), formats=image_formats())
        # A camera's MPO holds one image, and views or previews of it.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        mode, rotated = image.mode, _rotated(image)
        return OpenedImage(_to_rgb(rotated or image), mode, rotated is not None, frames)


def as_rgb(image: Image.Image) -> Image.Image:
    """The same as :func:`decode` for an image that PIL has opened already; raises OSError where it is damaged."""
    with _damage_as_os_error():
        return _to_rgb(_rotated(image) or image)


@lru_cache
def image_formats() -> tuple[str, ...]:
    """PIL's names of the formats that are read: all that it decodes itself."""
    Image.init()
    # PIL hands EPS, a program, to Ghostscript, which runs it; it hands WMF to Windows.
    return tuple(name for name in Image.ID if name not in ("EPS", "WMF"))


@contextmanager
def _damage_as_os_error() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # for a damaged file, PIL's decoders raise nearly anything
        if isinstance(error, OSError):
            raise
        raise OSError(str(error) or "damaged file") from error


def _rotated(image: Image.Image) -> Image.Image | None:
    """The image turned by its EXIF orientation; None where it has none, or a damaged one."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return ImageOps.exif_transpose(image) if orientation in range(2, 9) else None
    except Exception as error:  # damaged EXIF raises nearly anything, and the image itself may be whole
        if isinstance(error, OSError):
            raise
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        # PIL would clip 16-bit gray at 255, which turns nearly every image white.
        levels = np.asarray(image, dtype=np.float64)
        top = 65535.0 if image.mode.startswith("I;16") or levels.max(initial=0) > 255 else 255.0
        return Image.fromarray((levels * 255.0 / top).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")  # it would copy an RGB one
