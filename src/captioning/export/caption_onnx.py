"""Captions images by this folder's ONNX model: python caption.py IMAGE…

It needs onnxruntime, tokenizers, Pillow and NumPy. As a module: ``OnnxCaptioner(folder)(["a.jpg", "b.jpg"])``.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from tokenizers import Tokenizer


class OnnxCaptioner:
    """Writes captions greedily; ``providers`` are onnxruntime's, such as CUDAExecutionProvider."""

    def __init__(
        self, folder: str | Path = Path(__file__).parent, providers: tuple[str, ...] = ("CPUExecutionProvider",)
    ) -> None:
        folder = Path(folder)
        self.encoder = onnxruntime.InferenceSession(folder / "encoder.onnx", providers=list(providers))
        self.decoder = onnxruntime.InferenceSession(folder / "decoder.onnx", providers=list(providers))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.settings = json.loads((folder / "captioning.json").read_text())
        self.preparing = json.loads((folder / "preprocessor_config.json").read_text())

    def __call__(self, images: list[Any], max_new_tokens: int | None = None) -> list[str]:
        """The captions of images: paths, or what PIL has opened."""
        tokens = self.generate(np.stack([self.prepare(image) for image in images]), max_new_tokens)
        return [text.strip() for text in self.tokenizer.decode_batch(tokens.tolist(), skip_special_tokens=True)]

    def generate(self, pixel_values: np.ndarray, max_new_tokens: int | None = None) -> np.ndarray:
        """The tokens of captions, from images (images, 3, height, width) as ``prepare`` makes them."""
        keys, values = self.encoder.run(None, {"pixel_values": pixel_values})
        past_keys = past_values = np.zeros((*keys.shape[:3], 0, keys.shape[-1]), np.float32)
        ends, fewest = self.settings["ends"], self.settings["min_new_tokens"]
        new = np.full((len(pixel_values), 1), self.settings["start"])
        tokens, ended = [new], np.zeros(len(pixel_values), bool)
        for number in range(max_new_tokens or self.settings["max_new_tokens"]):
            past = {"past_keys": past_keys, "past_values": past_values}
            given = {"input_ids": new, "image_keys": keys, "image_values": values, **past}
            logits, past_keys, past_values = self.decoder.run(None, given)
            if number < fewest:
                logits[:, ends] = -np.inf
            # After its end a caption goes on with its end, which isn't part of the text.
            new = np.where(ended[:, None], ends[:1], logits.argmax(-1, keepdims=True))
            tokens.append(new)
            ended |= np.isin(new[:, 0], ends)
            if ended.all():
                break
        return np.concatenate(tokens, axis=1)

    def prepare(self, image: Any) -> np.ndarray:
        """An image as the model sees it, (3, height, width)."""
        if not isinstance(image, Image.Image):
            image = ImageOps.exif_transpose(Image.open(image))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        pixels = np.asarray(self._cropped(image.convert("RGB")), np.float32)
        scaled = pixels / np.float32(1 / self.preparing["rescale_factor"])
        mean, deviation = (np.asarray(self.preparing[name], np.float32) for name in ("image_mean", "image_std"))
        return np.ascontiguousarray(((scaled - mean) / deviation).transpose(2, 0, 1))

    def _cropped(self, image: Image.Image) -> Image.Image:
        """The middle of the resized image, with black around it where it is smaller."""
        size, crop = self.preparing["size"], self.preparing["crop_size"]
        width, height = image.size
        if side := size.get("shortest_edge"):
            short, long = min(width, height), max(width, height)
            longer = int(side * long / short)
            width, height = (side, longer) if width <= height else (longer, side)
        elif "max_height" in size:
            ratio = min(size["max_height"] / height, size["max_width"] / width)
            width, height = int(width * ratio), int(height * ratio)
        else:
            width, height = size["width"], size["height"]
        resized = image.resize((width, height), self.preparing["resample"])
        left, top = (width - crop["width"]) // 2, (height - crop["height"]) // 2
        return resized.crop((left, top, left + crop["width"], top + crop["height"]))


if __name__ == "__main__":
    for name, caption in zip(sys.argv[1:], OnnxCaptioner()(sys.argv[1:]), strict=True):
        print(name, caption, sep="\t")
