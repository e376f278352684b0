"""Captions for images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from captioning.models.decoding import Decoding
from captioning.models.git import KVCache

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from captioning.models.git import GitForCausalLM


@torch.inference_mode()
def generate_captions(
    model: GitForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    kv_cache: KVCache,
    decoding: Decoding,
    *,
    synced_gpus: bool = False,
) -> list[str]:
    """One caption per image; ``model`` is in eval mode, ``kv_cache`` from :func:`prefill` or ``caption_loss``.

    The cache is used up. With ``synced_gpus`` this continues until all processes have their captions.
    """
    return texts(tokenizer, generate_tokens(model, kv_cache, decoding, synced_gpus=synced_gpus))


def generate_tokens(
    model: GitForCausalLM,
    kv_cache: KVCache,
    decoding: Decoding,
    *,
    prompt: Sequence[int] = (),
    num_captions: int = 1,
    synced_gpus: bool = False,
) -> Tensor:
    """Tokens, (images · num_captions, start and length), those of an image together.

    ``prompt`` is tokens that every caption begins with, not counted in its length.
    """
    start = torch.tensor([[model.generation_config.bos_token_id, *prompt]], device=model.device)
    start = start.expand(kv_cache.batch_size, -1)
    return model.generate(  # type: ignore[no-any-return]
        input_ids=start,
        attention_mask=torch.ones_like(start),
        past_key_values=kv_cache,
        synced_gpus=synced_gpus,
        **decoding.arguments() | {"num_return_sequences": num_captions},
    )


def texts(tokenizer: PreTrainedTokenizerBase, token_ids: Tensor) -> list[str]:
    """The captions that tokens are."""
    return [caption.strip() for caption in tokenizer.batch_decode(token_ids, skip_special_tokens=True)]


@torch.inference_mode()
def mean_log_probabilities(model: GitForCausalLM, kv_cache: KVCache, token_ids: Tensor, *, given: int) -> Tensor:
    """The mean log-probability of each caption's tokens in nats, float32 (captions,), without penalties or temperature.

    The first ``given`` of ``token_ids``, (captions, length), don't count. The cache is used up.
    """
    logits = model.output(model.decode_step(token_ids[:, :-1], kv_cache)[:, given - 1 :]).float()
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
