"""The forward pass of a training step, with the loss over the tokens of captions and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from transformers import DynamicCache

    from captioning.model.git import GitForCausalLM

IGNORE_INDEX = -100
PICTURE = -2  # where a caption has its number, and padding -1


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
    pictures: DynamicCache | None = None,
) -> CaptionLoss:
    """Next-token cross-entropy of captions given their pictures, teacher-forced.

    Equal to ``model(..., labels=labels).loss`` times the number of tokens, without logits at the positions of the
    picture, which are most of them and which no loss reads.

    With ``position_ids`` and ``caption_index`` a sequence holds several captions of its picture, which is encoded once
    for all of them. Loss and gradients are then the sums of what each caption has by itself: GIT's picture sees no
    text, and so it is the same for every caption.

    Args:
        model: the network.
        pixel_values: (batch, 3, height, width).
        input_ids: (batch, text length).
        attention_mask: (batch, text length), 0 on padding.
        labels: (batch, text length), IGNORE_INDEX where nothing is to be predicted; where captions are packed that
            includes the first token of each.
        position_ids: (batch, text length), from 0 in each packed caption.
        caption_index: (batch, text length), the number of the caption that a token is of, -1 on padding.
        pictures: an empty cache, to be filled with the pictures' keys and values, from which ``generate_captions`` goes
            on: a picture needn't be read again for its caption.

    Raises:
        ValueError: only one of ``position_ids`` and ``caption_index`` is given.
    """
    if (position_ids is None) != (caption_index is None):
        raise ValueError("packed captions need both position_ids and caption_index")
    if caption_index is None:
        hidden = model.git(
            input_ids=input_ids,
            attention_mask=attention_mask,
            pixel_values=pixel_values,
            past_key_values=pictures,
            use_cache=pictures is not None,
        ).last_hidden_state
    else:
        git = model.git
        picture = git.visual_projection(git.image_encoder(pixel_values).last_hidden_state)
        embedded = torch.cat([picture, git.embeddings(input_ids=input_ids, position_ids=position_ids)], dim=1)
        mask = packed_mask(caption_index, picture_length=picture.shape[1], dtype=embedded.dtype)
        hidden = git.encoder(embedded, attention_mask=mask, past_key_values=pictures).last_hidden_state
    if pictures is not None:
        pictures.crop(-input_ids.shape[1])
    text = hidden[:, -input_ids.shape[1] : -1]  # the last position has no next token
    logits = model.output(text).float()
    targets = labels[:, 1:]
    counted = targets != IGNORE_INDEX
    # Flat, because on a GPU the loss of (batch, classes, length) has no deterministic implementation.
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
    correct = (logits.argmax(-1) == targets) & counted
    return CaptionLoss(loss, correct.sum(), counted.sum())


def packed_mask(caption_index: Tensor, *, picture_length: int, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores so that packed captions don't see each other.

    The picture sees itself; a token sees the picture, and its own caption up to itself.

    Args:
        caption_index: (batch, text length), the number of the caption that a token is of, -1 on padding.
        picture_length: positions of the picture, which stand before the text.
        dtype: of the embeddings, as transformers chooses it: under autocast their float32, else that of the weights.

    Returns:
        (batch, 1, length, length) over queries and keys, where length is that of picture and text: 0 where attended,
        the lowest number of ``dtype`` elsewhere.
    """
    block = F.pad(caption_index, (picture_length, 0), value=PICTURE)
    query, key = block[:, None, :, None], block[:, None, None, :]
    length = block.shape[1]
    until_itself = torch.ones(length, length, dtype=torch.bool, device=block.device).tril()
    seen = (key == PICTURE) | ((query == key) & until_itself)
    return torch.zeros(seen.shape, dtype=dtype, device=block.device).masked_fill(~seen, torch.finfo(dtype).min)
