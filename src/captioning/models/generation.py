"""Captions for images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from captioning.models.decoding import Decoding as Decoding
from captioning.models.git import KVCache

if TYPE_CHECKING:
    from captioning.models.git import GitForCausalLM


@torch.inference_mode()
def generate_captions(
    model: GitForCausalLM, tokenizer: Any, images: KVCache, decoding: Decoding, *, synced_gpus: bool = False
) -> list[str]:
    """One caption for each image, in order.

    Args:
        model: the network, in eval mode.
        tokenizer: of the processor that the model was trained with.
        images: their keys and values, from :func:`prefill` or ``caption_loss``; used up by this.
        decoding: how captions are chosen.
        synced_gpus: continue until all processes have their captions: they need this one's part of the weights.
    """
    return texts(tokenizer, generate_tokens(model, images, decoding, synced_gpus=synced_gpus))


def generate_tokens(
    model: GitForCausalLM,
    images: KVCache,
    decoding: Decoding,
    *,
    prompt: Sequence[int] = (),
    num_captions: int = 1,
    synced_gpus: bool = False,
) -> Tensor:
    """Captions as tokens, (images · num_captions, start and length), those of an image together.

    Args:
        model: as for :func:`generate_captions`, like the other arguments.
        images: used up by this.
        decoding: how captions are chosen; beams, if it has any, must be as many as ``num_captions`` or more.
        prompt: tokens that every caption begins with, and that are no part of its length.
        num_captions: of each image.
        synced_gpus: with other processes.
    """
    start = torch.tensor([[model.generation_config.bos_token_id, *prompt]], device=model.device)
    start = start.expand(images.batch_size, -1)
    token_ids: Tensor = model.generate(
        input_ids=start,
        attention_mask=torch.ones_like(start),
        past_key_values=images,
        synced_gpus=synced_gpus,
        **{**decoding.arguments(), "num_return_sequences": num_captions},
    )
    return token_ids


def texts(tokenizer: Any, token_ids: Tensor) -> list[str]:
    """The captions that tokens are."""
    captions: list[str] = tokenizer.batch_decode(token_ids, skip_special_tokens=True)
    return [caption.strip() for caption in captions]


@torch.inference_mode()
def mean_log_probabilities(model: GitForCausalLM, images: KVCache, token_ids: Tensor, *, given: int) -> Tensor:
    """How likely captions are, given their images: the mean over a caption's tokens, in nats, float32 (captions,).

    Whatever they were chosen by: the model's own probabilities, without penalties, temperature or cuts.

    Args:
        model: the network, in eval mode.
        images: their keys and values; used up by this.
        token_ids: from :func:`generate_tokens`, (captions, length).
        given: how many of a caption's first tokens weren't generated.
    """
    logits = model.output(model.decode_step(token_ids[:, :-1], images)[:, given - 1 :]).float()
    made = token_ids[:, given:]
    of_tokens = logits.log_softmax(-1).gather(-1, made[..., None])[..., 0]
    end = model.generation_config.eos_token_id
    is_end = torch.isin(made, torch.tensor([] if end is None else end, dtype=made.dtype, device=made.device))
    counted = is_end.cumsum(-1) - is_end.int() == 0  # the end itself is, and nothing after it
    means: Tensor = (of_tokens * counted).sum(-1) / counted.sum(-1)
    return means


@torch.inference_mode()
def prefill(model: GitForCausalLM, pixel_values: Tensor) -> KVCache:
    """The keys and values of images, (batch, 3, height, width), in every layer of the decoder."""
    cache = KVCache()
    cache.images = model.encode(model.encode_image(pixel_values)).images
    return cache
