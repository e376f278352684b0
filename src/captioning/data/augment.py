"""Random changes to training images that leave their captions true, on whole batches, on the device."""

import math
import random
import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from captioning.errors import UserError

# What a mirrored image no longer shows: sides, the time, and whatever has a right way round to be recognized or read.
# English alone. A word too many costs some flips; a word too few teaches something false.
UNTRUE_WHEN_MIRRORED = re.compile(
    r"""
    (?<![a-z]) (left|right)     # left-hand, rightmost, top_left; not bright, upright, cleft
    | clock                     # o'clock, clockwise
    | \b (maps? | flags?) \b
    | \b (signs? | logos? | labels? | labell?ed | texts? | words? | letters? | lettering | numbers? | numbered) \b
    | \b (says? | saying | reads? | reading | written | writing) \b
    | [\d"“”„«»「」]             # digits, quotations
    """,
    re.VERBOSE | re.IGNORECASE,
)

STRETCH = 1.1  # a crop's sides change against each other by at most this factor before it fills the image again


class Change(NamedTuple):
    """What happens to an image in one sample."""

    flipped: bool  # where its captions allow it
    box: tuple[float, float, float, float]  # what a crop keeps: left, top, width and height, in sides of the image
    colors: tuple[float, float, float]  # factors of brightness, contrast and saturation


class Augmenter:
    """Changes images, each by the seed of its sample alone.

    The same seed draws the same change in any batch, process and on any device. The result is the same bit for bit on
    one CPU thread; elsewhere it differs by less than a gray level.

    Args:
        crop: largest share of an image's area that a random crop takes away, up to 0.5.
        color: strength of random changes of brightness, contrast and saturation; hue stays, as captions name colors.
        flip: share of samples that are mirrored, unless words of a caption (English) would no longer be true.
    """

    def __init__(self, *, crop: float = 0.0, color: float = 0.0, flip: float = 0.0) -> None:
        if find_spec("kornia") is None:
            settings = {"crop": crop, "color_jitter": color, "flip": flip}
            given = " ".join(f"data.augment_{name}={value}" for name, value in settings.items() if value)
            why = f"{given}: augmentation needs kornia, which isn't installed"
            raise UserError(f"{why}: pip install -e '.[augment]'")
        self.crop, self.color, self.flip = crop, color, flip

    @torch.no_grad()
    def __call__(self, pixels: Tensor, seeds: Sequence[int], captions: Sequence[Sequence[str]]) -> Tensor:
        """From uint8 (batch, 3, height, width) to float32 in 0…255; ``captions`` are all of each image."""
        changes = [self.draw(seed) for seed in seeds]
        images = pixels.to(torch.float32, copy=True)
        is_flippable = [not any(map(UNTRUE_WHEN_MIRRORED.search, own)) for own in captions]
        flipped = [row for row, change in enumerate(changes) if change.flipped and is_flippable[row]]
        if flipped:
            images[flipped] = images[flipped].flip(-1)
        if self.crop:
            images = crop(images, torch.tensor([change.box for change in changes]))
        if self.color:
            images = color_jitter(images, torch.tensor([change.colors for change in changes]))
        return images.clamp_(0, 255)

    def draw(self, seed: int) -> Change:
        # Other numbers than those the seed itself gives, which have chosen the caption. All are drawn in any case, so
        # that a setting leaves the effects of the others as they are.
        chance = random.Random(f"augmentation/{seed}")
        flip, cut, stretch, x, y, *colors = (chance.random() for _ in range(8))
        area = 1 - self.crop * cut
        ratio = min(STRETCH, 1 / area) ** (2 * stretch - 1)  # beyond 1 / area a side would be longer than the image's
        width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        brightness, contrast, saturation = (1 + self.color * (2 * color - 1) for color in colors)
        box = ((1 - width) * x, (1 - height) * y, width, height)
        return Change(flip < self.flip, box, (brightness, contrast, saturation))


def crop(images: Tensor, boxes: Tensor) -> Tensor:
    """What lies in ``boxes`` (batch, 4), enlarged to the size of ``images`` (batch, 3, height, width), bilinear.

    A box is left, top, width and height, in sides of the image, from the center of its first pixel to that of its last.
    """
    from kornia.geometry.transform import warp_affine

    height, width = images.shape[-2:]
    kept = boxes[:, 2:]
    matrices = torch.zeros(len(boxes), 2, 3)  # from where a point is in the image to where it is in the crop
    matrices[:, :, :2] = torch.diag_embed(1 / kept)
    matrices[:, :, 2] = -boxes[:, :2] / kept * torch.tensor([width - 1, height - 1])
    return warp_affine(images, matrices.to(images.device), (height, width), padding_mode="border")


def color_jitter(images: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, contrast and saturation by ``factors`` (batch, 3); ``images`` are in 0…255.

    As in Pillow's `ImageEnhance`: black, the image's mean gray and each pixel's gray are what stays.
    """
    from kornia import enhance

    brightness, contrast, saturation = factors.to(images.device).unbind(dim=1)
    images = enhance.adjust_brightness_accumulative(images / 255, brightness)
    images = enhance.adjust_contrast_with_mean_subtraction(images, contrast)
    return enhance.adjust_saturation_with_gray_subtraction(images, saturation) * 255
