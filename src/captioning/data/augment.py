"""Random changes to training images that leave their captions true, on whole batches, on the device."""

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
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

STRETCH = 1.1  # a crop's sides change against each other by no more than this factor before it fills the image again
BLUR = (0.005, 0.008)  # the least and greatest standard deviation of a blur, in shorter sides of the image


def untrue_when_mirrored(caption: str) -> bool:
    """Whether the English ``caption`` names a side, or something readable: what a mirrored image would belie."""
    return UNTRUE_WHEN_MIRRORED.search(caption) is not None


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How much training images are changed; nothing by default.

    A crop can cut off what a caption names, and a change of color can turn the one it names into another (white into
    gray at 0.2): keep both small.

    Args:
        crop: largest share of an image's area that a random crop takes away, up to 0.5; 0.2 keeps 80 to 100 %.
        color: strength of random changes of brightness, contrast and saturation, up to 0.5; 0.2 is up to ±20 %. Hue
            stays, since captions name colors.
        blur: share of visits in which the image is blurred slightly.
        flip: share of visits in which the image is mirrored, unless one of its captions would no longer be true. That
            is told by English words: leave it at 0 for other languages.

    Raises:
        UserError: a value is out of its range.
    """

    crop: float = 0.0
    color: float = 0.0
    blur: float = 0.0
    flip: float = 0.0

    def __post_init__(self) -> None:
        for name, value, most in (
            ("crop", self.crop, 0.5),
            ("color", self.color, 0.5),
            ("blur", self.blur, 1),
            ("flip", self.flip, 1),
        ):
            if not 0 <= value <= most:
                raise UserError(f"data.augment_{name}={value}: must be between 0 (off) and {most}")

    @property
    def is_off(self) -> bool:
        return self == Augmentation()


class Change(NamedTuple):
    """What happens to an image at one visit, in this order."""

    mirrored: bool  # where its captions allow it
    box: tuple[float, float, float, float]  # what a crop keeps: left, top, width and height, in sides of the image
    colors: tuple[float, float, float]  # factors of brightness, contrast and saturation
    blur: float  # standard deviation in shorter sides of the image; 0: sharp


class Augmenter:
    """Changes images, each by the seed of its visit alone.

    The same seed draws the same change in any batch, process and on any device. Its result is the same bit for bit on
    one CPU thread; elsewhere sums may be taken in another order or precision, and differ by less than a gray level.
    The global random numbers of torch, NumPy and Python are neither used nor moved.

    Raises:
        UserError: kornia isn't installed.
    """

    def __init__(self, augmentation: Augmentation) -> None:
        try:
            import kornia  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"{_given(augmentation)}: augmentation needs kornia, which isn't installed: "
                "pip install 'captioning[augment]'"
            ) from error
        self.augmentation = augmentation

    @torch.no_grad()
    def __call__(self, pixels: Tensor, seeds: Sequence[int], captions: Sequence[Sequence[str]]) -> Tensor:
        """The images as they are seen at these visits.

        Args:
            pixels: (batch, 3, height, width), uint8.
            seeds: of the visits.
            captions: all of each image, not only those to learn at this visit.

        Returns:
            (batch, 3, height, width), float32 in 0…255, on the device of ``pixels``.
        """
        changes = [self.draw(seed) for seed in seeds]
        images = pixels.to(torch.float32, copy=True)
        if self.augmentation.flip:
            mirror(
                images,
                [
                    change.mirrored and not any(map(untrue_when_mirrored, own))
                    for change, own in zip(changes, captions, strict=True)
                ],
            )
        if self.augmentation.crop:
            images = crop(images, torch.tensor([change.box for change in changes]))
        if self.augmentation.color:
            images = color_jitter(images, torch.tensor([change.colors for change in changes]))
        if self.augmentation.blur:
            blur(images, torch.tensor([change.blur for change in changes]))
        return images.clamp_(0, 255)

    def draw(self, seed: int) -> Change:
        """What happens at the visit with this seed."""
        settings = self.augmentation
        # Other numbers than those the seed itself gives, which have chosen the caption. All are drawn in any case, so
        # that a setting leaves the effects of the others as they are.
        chance = random.Random(f"augmentation/{seed}")
        flip, area, stretch, x, y, brightness, contrast, saturation, blurring, deviation = (
            chance.random() for _ in range(10)
        )
        return Change(
            mirrored=flip < settings.flip,
            box=_box(1 - settings.crop * area, 2 * stretch - 1, x, y),
            colors=(
                1 + settings.color * (2 * brightness - 1),
                1 + settings.color * (2 * contrast - 1),
                1 + settings.color * (2 * saturation - 1),
            ),
            blur=BLUR[0] + (BLUR[1] - BLUR[0]) * deviation if blurring < settings.blur else 0.0,
        )


def mirror(images: Tensor, chosen: Sequence[bool]) -> None:
    """Mirror the chosen ones of ``images`` (batch, 3, height, width), in place."""
    from kornia.geometry.transform import hflip

    rows = [row for row, is_chosen in enumerate(chosen) if is_chosen]
    if rows:
        images[rows] = hflip(images[rows])


def crop(images: Tensor, boxes: Tensor) -> Tensor:
    """What lies in ``boxes`` (batch, 4), enlarged to the size of ``images`` (batch, 3, height, width), bilinear.

    A box is left, top, width and height, in sides of the image, from the centre of its first pixel to that of its
    last.
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


def blur(images: Tensor, deviations: Tensor) -> None:
    """Blur ``images`` (batch, 3, height, width) in place, by ``deviations`` (batch) in shorter sides; 0: not."""
    from kornia.filters import gaussian_blur2d

    rows = deviations.nonzero().flatten().tolist()
    if rows:
        side = min(images.shape[-2:])
        kernel = 2 * math.ceil(3 * BLUR[1] * side) + 1  # the same for all, so that an image's neighbours don't matter
        sigmas = (deviations[rows] * side).to(images.device)[:, None].expand(-1, 2)
        images[rows] = gaussian_blur2d(images[rows], (kernel, kernel), sigmas)


def _box(area: float, stretch: float, x: float, y: float) -> tuple[float, float, float, float]:
    """The crop that keeps ``area``, a share; ``stretch`` is in -1…1, from tall to wide, ``x`` and ``y`` in 0…1."""
    ratio = min(STRETCH, 1 / area) ** stretch  # beyond 1 / area a side would be longer than the image's
    width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
    return (1 - width) * x, (1 - height) * y, width, height


def _given(augmentation: Augmentation) -> str:
    """The settings that aren't off, as the user writes them."""
    values = {name: getattr(augmentation, name) for name in ("crop", "color", "blur", "flip")}
    return " ".join(f"data.augment_{name}={value}" for name, value in values.items() if value)
