import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from captioning.data.augment import (
    STRETCH,
    UNTRUE_WHEN_MIRRORED,
    Augmenter,
    color_jitter,
    crop,
)
from captioning.data.creatures.dataset import write_creatures
from captioning.errors import UserError

SIDE = 96
ALL_ON = {"crop": 0.2, "color": 0.2, "flip": 0.5}
SEEDS = range(1000)
CLEAR = ["a bird with big eyes"]  # true of a mirrored image too


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """Six creatures: (6, 3, 96, 96), uint8."""
    folder = tmp_path_factory.mktemp("creatures")
    write_creatures(folder, count=6, size=SIDE)
    return torch.stack([to_tensor(Image.open(path)) for path in sorted(folder.glob("*.png"))])


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def to_image(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def augmented(pixels: Tensor, settings: dict[str, float], seeds=None) -> Tensor:
    seeds = range(len(pixels)) if seeds is None else seeds
    return Augmenter(**settings)(pixels, seeds, [CLEAR] * len(pixels))


def changes(**settings: float):
    augmenter = Augmenter(**settings)
    return [augmenter.draw(seed) for seed in SEEDS]


def is_share(count: int, share: float) -> bool:
    """Whether ``count`` of 1,000 is within 5 standard deviations of the binomial distribution."""
    return abs(count - 1000 * share) <= 5 * (1000 * share * (1 - share)) ** 0.5


# Settings


def test_without_kornia_the_answer_names_the_settings_and_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia", None)  # as Python itself marks what can't be imported
    with pytest.raises(UserError) as error:
        Augmenter(crop=0.2, flip=0.5)
    assert str(error.value) == (
        "data.augment_crop=0.2 data.augment_flip=0.5: augmentation needs kornia, which isn't installed: "
        "pip install -e '.[augment]'"
    )


# Captions that mirroring would belie


@pytest.mark.parametrize(
    "caption",
    [
        "a cat left of a dog",
        "a Left-Handed pitcher",
        "the rightmost car",
        "an arrow at the top_left",
        "dancers turning counter-clockwise",
        "four o'clock",
        "the flag of Ireland",
        "a map of Italy",
        "a STOP sign",
        "a t-shirt with a logo",
        "a shirt that says hello",
        "the banner reads welcome",
        "a player with number 7",
        "bus 42 at a stop",
        "a “wet paint” notice",
        'a door with "exit" above it',
    ],
)
def test_a_caption_that_names_a_side_or_something_readable_is_untrue_when_mirrored(caption):
    assert UNTRUE_WHEN_MIRRORED.search(caption)


@pytest.mark.parametrize(
    "caption",
    [
        "a bright room",
        "an upright piano",
        "a red bird with a cleft beak",
        "a textured wall",
        "a signal lamp",
        "a thread of wool",
        "a sword on a table",
        "the dog's ball",
    ],
)
def test_a_caption_with_such_letters_inside_other_words_stays_true_when_mirrored(caption):
    assert not UNTRUE_WHEN_MIRRORED.search(caption)


def test_one_caption_of_several_is_enough_to_keep_an_image_unmirrored(pixels):
    captions = [[*CLEAR, "a bird that looks to the left"], CLEAR]
    result = Augmenter(flip=1)(pixels[:2], [0, 1], captions)
    assert torch.equal(result[0], pixels[0].float())


# What is done


def test_a_mirrored_image_is_the_image_flipped_bit_for_bit(pixels):
    assert torch.equal(augmented(pixels, {"flip": 1}), pixels.flip(-1).float())


def test_only_their_share_of_samples_is_mirrored():
    assert is_share(sum(change.flipped for change in changes(flip=0.3)), 0.3)


def test_a_crop_keeps_at_least_what_the_setting_leaves():
    areas = [change.box[2] * change.box[3] for change in changes(crop=0.2)]
    assert 0.8 <= min(areas) < 0.81


def test_crops_go_up_to_the_whole_image():
    assert 0.99 < max(change.box[2] * change.box[3] for change in changes(crop=0.2)) <= 1


@pytest.mark.parametrize("setting", [0.05, 0.5])
def test_a_crop_lies_inside_the_image(setting):
    for left, top, width, height in (change.box for change in changes(crop=setting)):
        assert left >= 0
        assert top >= 0
        assert left + width <= 1 + 1e-12
        assert top + height <= 1 + 1e-12


def test_a_crop_hardly_changes_the_ratio_of_sides():
    ratios = [change.box[2] / change.box[3] for change in changes(crop=0.5)]
    assert 1 / STRETCH <= min(ratios) < 1 < max(ratios) <= STRETCH


def test_a_crop_shows_what_lies_in_its_box_and_fills_the_image():
    # Each pixel says where it is: its column in red, its row in green.
    height, width = 41, 81
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([columns, rows, torch.zeros_like(rows)])[None].float()
    shown = crop(place, torch.tensor([[0.1, 0.2, 0.5, 0.75]]))
    assert shown.shape == place.shape
    torch.testing.assert_close(shown[0, 0], torch.linspace(8, 48, width).expand(height, width), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        shown[0, 1], torch.linspace(8, 38, height)[:, None].expand(height, width), atol=1e-3, rtol=0
    )


def test_factors_of_colour_stay_within_the_setting_and_use_all_of_it():
    factors = torch.tensor([change.colors for change in changes(color=0.2)])
    torch.testing.assert_close(factors.amin(0), torch.full((3,), 0.8), atol=0.01, rtol=0)
    torch.testing.assert_close(factors.amax(0), torch.full((3,), 1.2), atol=0.01, rtol=0)
    assert bool(((factors >= 0.8) & (factors <= 1.2)).all())


def test_colours_with_factors_of_one_stay(pixels):
    torch.testing.assert_close(color_jitter(pixels.float(), torch.ones(6, 3)), pixels.float(), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("number", "enhance"), [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)]
)
def test_colours_change_as_in_pillow(pixels, number, enhance):
    factors = torch.ones(1, 3)
    factors[0, number] = 0.8
    expected = to_tensor(enhance(to_image(pixels[0])).enhance(0.8))
    # Pillow rounds greys and results to whole numbers, the latter towards 0.
    torch.testing.assert_close(color_jitter(pixels[:1].float(), factors)[0], expected.float(), atol=1.6, rtol=0)


def test_an_image_without_colour_gets_none(pixels):
    gray = pixels[:, :1].expand(-1, 3, -1, -1)
    result = augmented(gray, {"color": 0.5})
    torch.testing.assert_close(result[:, 0], result[:, 1], atol=1e-3, rtol=0)


# Whose doing it is: the seed's alone


def test_an_image_is_changed_the_same_alone_and_in_a_batch(pixels):
    together = augmented(pixels, ALL_ON)
    alone = torch.cat([augmented(pixels[row : row + 1], ALL_ON, [row]) for row in range(6)])
    torch.testing.assert_close(together, alone, atol=0, rtol=0)  # bit for bit on one thread, which tests run on


def test_an_image_is_changed_the_same_among_other_images(pixels):
    assert torch.equal(augmented(pixels, ALL_ON)[2:5], augmented(pixels[2:5], ALL_ON, [2, 3, 4]))


def test_the_same_seed_gives_the_same_image_again(pixels):
    assert torch.equal(augmented(pixels, ALL_ON), augmented(pixels, ALL_ON))


def test_another_seed_gives_another_image(pixels):
    assert not torch.equal(augmented(pixels, ALL_ON), augmented(pixels, ALL_ON, range(6, 12)))


def test_a_seed_draws_the_same_change_in_another_process():
    code = f"from captioning.data.augment import Augmenter; print(Augmenter(**{ALL_ON}).draw(7))"
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    ran = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True, env=environment)
    assert ran.stdout.strip() == str(Augmenter(**ALL_ON).draw(7))


def test_a_setting_leaves_the_effects_of_the_others_as_they_are():
    assert [change.box for change in changes(crop=0.2)] == [
        change.box for change in changes(crop=0.2, color=0.3, flip=0.5)
    ]


def test_changes_do_not_depend_on_which_caption_the_seed_chooses():
    chosen = [random.Random(seed).choice(("first", "second", "third")) for seed in SEEDS]
    mirrored = [own for own, change in zip(chosen, changes(flip=0.5), strict=True) if change.flipped]
    assert is_share(mirrored.count("first"), 1 / 6)


def test_no_global_random_numbers_are_used_or_moved(pixels):
    states = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    augmented(pixels, ALL_ON)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert repr(np.random.get_state()) == states[2]


# Tensors


def test_images_come_out_as_float32_of_the_same_shape_in_their_range():
    images = torch.randint(0, 256, (8, 3, 30, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    result = augmented(images, {"crop": 0.5, "color": 0.5, "flip": 1})
    assert (result.shape, result.dtype) == (images.shape, torch.float32)
    assert 0 <= float(result.min()) <= float(result.max()) <= 255


def test_the_images_given_stay_as_they_are(pixels):
    images = pixels.float()
    augmented(images, {"flip": 1})
    assert torch.equal(images, pixels.float())


def test_no_gradient_is_recorded(pixels):
    weight = torch.ones(1, requires_grad=True)
    assert not augmented(pixels.float() * weight, ALL_ON).requires_grad
