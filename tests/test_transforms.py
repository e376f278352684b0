import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from captioning.data.transforms import normalize, to_pixels
from captioning.models.processor import fit_images, make_image_processor

SIDES = st.integers(min_value=20, max_value=300)
FITS = ("crop", "pad", "squash")


def processor_of(fit: str):
    processor = make_image_processor(32)
    fit_images(processor, fit)
    return processor


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("fit", FITS)
@settings(deadline=None)
@given(width=SIDES, height=SIDES)
def test_pixels_then_normalized_equal_the_processors_output_bit_for_bit(fit, width, height):
    processor, image = processor_of(fit), noise(width, height)
    pixels = torch.from_numpy(to_pixels(image, processor))[None]
    expected = processor(image, return_tensors="pt").pixel_values
    assert torch.equal(normalize(pixels, processor), expected)


def test_every_grey_level_is_normalized_bit_for_bit():
    processor = make_image_processor(16)
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    expected = processor(Image.fromarray(levels), return_tensors="pt").pixel_values
    assert torch.equal(normalize(torch.from_numpy(levels).movedim(-1, 0)[None], processor), expected)


def test_a_processor_with_its_own_way_to_resize_is_left_to_it():
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 32, "longest_edge": 48}, crop_size={"height": 32, "width": 32}
    )
    image = noise(300, 40)
    expected = processor(image, return_tensors="pt").pixel_values
    assert torch.equal(normalize(torch.from_numpy(to_pixels(image, processor))[None], processor), expected)


def test_a_processor_that_does_not_normalize_is_taken_at_its_word():
    processor = transformers.CLIPImageProcessorPil(do_rescale=False, do_normalize=False)
    assert normalize(torch.full((1, 3, 2, 2), 200, dtype=torch.uint8), processor).unique().tolist() == [200.0]


def stripes() -> Image.Image:
    """96 x 32: a red, a green and a blue square side by side."""
    image = Image.new("RGB", (96, 32), "red")
    image.paste("lime", (32, 0, 64, 32))
    image.paste("blue", (64, 0, 96, 32))
    return image


def test_crop_keeps_the_middle_alone():
    assert np.unique(to_pixels(stripes(), processor_of("crop")).reshape(3, -1), axis=1).T.tolist() == [[0, 255, 0]]


def test_pad_keeps_all_between_black_bars():
    pixels = to_pixels(stripes(), processor_of("pad"))
    assert pixels[:, :10].max() == pixels[:, -10:].max() == 0
    assert [pixels[:, 16, column].argmax() for column in (2, 16, 29)] == [0, 1, 2]


def test_squash_keeps_all_and_fills_the_square():
    pixels = to_pixels(stripes(), processor_of("squash"))
    assert [pixels[:, 0, column].argmax() for column in (2, 16, 29)] == [0, 1, 2]


def test_an_image_too_long_to_be_resized_is_refused_before_memory_is_taken():
    with pytest.raises(OSError, match=r"too long and narrow to be resized \(60000 x 4 pixels\)"):
        to_pixels(Image.new("RGB", (60_000, 4)), make_image_processor(224))


def test_an_image_that_would_be_padded_to_nothing_is_refused():
    with pytest.raises(OSError, match="too long and narrow"):
        to_pixels(Image.new("RGB", (600, 4)), processor_of("pad"))
