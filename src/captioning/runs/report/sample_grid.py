"""A few images with their captions beneath, in one image."""

import io
import textwrap
import unicodedata
import warnings
from collections.abc import Sequence

from PIL import Image, ImageOps

from captioning.terminal import plain

COLUMNS, LETTERS, LINES, SIDE = 4, 34, 4, 320
# For letters that matplotlib's own font lacks; those that this machine has are taken.
FALLBACKS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans SC", "WenQuanYi Zen Hei", "Hiragino Sans", "Yu Gothic"),
    *("Apple SD Gothic Neo", "Malgun Gothic", "Microsoft YaHei", "Arial Unicode MS"),
    *("Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Tamil", "Noto Sans Telugu", "Noto Sans Thai"),
    *("Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Ethiopic", "Noto Sans Georgian", "Noto Emoji", "Symbola"),
)


def sample_grid(samples: Sequence[tuple[Image.Image, str]]) -> bytes:
    """A PNG with each image above its caption, four in a row. A letter that no font here has is drawn as a box."""
    import matplotlib  # half a second, which a mistake needn't wait for
    from matplotlib.figure import Figure
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    fonts = ["DejaVu Sans", *(name for name in FALLBACKS if name in installed)]
    with matplotlib.rc_context({"font.family": fonts}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        rows = -(-len(samples) // COLUMNS) or 1
        figure = Figure(figsize=(2.9 * COLUMNS, 3.5 * rows), dpi=110, layout="constrained")
        grid = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
        for axes in grid:
            axes.axis("off")
        for axes, (image, caption) in zip(grid, samples, strict=False):
            square = ImageOps.pad(image, (SIDE, SIDE), color="white")  # so that captions stand in line
            axes.imshow(square)
            place = {"transform": axes.transAxes, "ha": "center", "va": "top"}
            axes.text(0.5, -0.04, wrapped(caption), fontsize=9, parse_math=False, **place)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.15)
        return buffer.getvalue()


def wrapped(caption: str) -> str:
    """A caption in a few lines that fit below an image."""
    text = plain(caption)
    wide = any(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return textwrap.fill(text, LETTERS // 2 if wide else LETTERS, max_lines=LINES, placeholder=" …")
