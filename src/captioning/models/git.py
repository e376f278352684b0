"""GIT, computed with less work: the same weights under the same names, and the same numbers.

Images attend to nothing but themselves, and text to its image and the text before. So attention within an image needs
no mask, nothing reads what the last layer makes of an image but its keys and values, and these are the same for every
caption of it, packed or in beams.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import NamedTuple

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.git import modeling_git

from captioning.models.linear import Linear


class KeysValues(NamedTuple):
    """Of one layer's attention, each (batch, heads, positions, width of a head)."""

    keys: Tensor
    values: Tensor


# From a layer's attention and its input, (batch, positions, width), to what the last positions attend to, and the
# keys and values of the images.
Attend = Callable[[modeling_git.GitSelfAttention, Tensor], tuple[Tensor, KeysValues]]


class KVCache(transformers.DynamicCache):  # type: ignore[misc]  # transformers is not followed by mypy
    """The keys and values of captions so far, as transformers keeps them, and beside them those of their images.

    The beams of an image stand together. Without beams, captions that have ended are left out once they are a quarter.
    """

    def __init__(self) -> None:
        super().__init__()
        self.images: list[KeysValues] = []  # of each layer
        self._rows: Tensor | None = None  # numbers of the captions that aren't left out
        self._ended: Tensor | None = None  # which of these have ended

    @property
    def batch_size(self) -> int:
        """Images."""
        return len(self.images[0].keys)

    def active_sequences(self, input_ids: Tensor, end: int | list[int] | None) -> Tensor:
        """The next tokens, (captions, tokens), of the captions that haven't ended with ``end``."""
        tokens = input_ids if self._rows is None else input_ids[self._rows]
        if end is None or len(tokens) != self.batch_size:
            return tokens
        ended = torch.isin(tokens[:, -1], torch.tensor(end, device=tokens.device))
        self._ended = ended if self._ended is None else ended | self._ended
        rest = (~self._ended).nonzero().squeeze(1)
        if not 0 < len(rest) <= 0.75 * len(tokens):  # 0: another process still generates
            return tokens
        self._rows = rest if self._rows is None else self._rows[rest]
        self._ended = None
        self.images = [KeysValues(keys[rest], values[rest]) for keys, values in self.images]
        self.batch_select_indices(rest)
        return tokens[rest]

    def scatter_finished(self, logits: Tensor, rows: int) -> Tensor:
        """The logits of the active captions among zeros for the finished ones, ``rows`` in all."""
        if self._rows is None:
            return logits
        return logits.new_zeros(rows, *logits.shape[1:]).index_copy_(0, self._rows, logits)


class GitLayer(modeling_git.GitLayer):  # type: ignore[misc]
    """A layer of the decoder, with its attention as an argument."""

    def forward(self, hidden: Tensor, attend: Attend) -> tuple[Tensor, KeysValues]:
        attended, images = attend(self.attention.self, hidden)
        hidden = self.attention.output(attended, hidden[:, hidden.shape[1] - attended.shape[1] :])
        return self.feed_forward_chunk(hidden), images


class GitForCausalLM(transformers.GitForCausalLM):  # type: ignore[misc]
    """transformers' GIT with a forward pass of its own; its name, that of the published class, is saved."""

    def __init__(self, config: transformers.GitConfig) -> None:
        super().__init__(config)
        # The same modules, initialized as they are, called otherwise.
        for layer in self.git.encoder.layer:
            layer.__class__ = GitLayer
        for module in self.modules():
            if type(module) is nn.Linear:
                module.__class__ = Linear
        # transformers has it for images, and refuses to be asked; and a model's configuration may be another's too.
        vision_config = deepcopy(config.vision_config)
        vision_config._attn_implementation = "sdpa"
        for layer in self.git.image_encoder.vision_model.encoder.layers:
            layer.self_attn.config = vision_config

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """The features of images, (batch, 3, height, width): (batch, positions, width of the vision tower)."""
        features: Tensor = self.git.image_encoder(pixel_values).last_hidden_state
        device = features.device.type
        return features.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else features

    def encode(self, features: Tensor, text: Tensor | None = None, mask: Tensor | None = None) -> Encoded:
        """The decoder's forward pass over images' features and the captions after them.

        ``text`` is embedded tokens, (batch, text length, width); ``mask``, (batch, 1, text length, text length), says
        which of them a token attends to, beside the image.
        """
        image = self.git.visual_projection(features)
        length = image.shape[1]
        hidden = image if text is None else torch.cat([image, text], dim=1)
        mask = None if mask is None else F.pad(mask, (length, 0), value=True)
        images = []
        *layers, last = self.git.encoder.layer
        for layer in layers:
            hidden, kept = layer(hidden, partial(attend, length=length, mask=mask))
            images.append(kept)
        hidden, kept = last(hidden, partial(attend, length=length, mask=mask, text_alone=True))
        return Encoded(hidden, [*images, kept])

    def forward(self, input_ids: Tensor, past_key_values: KVCache, **_: object) -> CausalLMOutputWithPast:
        """For ``generate``: the logits, (rows, 1, vocabulary), after new tokens; zeros where a caption has ended."""
        tokens = past_key_values.active_sequences(input_ids, self.generation_config.eos_token_id)
        logits = self.output(self.decode_step(tokens, past_key_values)[:, -1:])
        logits = past_key_values.scatter_finished(logits, len(input_ids))
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)

    def decode_step(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """The last hidden states of tokens, (captions, tokens), that follow those of the cache; adds them to it."""
        hidden: Tensor = self.git.embeddings(tokens, past_key_values_length=cache.get_seq_length())
        for layer in self.git.encoder.layer:
            hidden, _ = layer(hidden, partial(attend_cached, cache=cache))
        return hidden


class Encoded(NamedTuple):
    """The decoder's hidden states of captions, and its keys and values of their images."""

    text: Tensor  # (batch, text length, width)
    images: list[KeysValues]  # of each layer


def attend(
    attention: modeling_git.GitSelfAttention,
    hidden: Tensor,
    length: int,
    mask: Tensor | None,
    *,
    text_alone: bool = False,
) -> tuple[Tensor, KeysValues]:
    """Attention among images, the first ``length`` positions, and the text after them; with ``text_alone`` its own.

    ``mask``, (batch, 1, text length, all positions), is True where a token attends.
    """
    keys, values = _heads(attention, attention.key(hidden)), _heads(attention, attention.value(hidden))
    images = KeysValues(keys[:, :, :length], values[:, :, :length])
    queries = _heads(attention, attention.query(hidden[:, length:] if text_alone else hidden))
    dropout = attention.dropout.p if attention.training else 0.0
    attended = []
    if not text_alone:
        attended.append(F.scaled_dot_product_attention(queries[:, :, :length], *images, dropout_p=dropout))
        queries = queries[:, :, length:]
    if queries.shape[2]:
        attended.append(F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout))
    return _joined(torch.cat(attended, dim=2) if attended else queries), images


def attend_cached(
    attention: modeling_git.GitSelfAttention, hidden: Tensor, cache: KVCache
) -> tuple[Tensor, KeysValues]:
    """Attention of new tokens, (rows, tokens, width), to their images, whose beams share them, and the text before."""
    queries, keys, values = (
        _heads(attention, project(hidden)) for project in (attention.query, attention.key, attention.value)
    )
    keys, values = cache.update(keys, values, attention.layer_idx)
    images = cache.images[attention.layer_idx]
    beams, new = len(queries) // cache.batch_size, queries.shape[2]

    of_images = _beams_to_queries(queries, beams) @ images.keys.mT
    of_text = queries @ keys.mT
    if new > 1:
        before = torch.ones(of_text.shape[-2:], dtype=torch.bool, device=hidden.device).tril(of_text.shape[-1] - new)
        of_text = of_text.masked_fill(~before, -torch.inf)
    scores = torch.cat([_queries_to_beams(of_images, beams), of_text], dim=-1)
    shares = (scores / attention.attention_head_size**0.5).softmax(-1).to(values.dtype)
    of_images, of_text = shares.split([of_images.shape[-1], of_text.shape[-1]], dim=-1)
    attended = _queries_to_beams(_beams_to_queries(of_images, beams) @ images.values, beams)
    return _joined(attended + of_text @ values), images


def _heads(attention: modeling_git.GitSelfAttention, projected: Tensor) -> Tensor:
    """(batch, positions, width) -> (batch, heads, positions, width of a head)."""
    heads = projected.view(*projected.shape[:-1], attention.num_attention_heads, attention.attention_head_size)
    return heads.transpose(1, 2)


def _joined(attended: Tensor) -> Tensor:
    return attended.transpose(1, 2).flatten(2)


def _beams_to_queries(rows: Tensor, beams: int) -> Tensor:
    """(images · beams, heads, positions, size) -> (images, heads, beams · positions, size)."""
    return rows.view(-1, beams, *rows.shape[1:]).transpose(1, 2).flatten(2, 3)


def _queries_to_beams(rows: Tensor, beams: int) -> Tensor:
    """(images, heads, beams · positions, size) -> (images · beams, heads, positions, size)."""
    return rows.view(*rows.shape[:2], beams, -1, rows.shape[-1]).transpose(1, 2).flatten(0, 1)
