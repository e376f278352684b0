"""Captions for pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import GitForCausalLM


@torch.inference_mode()
def generate_captions(
    model: GitForCausalLM, tokenizer: Any, pixel_values: Tensor, *, max_new_tokens: int, num_beams: int = 1
) -> list[str]:
    """One caption for each picture, in order.

    Args:
        model: the network, in eval mode.
        tokenizer: of the processor that the model was trained with.
        pixel_values: (batch, 3, height, width), normalized.
        max_new_tokens: longest caption, in tokens with the end-of-sentence token.
        num_beams: 1 decodes greedily.
    """
    token_ids = model.generate(
        pixel_values=pixel_values, max_new_tokens=max_new_tokens, num_beams=num_beams, do_sample=False
    )
    captions: list[str] = tokenizer.batch_decode(token_ids, skip_special_tokens=True)
    return [caption.strip() for caption in captions]
