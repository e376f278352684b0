"""From an image to the numbers that a network sees: the processor's resize and crop, then its normalization."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BaseImageProcessor
from transformers.image_transforms import get_resize_output_image_size
from transformers.image_utils import ChannelDimension, get_image_size_for_max_height_width

MAX_RESIZED_PIXELS = 100_000_000  # of a long image before it is cropped


def to_pixels(image: Image.Image, image_processor: BaseImageProcessor) -> np.ndarray:
    """The image resized and cropped, not yet scaled and normalized: uint8 (3, height, width).

    Raises:
        OSError: the image is so long and narrow that resizing it would only fill the memory, or leave nothing.
    """
    resized = _resize(image, image_processor)
    crop = image_processor.crop_size if image_processor.do_center_crop else None
    if resized is not None and crop and resized.height >= crop.height and resized.width >= crop.width:
        left, top = (resized.width - crop.width) // 2, (resized.height - crop.height) // 2
        cropped = resized.crop((left, top, left + crop.width, top + crop.height))
        return np.ascontiguousarray(np.moveaxis(np.asarray(cropped), -1, 0))
    steps = {"do_resize": False} if resized is not None else {}
    processed = image_processor(
        image if resized is None else resized, **steps, do_rescale=False, do_normalize=False, return_tensors="np"
    )
    pixels: np.ndarray = processed.pixel_values[0]
    return pixels


def normalize(pixels: Tensor, image_processor: BaseImageProcessor) -> Tensor:
    """Scale and normalize a batch, (batch, 3, height, width) in 0…255, as the processor does: to float32.

    Equal bit for bit for uint8, on any device.
    """
    values = pixels.float()
    if image_processor.do_rescale:
        # A division, because the processor multiplies by 1/255 in 64 bits, which float32 would round differently.
        values = values / (1 / image_processor.rescale_factor)
    if image_processor.do_normalize:
        mean, deviation = (
            torch.as_tensor(channels, dtype=torch.float32, device=values.device).view(-1, 1, 1)
            for channels in (image_processor.image_mean, image_processor.image_std)
        )
        values = (values - mean) / deviation
    return values


def _resize(image: Image.Image, image_processor: BaseImageProcessor) -> Image.Image | None:
    """The image resized by PIL directly: the processor would first copy all of it into an array, and back.

    None where the processor resizes in a way that isn't known here.
    """
    size = image_processor.size
    height, width = image.height, image.width
    if not image_processor.do_resize or size.longest_edge:
        return None
    if size.shortest_edge:
        shape_alone = np.broadcast_to(np.uint8(0), (3, height, width))
        height, width = get_resize_output_image_size(
            shape_alone, size.shortest_edge, default_to_square=False, input_data_format=ChannelDimension.FIRST
        )
    elif size.max_height and size.max_width:
        height, width = get_image_size_for_max_height_width((height, width), size.max_height, size.max_width)
    elif size.height and size.width:
        height, width = size.height, size.width
    else:
        return None
    if min(width, height) < 1 or width * height > MAX_RESIZED_PIXELS:
        raise OSError(f"too long and narrow to be resized ({image.width} x {image.height} pixels)")
    return image.resize((width, height), resample=image_processor.resample)
