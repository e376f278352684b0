"""All captions of an image in one sequence, so that the image is encoded once for all of them."""

from typing import TypedDict

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

IGNORE_INDEX = -100  # the label of a position that must not count in the loss


class PackedCaptions(TypedDict):
    """Captions one after the other; all are (batch, packed length), int64."""

    input_ids: Tensor  # each caption with its own start and end
    attention_mask: Tensor  # 0 on padding
    labels: Tensor  # input_ids, with IGNORE_INDEX on padding, on each caption's first token, and in padding samples
    position_ids: Tensor  # from 0 in each caption; 0 on padding
    caption_index: Tensor  # number of the caption within the image; -1 on padding


def pack(
    captions: list[list[str]], tokenizer: PreTrainedTokenizerBase, *, max_caption_tokens: int, is_padding: list[bool]
) -> PackedCaptions:
    """One sequence of tokens for each image, padded to the longest.

    The label of a caption's first token is ignored: what precedes it in the sequence is the end of another caption.
    Labels of padding samples are ignored all over. Each caption is cut to ``max_caption_tokens``, its start and end
    included.
    """
    texts = [caption for of_image in captions for caption in of_image]
    tokenized = tokenizer(texts, truncation=True, max_length=max_caption_tokens, return_attention_mask=False)
    token_ids = iter(tokenized["input_ids"])
    images = [[torch.tensor(next(token_ids)) for _ in of_image] for of_image in captions]

    input_ids = [torch.cat(of_image) for of_image in images]
    positions = [torch.cat([torch.arange(len(ids)) for ids in of_image]) for of_image in images]
    numbers = [torch.cat([torch.full_like(ids, n) for n, ids in enumerate(of_image)]) for of_image in images]

    tokens = pad_sequence(input_ids, batch_first=True, padding_value=tokenizer.pad_token_id)
    position_ids = pad_sequence(positions, batch_first=True)
    caption_index = pad_sequence(numbers, batch_first=True, padding_value=-1)
    ignored = (position_ids == 0) | torch.tensor(is_padding)[:, None]  # padding tokens too are at position 0
    return PackedCaptions(
        input_ids=tokens,
        attention_mask=(caption_index >= 0).long(),
        labels=tokens.masked_fill(ignored, IGNORE_INDEX),
        position_ids=position_ids,
        caption_index=caption_index,
    )
