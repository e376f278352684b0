"""The loss of captions given their images."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from captioning.models.git import GitForCausalLM, KVCache

IGNORE_INDEX = -100


class CaptionLoss(NamedTuple):
    """Sums over a batch, so that they can be added over batches and processes before they are divided."""

    loss: Tensor  # summed cross-entropy in nats, float32 scalar
    correct: Tensor  # next tokens whose logit was the largest, int64 scalar
    tokens: Tensor  # next tokens that count, int64 scalar


def caption_loss(
    model: GitForCausalLM,
    *,
    pixel_values: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor,
    labels: Tensor,
    position_ids: Tensor | None = None,
    caption_index: Tensor | None = None,
    kv_cache: KVCache | None = None,
    features: Tensor | None = None,
) -> CaptionLoss:
    """Next-token cross-entropy of captions given their images, teacher-forced.

    Equal to transformers' ``model(..., labels=labels).loss`` times the number of tokens. With ``position_ids`` and
    ``caption_index`` a sequence packs several captions of its image: loss and gradients are their sums.

    Args:
        model: the network.
        pixel_values: (batch, 3, height, width).
        input_ids: (batch, text length), as the next four.
        attention_mask: 0 on padding.
        labels: IGNORE_INDEX where nothing is predicted, such as at each caption's first token.
        position_ids: from 0 in each packed caption.
        caption_index: the number of the caption that a token is of, -1 on padding.
        kv_cache: an empty one, filled with the images' keys and values for ``generate_captions``.
        features: ``model.encode_image(pixel_values)`` where that is known.
    """
    if (position_ids is None) != (caption_index is None):
        raise ValueError("packed captions need both position_ids and caption_index")
    mask = caption_attention_mask(attention_mask, caption_index)
    embedded = model.git.embeddings(input_ids, position_ids=position_ids)
    text, kept = model.encode(model.encode_image(pixel_values) if features is None else features, embedded, mask)
    if kv_cache is not None:
        kv_cache.images = kept
    text = text[:, :-1]  # the last position has no next token
    logits = model.output(text).float()
    targets = labels[:, 1:]
    counted = targets != IGNORE_INDEX
    # Flat, because on a GPU the loss of (batch, classes, length) has no deterministic implementation.
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
    correct = (logits.argmax(-1) == targets) & counted
    return CaptionLoss(loss, correct.sum(), counted.sum())


def caption_attention_mask(attention_mask: Tensor, caption_index: Tensor | None = None) -> Tensor:
    """(batch, 1, queries, keys): True where a token attends, to those of its own caption up to itself."""
    length = attention_mask.shape[1]
    mask = torch.ones(length, length, dtype=torch.bool, device=attention_mask.device).tril()
    mask = mask & attention_mask.bool()[:, None, :]
    if caption_index is not None:
        mask = mask & (caption_index[:, :, None] == caption_index[:, None, :])
    return mask[:, None]
