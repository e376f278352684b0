"""Captions for images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from captioning.errors import UserError
from captioning.models.git import KVCache

if TYPE_CHECKING:
    from captioning.models.git import GitForCausalLM


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How captions are chosen from what the model makes of an image.

    Args:
        max_new_tokens: longest caption, in tokens with the end-of-sentence token.
        min_new_tokens: shortest caption, likewise.
        num_beams: 1 is greedy.
        length_penalty: with beams, above 0 favours long captions and below 0 short ones.
        repetition_penalty: above 1 makes tokens less likely that the caption has already.
        no_repeat_ngram_size: no sequence of so many tokens occurs twice in a caption; 0 allows it.
        temperature: draws each token at random, the more evenly the higher; null takes the likeliest.
        top_p: with a temperature, draws among the likeliest tokens that together have this probability.
    """

    max_new_tokens: int = 32
    min_new_tokens: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    temperature: float | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.num_beams < 1:
            raise UserError(
                "model.max_new_tokens and model.num_beams must be at least 1, "
                f"got {self.max_new_tokens} and {self.num_beams}"
            )
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise UserError(
                f"model.min_new_tokens={self.min_new_tokens} must be between 0 and "
                f"model.max_new_tokens={self.max_new_tokens}"
            )
        if not self.repetition_penalty > 0:
            raise UserError(f"model.repetition_penalty must be above 0 (1 is none), got {self.repetition_penalty}")
        if self.no_repeat_ngram_size < 0:
            raise UserError(f"model.no_repeat_ngram_size must be 0 (any) or more, got {self.no_repeat_ngram_size}")
        if self.temperature is not None and not self.temperature > 0:
            raise UserError(f"model.temperature must be above 0, or null not to sample, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"model.top_p must be above 0 and at most 1, got {self.top_p}")

    def arguments(self) -> dict[str, Any]:
        """The settings by their names in ``generate``, those that don't apply left out."""
        # transformers would cut sampling to the 50 likeliest tokens.
        sampled = {"temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        return {
            "max_new_tokens": self.max_new_tokens,
            "min_new_tokens": self.min_new_tokens,
            "num_beams": self.num_beams,
            "repetition_penalty": self.repetition_penalty,
            "no_repeat_ngram_size": self.no_repeat_ngram_size,
            "do_sample": self.temperature is not None,
            # Whatever a checkpoint's own generation config says:
            "use_cache": True,
            "num_return_sequences": 1,
            "return_dict_in_generate": False,
            **({"length_penalty": self.length_penalty} if self.num_beams > 1 else {}),
            **(sampled if self.temperature is not None else {}),
        }


@torch.inference_mode()
def generate_captions(
    model: GitForCausalLM, tokenizer: Any, kv_cache: KVCache, decoding: Decoding, *, synced_gpus: bool = False
) -> list[str]:
    """One caption per image; ``model`` is in eval mode, ``kv_cache`` from :func:`prefill` or ``caption_loss``.

    The cache is used up. With ``synced_gpus`` this continues until all processes have their captions, since they need
    this one's shard of the weights.
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
    """As :func:`generate_captions`, as tokens: (images · num_captions, start and length), those of an image together.

    ``prompt`` is tokens that every caption begins with, not counted in its length; with beams, ``num_captions`` is at
    most their number.
    """
    start = torch.tensor([[model.generation_config.bos_token_id, *prompt]], device=model.device)
    start = start.expand(kv_cache.batch_size, -1)
    token_ids: Tensor = model.generate(
        input_ids=start,
        attention_mask=torch.ones_like(start),
        past_key_values=kv_cache,
        synced_gpus=synced_gpus,
        **{**decoding.arguments(), "num_return_sequences": num_captions},
    )
    return token_ids


def texts(tokenizer: Any, token_ids: Tensor) -> list[str]:
    """The captions that tokens are."""
    captions: list[str] = tokenizer.batch_decode(token_ids, skip_special_tokens=True)
    return [caption.strip() for caption in captions]


@torch.inference_mode()
def mean_log_probabilities(model: GitForCausalLM, kv_cache: KVCache, token_ids: Tensor, *, given: int) -> Tensor:
    """The mean log-probability of each caption's tokens in nats, float32 (captions,), without penalties or temperature.

    ``token_ids``, (captions, length), are from :func:`generate_tokens`; their first ``given`` tokens don't count. The
    cache is used up.
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
