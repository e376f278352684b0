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
    BLUR,
    STRETCH,
    Augmentation,
    Augmenter,
    blur,
    color_jitter,
    crop,
    untrue_when_mirrored,
)
from captioning.data.creatures.dataset import write_creatures
from captioning.errors import UserError

SIDE = 96
ALL_ON = Augmentation(crop=0.2, color=0.2, blur=0.5, flip=0.5)
SEEDS = range(1000)
CLEAR = ["a bird with big eyes"]  # true of a mirrored image too


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """Six creatures: (6, 3, 96, 96), uint8."""
    folder = tmp_path_factory.mktemp("creatures")
    write_creatures(folder, count=6, size=SIDE)
    return torch.stack([to_tensor(Image.open(path)) for path in sorted(folder.glob("*.png"))])


@pytest.fixture(scope="module")
def another_process() -> list[str]:
    """What another process, whose hashes are others, says of its imports and of what seed 7 draws."""
    code = f"""
import sys
from captioning.data.augment import Augmentation, Augmenter
Augmentation().is_off
print("kornia imported:", "kornia" in sys.modules)
print(Augmenter({ALL_ON}).draw(7))
"""
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    ran = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return ran.stdout.splitlines()


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def to_image(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def augmented(pixels: Tensor, augmentation: Augmentation, seeds=None) -> Tensor:
    seeds = range(len(pixels)) if seeds is None else seeds
    return Augmenter(augmentation)(pixels, seeds, [CLEAR] * len(pixels))


def changes(**settings: float):
    augmenter = Augmenter(Augmentation(**settings))
    return [augmenter.draw(seed) for seed in SEEDS]


def is_share(count: int, share: float) -> bool:
    """Whether ``count`` of 1,000 is within 5 standard deviations of the binomial distribution."""
    return abs(count - 1000 * share) <= 5 * (1000 * share * (1 - share)) ** 0.5


# Settings


def test_nothing_is_augmented_by_default():
    assert Augmentation().is_off


@pytest.mark.parametrize("name", ["crop", "color", "blur", "flip"])
def test_augmentation_with_any_setting_is_not_off(name):
    assert not Augmentation(**{name: 0.1}).is_off


@pytest.mark.parametrize(
    ("name", "value", "most"), [("crop", 0.6, 0.5), ("color", -0.1, 0.5), ("blur", 2, 1), ("flip", float("nan"), 1)]
)
def test_a_setting_out_of_its_range_is_answered_with_its_name_value_and_range(name, value, most):
    with pytest.raises(UserError, match=rf"^data\.augment_{name}={value}: must be between 0 \(off\) and {most}$"):
        Augmentation(**{name: value})


def test_without_kornia_the_answer_names_the_settings_and_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia", None)  # as Python itself marks what can't be imported
    with pytest.raises(UserError) as error:
        Augmenter(Augmentation(crop=0.2, flip=0.5))
    assert str(error.value) == (
        "data.augment_crop=0.2 data.augment_flip=0.5: augmentation needs kornia, which isn't installed: "
        "pip install 'captioning[augment]'"
    )


def test_kornia_is_not_imported_where_nothing_is_augmented(another_process):
    assert another_process[0] == "kornia imported: False"


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
    assert untrue_when_mirrored(caption)


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
    assert not untrue_when_mirrored(caption)


def test_one_caption_of_several_is_enough_to_keep_a_image_unmirrored(pixels):
    captions = [[*CLEAR, "a bird that looks to the left"], CLEAR]
    result = Augmenter(Augmentation(flip=1))(pixels[:2], [0, 1], captions)
    assert torch.equal(result[0], pixels[0].float())


# What is done


def test_a_mirrored_image_is_the_image_flipped_bit_for_bit(pixels):
    assert torch.equal(augmented(pixels, Augmentation(flip=1)), pixels.flip(-1).float())


def test_only_their_share_of_visits_is_mirrored():
    assert is_share(sum(change.mirrored for change in changes(flip=0.3)), 0.3)


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


def test_a_image_without_colour_gets_none(pixels):
    gray = pixels[:, :1].expand(-1, 3, -1, -1)
    result = augmented(gray, Augmentation(color=0.5))
    torch.testing.assert_close(result[:, 0], result[:, 1], atol=1e-3, rtol=0)


def test_only_their_share_of_visits_is_blurred(pixels):
    one = pixels[:1, :, ::2, ::2].repeat(1000, 1, 1, 1)
    result = augmented(one, Augmentation(blur=0.3), SEEDS)
    changed = (result != one.float()).flatten(1).any(1)
    assert changed.tolist() == [change.blur > 0 for change in changes(blur=0.3)]
    assert is_share(int(changed.sum()), 0.3)


def test_a_blur_is_within_its_least_and_greatest():
    assert all(BLUR[0] <= change.blur <= BLUR[1] for change in changes(blur=1))


def test_a_blur_is_gaussian_with_its_deviation_in_shorter_sides():
    # The variance of a blurred point is that of the blur: 0.008 sides of 250 pixels are 2 pixels.
    point = torch.zeros(1, 3, 250, 300)
    point[:, :, 125, 150] = 255
    blur(point, torch.tensor([0.008]))
    along = point[0, 0].sum(0) / 255
    variance = float((along * (torch.arange(300) - 150) ** 2).sum())
    assert variance == pytest.approx(2**2, rel=0.05)  # cut off after three deviations


def test_a_blur_keeps_the_mean_grey_of_an_even_image():
    even = torch.full((1, 3, 32, 32), 77.0)
    blur(even, torch.tensor([0.008]))
    torch.testing.assert_close(even, torch.full((1, 3, 32, 32), 77.0))


# Whose doing it is: the seed's alone


def test_a_image_is_changed_the_same_alone_and_in_a_batch(pixels):
    together = augmented(pixels, ALL_ON)
    alone = torch.cat([augmented(pixels[row : row + 1], ALL_ON, [row]) for row in range(6)])
    torch.testing.assert_close(together, alone, atol=0, rtol=0)  # bit for bit on one thread, which tests run on


def test_a_image_is_changed_the_same_among_other_images(pixels):
    assert torch.equal(augmented(pixels, ALL_ON)[2:5], augmented(pixels[2:5], ALL_ON, [2, 3, 4]))


def test_the_same_seed_gives_the_same_image_again(pixels):
    assert torch.equal(augmented(pixels, ALL_ON), augmented(pixels, ALL_ON))


def test_another_seed_gives_another_image(pixels):
    assert not torch.equal(augmented(pixels, ALL_ON), augmented(pixels, ALL_ON, range(6, 12)))


def test_a_seed_draws_the_same_change_in_another_process(another_process):
    assert another_process[1] == str(Augmenter(ALL_ON).draw(7))


def test_a_setting_leaves_the_effects_of_the_others_as_they_are():
    assert [change.box for change in changes(crop=0.2)] == [
        change.box for change in changes(crop=0.2, color=0.3, blur=0.5, flip=0.5)
    ]


def test_changes_do_not_depend_on_which_caption_the_seed_chooses():
    chosen = [random.Random(seed).choice(("first", "second", "third")) for seed in SEEDS]
    mirrored = [own for own, change in zip(chosen, changes(flip=0.5), strict=True) if change.mirrored]
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
    result = augmented(images, Augmentation(crop=0.5, color=0.5, blur=1, flip=1))
    assert (result.shape, result.dtype) == (images.shape, torch.float32)
    assert 0 <= float(result.min()) <= float(result.max()) <= 255


def test_the_images_given_stay_as_they_are(pixels):
    images = pixels.float()
    augmented(images, Augmentation(flip=1, blur=1))
    assert torch.equal(images, pixels.float())


def test_no_gradient_is_recorded(pixels):
    weight = torch.ones(1, requires_grad=True)
    assert not augmented(pixels.float() * weight, ALL_ON).requires_grad
