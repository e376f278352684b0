"""All captions of an image in one sequence, so that the image is encoded once for all of them."""

from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

IGNORE_INDEX = -100  # the label of a position that must not count in the loss


class PackedCaptions(TypedDict):
    """Captions one after the other; all are (batch, packed length), int64."""

    input_ids: Tensor  # each caption with its own start and end
    attention_mask: Tensor  # 0 on padding
    labels: Tensor  # input_ids, with IGNORE_INDEX on padding, on the first token of each caption, and all over fillers
    position_ids: Tensor  # from 0 in each caption; 0 on padding
    caption_index: Tensor  # number of the caption within the image; -1 on padding


def pack(
    captions_of_each_image: list[list[str]], tokenizer: Any, *, max_caption_tokens: int, counts: list[bool]
) -> PackedCaptions:
    """Captions as sequences of tokens, one sequence for each image, padded to the longest and not further.

    With one caption for each image these are the usual tensors of a batch, and ``position_ids`` and
    ``caption_index`` say nothing new. The label of a first token is ignored: what stands before it in the sequence is
    the end of another caption, which doesn't foretell it.

    Args:
        captions_of_each_image: one or more for each image.
        tokenizer: of the processor that the model is trained with.
        max_caption_tokens: where each caption by itself is cut, its start and end among them.
        counts: for each image, whether it is to be learned from; False for fillers.
    """
    texts = [caption for captions in captions_of_each_image for caption in captions]
    tokenized = tokenizer(texts, truncation=True, max_length=max_caption_tokens, return_attention_mask=False)
    token_ids = iter(tokenized["input_ids"])
    images = [[torch.tensor(next(token_ids)) for _ in captions] for captions in captions_of_each_image]

    input_ids = [torch.cat(captions) for captions in images]
    positions = [torch.cat([torch.arange(len(ids)) for ids in captions]) for captions in images]
    numbers = [torch.cat([torch.full_like(ids, n) for n, ids in enumerate(captions)]) for captions in images]

    tokens = pad_sequence(input_ids, batch_first=True, padding_value=tokenizer.pad_token_id)
    position_ids = pad_sequence(positions, batch_first=True)
    caption_index = pad_sequence(numbers, batch_first=True, padding_value=-1)
    ignored = (position_ids == 0) | ~torch.tensor(counts)[:, None]  # padding too is at position 0
    return PackedCaptions(
        input_ids=tokens,
        attention_mask=(caption_index >= 0).long(),
        labels=tokens.masked_fill(ignored, IGNORE_INDEX),
        position_ids=position_ids,
        caption_index=caption_index,
    )
