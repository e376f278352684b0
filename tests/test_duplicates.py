import io
import time
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.cbook import get_sample_data
from PIL import Image, ImageDraw, ImageEnhance

from captioning.data.creatures.dataset import sample_creature
from captioning.data.creatures.drawing import Creature, draw_creature
from captioning.data.duplicates import (
    PERCEPTUAL_HASH_BYTES,
    clusters,
    is_near_duplicate,
    near_duplicates,
    perceptual_hash,
)


def hashes_of(*images):
    return np.stack([np.frombuffer(perceptual_hash(image), dtype=np.uint8) for image in images])


def are_near(one, other):
    return near_duplicates(hashes_of(one, other), ["one", "other"]) == [(0, 1)]


def noise(size, *, low=0, high=256, seed=0):
    levels = np.random.default_rng(seed).integers(low, high, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(levels)


def jpeg(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def scaled(image, factor):
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


def cropped(image, share):
    across, down = round(share * image.width), round(share * image.height)
    return image.crop((across, down, image.width - across, image.height - down))


@pytest.fixture(scope="module")
def photo():
    return Image.open(get_sample_data("grace_hopper.jpg")).convert("RGB")


@pytest.fixture(scope="module")
def creatures():
    return [draw_creature(sample_creature(rng := Random(f"0/{number}")), 64, rng) for number in range(150)]


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (7, 5), (72, 72), (640, 427)])
def test_a_perceptual_hash_has_the_same_length_for_every_size_of_image(size):
    assert len(perceptual_hash(noise(size))) == PERCEPTUAL_HASH_BYTES


@pytest.mark.parametrize("size", [(64, 64), (300, 200)])
def test_a_plain_image_has_no_steps_and_its_colour_everywhere(size):
    assert perceptual_hash(Image.new("RGB", size, (10, 200, 30))) == bytes(32) + bytes((10, 200, 30)) * 64


def test_noise_on_a_plain_ground_is_no_step():
    assert perceptual_hash(noise((300, 200), low=235))[:32] == bytes(32)


def test_each_step_in_brightness_is_one_bit_of_its_direction():
    ramp = Image.linear_gradient("L").convert("RGB")  # black at the top, white at the bottom
    turns = [ramp.rotate(angle) for angle in (0, 90, 180, 270)]
    bits = np.unpackbits(hashes_of(*turns)[:, :32], axis=1)
    assert bits.sum(1).tolist() == [64] * 4
    assert bits.sum(0).tolist() == [1] * 256


def test_the_bytes_of_a_perceptual_hash_are_the_same_on_every_machine():
    # Steps and means of this image come out even, so they are known: a white square on black, a cell in all.
    image = Image.new("RGB", (72, 72))
    image.paste("white", (18, 27, 27, 36))
    cells = np.frombuffer(perceptual_hash(image), dtype=np.uint8)[32:].reshape(8, 8, 3)
    assert np.argwhere(cells == 255).tolist() == [[3, 2, channel] for channel in range(3)]
    assert cells.sum() == 3 * 255


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(lambda image: scaled(image, 0.5), id="half as large"),
        pytest.param(lambda image: scaled(image, 2), id="twice as large"),
        pytest.param(lambda image: scaled(image, 0.15), id="thumbnail"),
        pytest.param(lambda image: image.resize((224, 224)), id="squeezed to a square"),
        pytest.param(lambda image: jpeg(image, 85), id="JPEG of quality 85"),
        pytest.param(lambda image: jpeg(image, 50), id="JPEG of quality 50"),
        pytest.param(lambda image: ImageEnhance.Brightness(image).enhance(1.05), id="brighter"),
        pytest.param(lambda image: ImageEnhance.Brightness(image).enhance(0.95), id="darker"),
        pytest.param(lambda image: cropped(image, 0.01), id="cropped"),
        pytest.param(lambda image: jpeg(scaled(cropped(image, 0.01), 0.5), 75), id="cropped, scaled, re-encoded"),
    ],
)
def test_a_changed_copy_of_a_photo_is_found(photo, changed):
    assert are_near(photo, changed(photo))


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), id="mirrored"),
        pytest.param(lambda image: image.convert("L").convert("RGB"), id="without colors"),
        pytest.param(lambda image: Image.merge("RGB", image.split()[::-1]), id="other colors"),
        pytest.param(lambda image: cropped(image, 0.15), id="another framing"),
    ],
)
def test_a_photo_that_shows_something_else_is_another_one(photo, changed):
    assert not are_near(photo, changed(photo))


def test_drawings_that_differ_in_a_colour_are_different():
    red, blue = (Creature("fish", color, None, "plain", ("wings",)) for color in ("red", "blue"))
    assert not are_near(draw_creature(red, 64, Random(0)), draw_creature(blue, 64, Random(0)))


def test_drawings_that_differ_in_a_small_part_are_different():
    face = Image.new("RGB", (96, 96), "white")
    draw = ImageDraw.Draw(face)
    draw.ellipse((8, 8, 88, 88), fill="gold")
    winking = face.copy()
    draw.ellipse((30, 32, 40, 42), fill="black")
    assert not are_near(face, winking)


def test_different_creatures_are_no_duplicates(creatures):
    assert near_duplicates(hashes_of(*creatures), [str(number) for number in range(150)]) == []


def test_copies_are_found_among_many_images(creatures):
    copies = [jpeg(scaled(image, 2), 85) for image in creatures[::10]]
    pairs = near_duplicates(hashes_of(*creatures, *copies), [str(number) for number in range(165)])
    assert pairs == [(10 * number, 150 + number) for number in range(15)]


def test_one_image_is_compared_with_many_as_all_are_with_each_other(photo, creatures):
    hashes = hashes_of(*creatures)
    for image in (jpeg(creatures[7], 50), scaled(creatures[9], 2), cropped(creatures[11], 0.02), photo):
        pairs = near_duplicates(np.concatenate([hashes, hashes_of(image)]), [str(row) for row in range(151)])
        assert is_near_duplicate(image, hashes) == bool(pairs)
    assert is_near_duplicate(creatures[3], hashes)


def test_no_image_looks_like_one_of_none(photo):
    assert not is_near_duplicate(photo, np.empty((0, PERCEPTUAL_HASH_BYTES), dtype=np.uint8))


def test_rows_of_equal_digests_are_duplicates_and_paired_with_the_first():
    hashes = hashes_of(*(noise((64, 64), seed=seed) for seed in range(5)))
    assert near_duplicates(hashes, ["a", "b", "a", "c", "a"]) == [(0, 2), (0, 4)]


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_images_have_no_duplicates(count):
    assert near_duplicates(np.zeros((count, PERCEPTUAL_HASH_BYTES), dtype=np.uint8), ["a"] * count) == []


def _alike_by_definition(one, other):
    differing = np.unpackbits(one[:32] ^ other[:32]).sum()
    if differing > 31 or 2 * differing > np.unpackbits(one[:32] | other[:32]).sum():
        return False
    a, b = (hashed[32:].reshape(8, 8, 3).astype(int) for hashed in (one, other))

    def contrast(cells, row, column):
        near = cells[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        return near.max((0, 1)) - near.min((0, 1))

    return all(
        (5 * abs(a - b)[cell] <= 5 * 16 + np.maximum(contrast(a, *cell), contrast(b, *cell))).all()
        for cell in np.ndindex(8, 8)
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 14), st.sampled_from([0.01, 0.05, 0.12]), st.sampled_from([0.05, 0.4]))
def test_all_that_are_near_by_definition_are_connected_and_nothing_else(seed, count, flips, density):
    rng = np.random.default_rng(seed)
    bits = np.packbits(rng.random((1, 256)) < density, axis=1) ^ np.packbits(rng.random((count, 256)) < flips, axis=1)
    ground = rng.integers(0, 256, (1, 192)) * rng.integers(0, 2)
    thumbnails = (ground + rng.integers(0, rng.integers(12, 24), (count, 192))).clip(0, 255)
    hashes = np.concatenate([bits, thumbnails], axis=1).astype(np.uint8)
    pairs = near_duplicates(hashes, [str(row) for row in range(count)])
    expected = [(i, j) for i in range(count) for j in range(i + 1, count) if _alike_by_definition(hashes[i], hashes[j])]
    assert set(pairs) <= set(expected)
    assert clusters(count, pairs, [None] * count) == clusters(count, expected, [None] * count)


@pytest.mark.parametrize("flipped", [16, 31])
def test_hashes_within_31_bits_are_found_wherever_the_bits_are(flipped):
    for seed in range(30):
        bits = np.random.default_rng(seed).integers(0, 2, 256, dtype=np.uint8)
        other = bits.copy()
        other[np.random.default_rng(seed).permutation(256)[:flipped]] ^= 1
        hashes = np.concatenate([np.packbits([bits, other], axis=1), np.zeros((2, 192), dtype=np.uint8)], axis=1)
        assert near_duplicates(hashes, ["a", "b"]) == [(0, 1)]


@pytest.mark.parametrize(
    "thumbnail_levels",
    [pytest.param((255, 256), id="equal ones"), pytest.param((240, 250), id="with noise")],
)
def test_thousands_of_blank_images_are_connected_by_few_pairs_and_fast(thumbnail_levels):
    count = 20_000
    hashes = np.zeros((count, PERCEPTUAL_HASH_BYTES), dtype=np.uint8)
    hashes[:, 32:] = np.random.default_rng(0).integers(*thumbnail_levels, (count, 192))
    start = time.process_time()
    pairs = near_duplicates(hashes, [str(row) for row in range(count)])
    assert time.process_time() - start < 3
    assert pairs == [(0, row) for row in range(1, count)]


def test_twenty_thousand_images_are_compared_in_seconds():
    hashes = np.random.default_rng(0).integers(0, 256, (20_000, PERCEPTUAL_HASH_BYTES), dtype=np.uint8)
    start = time.process_time()
    assert near_duplicates(hashes, [str(row) for row in range(20_000)]) == []
    assert time.process_time() - start < 5


connections = st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=25)
group_names = st.lists(st.sampled_from(["a", "b", "c", *[None] * 6]), min_size=20, max_size=20)


def _reachable(row, pairs, groups):
    seen, ahead = set(), {row}
    while ahead:
        here = ahead.pop()
        seen.add(here)
        ahead |= {j for i, j in pairs if i == here} | {i for i, j in pairs if j == here}
        ahead |= {other for other, name in enumerate(groups) if name is not None and name == groups[here]}
        ahead -= seen
    return seen


@given(connections, group_names)
def test_rows_have_one_number_exactly_if_pairs_and_groups_connect_them(pairs, groups):
    numbers = clusters(20, pairs, groups)
    assert numbers == [min(_reachable(row, pairs, groups)) for row in range(20)]


@given(connections, group_names, st.randoms())
def test_numbers_of_clusters_do_not_depend_on_the_order_of_pairs(pairs, groups, random):
    turned = [pair[::-1] for pair in random.sample(pairs, len(pairs))]
    assert clusters(20, turned, groups) == clusters(20, pairs, groups)


def test_rows_without_a_group_are_not_one_group():
    assert clusters(3, [], [None, None, None]) == [0, 1, 2]
