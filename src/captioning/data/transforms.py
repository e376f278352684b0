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
    size, crop = image_processor.size, image_processor.crop_size if image_processor.do_center_crop else None
    height, width, is_known = image.height, image.width, image_processor.do_resize and not size.longest_edge
    if is_known and size.shortest_edge:
        shape_alone = np.broadcast_to(np.uint8(0), (3, height, width))
        height, width = get_resize_output_image_size(
            shape_alone, size.shortest_edge, default_to_square=False, input_data_format=ChannelDimension.FIRST
        )
    elif is_known and size.max_height and size.max_width:
        height, width = get_image_size_for_max_height_width((height, width), size.max_height, size.max_width)
    elif is_known and size.height and size.width:
        height, width = size.height, size.width
    else:
        is_known = False
    steps: dict[str, object] = {"do_rescale": False, "do_normalize": False, "return_tensors": "np"}
    if is_known:
        if min(width, height) < 1 or width * height > MAX_RESIZED_PIXELS:
            raise OSError(f"too long and narrow to be resized ({image.width} x {image.height} pixels)")
        # By PIL directly: the processor would first copy all of the image into an array, and back.
        image = image.resize((width, height), resample=image_processor.resample)
        steps["do_resize"] = False
        if crop and height >= crop.height and width >= crop.width:
            left, top = (width - crop.width) // 2, (height - crop.height) // 2
            image = image.crop((left, top, left + crop.width, top + crop.height))
            return np.ascontiguousarray(np.moveaxis(np.asarray(image), -1, 0))
    pixels: np.ndarray = image_processor(image, **steps).pixel_values[0]
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
