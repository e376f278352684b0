"""The forward pass of a training step, with the loss over the tokens of captions and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from transformers import DynamicCache

    from captioning.model.git import GitForCausalLM

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
    pictures: DynamicCache | None = None,
) -> CaptionLoss:
    """Next-token cross-entropy of captions given their pictures, teacher-forced.

    Equal to ``model(..., labels=labels).loss`` times the number of tokens, without logits at the positions of the
    picture, which are most of them and which no loss reads.

    Args:
        model: the network.
        pixel_values: (batch, 3, height, width).
        input_ids: (batch, text length).
        attention_mask: (batch, text length), 0 on padding.
        labels: (batch, text length), IGNORE_INDEX where nothing is to be predicted.
        pictures: an empty cache, to be filled with the pictures' keys and values, from which ``generate_captions`` goes
            on: a picture needn't be read again for its caption.
    """
    hidden = model.git(
        input_ids=input_ids,
        attention_mask=attention_mask,
        pixel_values=pixel_values,
        past_key_values=pictures,
        use_cache=pictures is not None,
    ).last_hidden_state
    if pictures is not None:
        pictures.crop(-input_ids.shape[1])
    text = hidden[:, -input_ids.shape[1] : -1]  # the last position has no next token
    logits = model.output(text).float()
    targets = labels[:, 1:]
    counted = targets != IGNORE_INDEX
    loss = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORE_INDEX, reduction="sum")
    correct = (logits.argmax(-1) == targets) & counted
    return CaptionLoss(loss, correct.sum(), counted.sum())
