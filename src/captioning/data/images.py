"""From a file or bytes to an RGB picture: one way, for training, evaluation and inference alike."""

import io
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
from PIL import ExifTags, Image, ImageOps


class PictureSource(TypedDict):
    """Where a picture is, as ``datasets.Image(decode=False)`` has it: its encoded bytes, or else a path."""

    bytes: bytes | None
    path: str | None


def read_bytes(source: PictureSource | None) -> bytes:
    """The encoded picture; raises OSError where its file can't be read, or where a Hub data set has none."""
    if source is not None and source["bytes"] is not None:
        return source["bytes"]
    if source is None or source["path"] is None:
        raise OSError("no picture there")
    return Path(source["path"]).read_bytes()


def read_picture(source: PictureSource | None) -> Image.Image:
    """The picture of a source as :func:`decode` gives it; raises OSError where it can't be had."""
    return decode(read_bytes(source))


class Opened(NamedTuple):
    """A picture as a person sees it, and what it was in its file."""

    picture: Image.Image  # RGB
    mode: str  # PIL's, in the file
    turned: bool  # its EXIF says that it is to be turned or mirrored, which was done
    frames: int  # above 1: an animation, of which this is the first


def decode(encoded: bytes) -> Image.Image:
    """The picture as a person sees it, in RGB: turned as its EXIF says, on white where it is transparent.

    Raises:
        OSError: not a picture (``PIL.UnidentifiedImageError`` is one too), a damaged one, or one of a size that could
            only fill the memory.
    """
    return open_picture(encoded).picture


def open_picture(encoded: bytes) -> Opened:
    """What :func:`decode` gives, with what it was in the file; the same errors."""
    try:
        picture = Image.open(io.BytesIO(encoded), formats=picture_formats())
        # A camera's MPO holds one picture, and views or previews of it.
        frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
        mode, upright = picture.mode, _upright(picture)
        return Opened(_as_seen(upright or picture), mode, upright is not None, frames)
    except OSError:
        raise
    except Exception as error:  # for a damaged file, PIL's decoders raise nearly anything
        raise OSError(str(error) or "damaged file") from error


def as_rgb(picture: Image.Image) -> Image.Image:
    """What :func:`decode` makes of a picture that PIL has opened already.

    Raises:
        OSError: its file is damaged.
    """
    try:
        return _as_seen(_upright(picture) or picture)
    except OSError:
        raise
    except Exception as error:  # as above
        raise OSError(str(error) or "damaged file") from error


def _upright(picture: Image.Image) -> Image.Image | None:
    """The picture turned as its EXIF says; None where it says nothing, or nothing that can be understood."""
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
        return ImageOps.exif_transpose(picture) if orientation in range(2, 9) else None
    except OSError:
        raise
    except Exception:  # damaged EXIF raises nearly anything, and the picture itself may be whole
        return None


@lru_cache
def picture_formats() -> tuple[str, ...]:
    """PIL's names of the formats that are read: all that it decodes itself."""
    Image.init()
    # EPS is a program, which PIL hands to Ghostscript to run; WMF it hands to Windows.
    return tuple(name for name in Image.ID if name not in ("EPS", "WMF"))


def _as_seen(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        return _from_deep_grey(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture.load()
    return picture if picture.mode == "RGB" else picture.convert("RGB")  # it would copy an RGB one


def _from_deep_grey(picture: Image.Image) -> Image.Image:
    # PIL would clip 16-bit grey at 255, which turns nearly every picture white.
    levels = np.asarray(picture, dtype=np.float64)
    top = 65535.0 if picture.mode.startswith("I;16") or levels.max(initial=0) > 255 else 255.0
    return Image.fromarray((levels * 255.0 / top).clip(0, 255).astype(np.uint8)).convert("RGB")
