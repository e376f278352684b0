"""Thumbnails as they stand in a page: ``data:`` URIs, made smaller where there are many."""

import io
from base64 import b64encode
from collections.abc import Iterable, Mapping

ROOM = 2_500_000  # bytes of JPEG; base64 adds a third, and the page is to stay under 5 MB
SMALL_SIDE, SMALL_QUALITY = 96, 70

Key = tuple[str, str]  # split and id


def data_uris(thumbnails: Mapping[Key, bytes], wanted: Iterable[Key]) -> dict[Key, str]:
    """The wanted images that there are; all of them in 96 pixels where they would take too much room as they are."""
    jpegs = {key: thumbnails[key] for key in wanted if key in thumbnails}
    if sum(map(len, jpegs.values())) > ROOM:
        jpegs = {key: _smaller(jpeg) for key, jpeg in jpegs.items()}
    return {key: data_uri(jpeg) for key, jpeg in jpegs.items()}


def data_uri(jpeg: bytes) -> str:
    """An encoded image as the source of an image in a page."""
    return f"data:image/jpeg;base64,{b64encode(jpeg).decode()}"


def _smaller(jpeg: bytes) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
        image.thumbnail((SMALL_SIDE, SMALL_SIDE))
        image.convert("RGB").save(buffer, "JPEG", quality=SMALL_QUALITY, optimize=True)
    return buffer.getvalue()
