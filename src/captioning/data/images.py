"""From a file or bytes to an RGB image: one way, for training, evaluation and inference alike."""

import io
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
from PIL import ExifTags, Image, ImageOps


class ImageSource(TypedDict):
    """Where an image is, as ``datasets.Image(decode=False)`` has it: its encoded bytes, or else a path."""

    bytes: bytes | None
    path: str | None


def read_bytes(source: ImageSource | None) -> bytes:
    """The encoded image; raises OSError where its file can't be read, or where a Hub data set has none."""
    if source is not None and source["bytes"] is not None:
        return source["bytes"]
    if source is None or source["path"] is None:
        raise OSError("no image there")
    return Path(source["path"]).read_bytes()


def read_image(source: ImageSource | None) -> Image.Image:
    """The image of a source as :func:`decode` gives it; raises OSError where it can't be had."""
    return decode(read_bytes(source))


class Opened(NamedTuple):
    """An image as a person sees it, and what it was in its file."""

    image: Image.Image  # RGB
    mode: str  # PIL's, in the file
    turned: bool  # its EXIF says that it is to be turned or mirrored, which was done
    frames: int  # above 1: an animation, of which this is the first


def decode(encoded: bytes) -> Image.Image:
    """The image as a person sees it, in RGB: turned as its EXIF says, on white where it is transparent.

    Raises:
        OSError: not an image (``PIL.UnidentifiedImageError`` is one too), a damaged one, or one of a size that could
            only fill the memory.
    """
    return open_image(encoded).image


def open_image(encoded: bytes) -> Opened:
    """What :func:`decode` gives, with what it was in the file; the same errors."""
    try:
        image = Image.open(io.BytesIO(encoded), formats=image_formats())
        # A camera's MPO holds one image, and views or previews of it.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        mode, upright = image.mode, _upright(image)
        return Opened(_as_seen(upright or image), mode, upright is not None, frames)
    except OSError:
        raise
    except Exception as error:  # for a damaged file, PIL's decoders raise nearly anything
        raise OSError(str(error) or "damaged file") from error


def as_rgb(image: Image.Image) -> Image.Image:
    """What :func:`decode` makes of an image that PIL has opened already.

    Raises:
        OSError: its file is damaged.
    """
    try:
        return _as_seen(_upright(image) or image)
    except OSError:
        raise
    except Exception as error:  # as above
        raise OSError(str(error) or "damaged file") from error


def _upright(image: Image.Image) -> Image.Image | None:
    """The image turned as its EXIF says; None where it says nothing, or nothing that can be understood."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return ImageOps.exif_transpose(image) if orientation in range(2, 9) else None
    except OSError:
        raise
    except Exception:  # damaged EXIF raises nearly anything, and the image itself may be whole
        return None


@lru_cache
def image_formats() -> tuple[str, ...]:
    """PIL's names of the formats that are read: all that it decodes itself."""
    Image.init()
    # EPS is a program, which PIL hands to Ghostscript to run; WMF it hands to Windows.
    return tuple(name for name in Image.ID if name not in ("EPS", "WMF"))


def _as_seen(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _from_deep_grey(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")  # it would copy an RGB one


def _from_deep_grey(image: Image.Image) -> Image.Image:
    # PIL would clip 16-bit gray at 255, which turns nearly every image white.
    levels = np.asarray(image, dtype=np.float64)
    top = 65535.0 if image.mode.startswith("I;16") or levels.max(initial=0) > 255 else 255.0
    return Image.fromarray((levels * 255.0 / top).clip(0, 255).astype(np.uint8)).convert("RGB")
