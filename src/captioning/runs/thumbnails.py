"""Small copies of images, in run folders and in pages."""

import io
from base64 import b64encode
from collections.abc import Iterable, Mapping

from PIL import Image

LONGEST_SIDE = 128
ROOM = 2_500_000  # bytes of JPEG in a page; base64 adds a third, and the page is to stay under 5 MB
SMALL_SIDE, SMALL_QUALITY = 96, 70


def small_jpeg(image: Image.Image, *, side: int = LONGEST_SIDE, quality: int = 80) -> bytes:
    """The image with sides of at most ``side`` pixels, encoded."""
    small = image.copy()
    small.thumbnail((side, side))
    encoded = io.BytesIO()
    small.convert("RGB").save(encoded, "JPEG", quality=quality, optimize=True)
    return encoded.getvalue()


def data_uri(jpeg: bytes) -> str:
    """An encoded image as the source of an image in a page."""
    return f"data:image/jpeg;base64,{b64encode(jpeg).decode()}"


def data_uris(
    thumbnails: Mapping[tuple[str, str], bytes], wanted: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], str]:
    """The wanted images (split and id) that there are, in 96 pixels where they would take too much room as they are."""
    jpegs = {key: thumbnails[key] for key in wanted if key in thumbnails}
    if sum(map(len, jpegs.values())) > ROOM:
        images = {key: Image.open(io.BytesIO(jpeg), formats=["JPEG"]) for key, jpeg in jpegs.items()}
        jpegs = {key: small_jpeg(image, side=SMALL_SIDE, quality=SMALL_QUALITY) for key, image in images.items()}
    return {key: data_uri(jpeg) for key, jpeg in jpegs.items()}
