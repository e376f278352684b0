"""The drawn data set: cartoon creatures, and captions that say exactly what can be seen of them."""

import json
import tempfile
from pathlib import Path
from random import Random

from captioning.data.creatures.drawing import COLORS, Creature, draw_creature

COUNT = 1500
VERSION = 2  # of the drawings and captions; another version is another set

OPENINGS = ("a drawing of", "a cartoon of", "an image of")

_HEAD = ("one horn", "two horns", "pointed ears", "round ears", "long ears", "antennae", "a leaf on its head")
_BACK = ("wings", "a long tail", "a curly tail")
_FACE = ("big eyes", "one big eye", "an open mouth")

# What each kind may have: at most one part of each slot.
SLOTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "creature on two legs": (_HEAD, _BACK, _FACE),
    "creature on four legs": (_HEAD, _BACK, _FACE),
    "bird": (_HEAD, _FACE[:2]),
    "fish": (_HEAD, ("wings",), _FACE),
    "snake": (_HEAD, ("wings",), _FACE[:2]),
    "snail": (_HEAD, ("wings",), _FACE),
    "turtle": (_HEAD, _FACE),
    "octopus": (_HEAD, ("wings",), _FACE),
    "crab": (_HEAD, _FACE),
    "caterpillar": (_HEAD, ("wings",), _FACE),
}
_KINDS = (*SLOTS, "creature on two legs", "creature on four legs")  # twice: only they have tails
_ONE_COAT = ("snail", "turtle", "caterpillar")  # their second color has its place already

# Pairs that are hard to tell apart, or one of which can be taken for the other's light or shadow.
_CLASHES = [
    *({"red", other} for other in ("orange", "pink", "brown")),
    *({"purple", other} for other in ("blue", "pink", "brown", "black")),
    *({"orange", "yellow"}, {"orange", "brown"}, {"yellow", "white"}, {"pink", "white"}, {"brown", "black"}),
]


def sample_creature(rng: Random) -> Creature:
    """A random creature: one or two parts, and in two of three cases a second color."""
    kind = rng.choice(_KINDS)
    color, second_color, coat = rng.choice(list(COLORS)), None, "plain"
    if rng.random() < 2 / 3:
        second_color = rng.choice([name for name in COLORS if name != color and {name, color} not in _CLASHES])
        if kind not in _ONE_COAT:
            coat = rng.choice(("plain", "plain", "spotted", "striped"))
    slots = SLOTS[kind]
    filled = sorted(rng.sample(range(len(slots)), rng.choice((1, 2, 2))))
    return Creature(kind, color, second_color, coat, tuple(rng.choice(slots[i]) for i in filled))


def captions_of(creature: Creature) -> list[str]:
    """All that the creature is, in one order of words, after each of the openings."""
    colors = creature.color if creature.second_color is None else f"{creature.color} and {creature.second_color}"
    coat = "" if creature.coat == "plain" else f"{creature.coat} "
    name = f"{coat}{colors} {creature.kind}"
    article = "an" if name[0] in "aeiou" else "a"
    return [f"{opening} {article} {name} with {' and '.join(creature.parts)}" for opening in OPENINGS]


def write_creatures(folder: Path, *, count: int = COUNT, seed: int = 0, size: int = 128) -> None:
    """Write an image folder: PNG files of ``size`` pixels and ``metadata.jsonl`` with three captions for each."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metadata.jsonl").open("w", encoding="utf-8", newline="\n") as metadata:
        for number in range(1, count + 1):
            rng = Random(f"{seed}/{number}")  # of its own, so that a larger set begins with the smaller one
            creature = sample_creature(rng)
            name = f"creature-{number:05d}.png"
            draw_creature(creature, size, rng).save(folder / name, compress_level=3)
            metadata.write(json.dumps({"file_name": name, "text": captions_of(creature)}) + "\n")


def creatures_folder(cache: Path, *, count: int = COUNT, seed: int = 0, size: int = 128) -> Path:
    """The folder inside ``cache`` that holds this set; drawn at first use, and whole or absent.

    Raises:
        OSError: the cache can't be written; nothing is left behind.
    """
    folder = cache / f"creatures-v{VERSION}-count{count}-seed{seed}-size{size}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=cache, ignore_cleanup_errors=True) as scratch:
        draft = Path(scratch, folder.name)
        write_creatures(draft, count=count, seed=seed, size=size)
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same images
                raise
    return folder
