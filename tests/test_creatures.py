"""The embedded data set: the same everywhere, true to its captions, finished or absent."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from PIL import Image, ImageChops

from captioning.data.creatures.dataset import (
    OPENINGS,
    SLOTS,
    captions_of,
    creatures_folder,
    sample_creature,
    write_creatures,
)
from captioning.data.creatures.drawing import COLORS, Creature, draw_creature, shade_of

PARTS = sorted({part for slots in SLOTS.values() for slot in slots for part in slot})
# The default set's creatures.
CREATURES = [sample_creature(Random(f"0/{number}")) for number in range(1, 1501)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_set_is_an_ordinary_image_folder(tmp_path: Path) -> None:
    write_creatures(tmp_path, count=3, size=48)
    lines = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert [line["file_name"] for line in lines] == ["creature-00001.png", "creature-00002.png", "creature-00003.png"]
    assert sorted(contents(tmp_path)) == [*(line["file_name"] for line in lines), "metadata.jsonl"]
    for line in lines:
        assert line.keys() == {"file_name", "text"}
        assert len(set(line["text"])) == len(OPENINGS)
        with Image.open(tmp_path / line["file_name"]) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (48, 48))


def test_the_same_seed_gives_the_same_images_and_captions(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_creatures(tmp_path / name, count=8, seed=3, size=48)
    assert contents(tmp_path / "one") == contents(tmp_path / "other")


def test_another_seed_gives_other_images_and_captions(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_creatures(tmp_path / str(seed), count=3, seed=seed, size=48)
    one, other = contents(tmp_path / "0"), contents(tmp_path / "1")
    assert one.keys() == other.keys()
    assert all(one[name] != other[name] for name in one)


def test_a_larger_set_begins_with_the_smaller_one(tmp_path: Path) -> None:
    for count in (3, 6):
        write_creatures(tmp_path / str(count), count=count, size=48)
    few, many = contents(tmp_path / "3"), contents(tmp_path / "6")
    captions = few.pop("metadata.jsonl")
    assert many.pop("metadata.jsonl").startswith(captions)
    assert few.items() < many.items()


def test_captions_stay_as_they_were_published(tmp_path: Path) -> None:
    write_creatures(tmp_path, count=4, size=32)
    lines = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert [line["text"][0] for line in lines] == [
        "a drawing of a brown caterpillar with a leaf on its head and wings",
        "a drawing of a black snail with wings and one big eye",
        "a drawing of a spotted yellow and purple creature on four legs with one horn and wings",
        "a drawing of a white and red crab with an open mouth",
    ]


def test_a_caption_names_exactly_what_the_creature_has() -> None:
    for creature in CREATURES:
        caption = captions_of(creature)[0]
        assert tuple(part for part in PARTS if part in caption) == tuple(sorted(creature.parts))
        assert [word for word in caption.split() if word in COLORS] == [
            color for color in (creature.color, creature.second_color) if color
        ]
        assert [word for word in ("spotted", "striped") if word in caption] == [creature.coat] * (
            creature.coat != "plain"
        )
        assert [kind for kind in SLOTS if f" {kind} with " in caption] == [creature.kind]


def test_the_captions_of_an_image_differ_only_in_their_opening() -> None:
    for creature in CREATURES[:100]:
        captions = captions_of(creature)
        rests = {caption.removeprefix(opening) for caption, opening in zip(captions, OPENINGS, strict=True)}
        assert len(rests) == 1
        assert rests.isdisjoint(captions)


def test_captions_are_correct_english() -> None:
    assert captions_of(Creature("fish", "orange", None, "plain", ("one horn",)))[0] == (
        "a drawing of an orange fish with one horn"
    )
    assert captions_of(Creature("bird", "red", "white", "striped", ("two horns", "one big eye")))[1] == (
        "a cartoon of a striped red and white bird with two horns and one big eye"
    )
    for creature in CREATURES:
        for word, following in itertools.pairwise(captions_of(creature)[0].split()):
            if word in ("a", "an"):
                assert (word == "an") == (following[0] in "aeiou")
            if word in ("one", "two"):
                assert following.endswith("s") == (word == "two") or following == "big"


def test_the_vocabulary_is_small_and_closed() -> None:
    seen = {word for creature in CREATURES for caption in captions_of(creature) for word in caption.split()}
    others = (sample_creature(Random(f"1/{number}")) for number in range(3000))
    assert {word for creature in others for caption in captions_of(creature) for word in caption.split()} == seen
    assert len(seen) <= 80


def test_no_attribute_is_rare() -> None:
    for values in (
        Counter(creature.kind for creature in CREATURES),
        Counter(color for creature in CREATURES for color in {creature.color, creature.second_color}),
        Counter(creature.coat for creature in CREATURES),
        Counter(part for creature in CREATURES for part in creature.parts),
    ):
        assert min(values.values()) > 0.05 * len(CREATURES), values
    assert {part for creature in CREATURES for part in creature.parts} == set(PARTS)


def test_shades_of_two_colour_names_never_meet() -> None:
    rng = Random(0)
    shades = {name: [shade_of(name, rng) for _ in range(60)] for name in COLORS}
    for one, other in itertools.combinations(shades, 2):
        assert min(math.dist(a, b) for a in shades[one] for b in shades[other]) > 60, (one, other)


def change(one: Creature, other: Creature) -> float:
    """The share of the image that differs visibly, at the size that a small model sees."""
    images = (draw_creature(creature, 64, Random(0)) for creature in (one, other))
    return sum(ImageChops.difference(*images).convert("L").histogram()[24:]) / 64**2


@pytest.mark.parametrize("kind", SLOTS)
def test_all_that_a_caption_says_is_large_in_the_image(kind: str) -> None:
    creature = Creature(kind, "orange", "blue", "plain", ())
    assert change(creature, replace(creature, color="green")) > 0.08
    assert change(creature, replace(creature, second_color="green")) > 0.05
    for coat in ("spotted", "striped"):
        assert kind in ("snail", "turtle", "caterpillar") or change(creature, replace(creature, coat=coat)) > 0.04
    for part in itertools.chain(*SLOTS[kind]):
        assert change(creature, replace(creature, parts=(part,))) > 0.02, part


# ------------------------------------------------------------ the cache


def test_a_set_is_drawn_once(tmp_path: Path) -> None:
    folder = creatures_folder(tmp_path / "cache", count=3, size=48)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert creatures_folder(tmp_path / "cache", count=3, size=48) == folder
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == stamps
    assert len(stamps) == 6  # the cache, whose own stamp tells of drafts, the folder, its metadata, three images


def test_each_count_seed_and_size_has_a_folder_of_its_own(tmp_path: Path) -> None:
    settings = {"count": 2, "seed": 0, "size": 32}
    folders = {
        creatures_folder(tmp_path, **(settings | change)) for change in ({}, {"count": 3}, {"seed": 1}, {"size": 33})
    }
    assert set(tmp_path.iterdir()) == folders
    assert len(folders) == 4


def test_the_cache_can_be_shared(tmp_path: Path) -> None:
    umask = os.umask(0o002)
    try:
        folder = creatures_folder(tmp_path, count=1, size=32)
    finally:
        os.umask(umask)
    assert folder.stat().st_mode & 0o777 == 0o775


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    creatures_folder(tmp_path / "whole", count=20, size=64)
    sizes = [path.stat().st_size for path in sorted((tmp_path / "whole").rglob("*.png"))]
    limit, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[0], hard))  # the first image fits, a later one doesn't
    try:
        with pytest.raises(OSError, match="File too large"):
            creatures_folder(tmp_path / "full", count=20, size=64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    assert list((tmp_path / "full").iterdir()) == []
    assert len(contents(creatures_folder(tmp_path / "full", count=20, size=64))) == 21


# Waits to be told, so that two can begin at the same moment.
BUILD = """
import signal, sys
from pathlib import Path
from captioning.data.creatures.dataset import creatures_folder
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
print("ready", flush=True)
sys.stdin.readline()
print(creatures_folder(Path(sys.argv[1]), count=int(sys.argv[2]), size=48))
"""


def start_build(cache: Path, count: int, **environment: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD, str(cache), str(count)],
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_two_processes_that_draw_at_once_both_succeed(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    builds = [start_build(cache, 60, PYTHONHASHSEED=seed) for seed in ("1", "2")]
    for build in builds:
        assert build.stdin is not None
        build.stdin.write("\n")
        build.stdin.flush()
    ends = [build.communicate(timeout=60) for build in builds]
    (folder,) = cache.iterdir()
    assert ends == [(f"{folder}\n", "")] * 2
    assert [build.returncode for build in builds] == [0, 0]
    write_creatures(tmp_path / "alone", count=60, size=48)
    assert contents(folder) == contents(tmp_path / "alone")


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_does_not_trip_the_next_one(tmp_path: Path, blow: signal.Signals) -> None:
    build = start_build(tmp_path, 2000)
    assert build.stdin is not None
    build.stdin.write("\n")
    build.stdin.flush()
    deadline = time.monotonic() + 60
    while len(list(tmp_path.rglob("*.png"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    build.send_signal(blow)
    build.communicate(timeout=60)
    assert build.returncode == -blow
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == []  # never half
    if blow == signal.SIGINT:
        assert list(tmp_path.iterdir()) == []
    assert len(contents(creatures_folder(tmp_path, count=5, size=48))) == 6
