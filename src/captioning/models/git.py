"""GIT, computed with less work: the same weights under the same names, and the same numbers.

GIT's pictures see nothing but themselves, and its text sees the picture and the text before. From that follows what is
saved here:

- attention within a picture needs no mask, and text alone needs one, of its few rows;
- nothing reads what the last layer makes of a picture but its keys and values, and nothing reads its logits;
- the keys and values of a picture are the same for every caption, whether they are packed into one sequence or beams.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

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
# keys and values of the pictures.
Attend = Callable[[modeling_git.GitSelfAttention, Tensor], tuple[Tensor, KeysValues]]


class CaptionCache(transformers.DynamicCache):  # type: ignore[misc]  # transformers is not followed by mypy
    """The keys and values of captions so far, as transformers keeps them, and beside them those of their pictures.

    There are as many captions as pictures, or, with beams, a multiple: those of a picture stand together. Captions that
    have ended are left out once they are a quarter of all, unless there are beams, where it isn't known.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pictures: list[KeysValues] = []  # of each layer
        self._rows: Tensor | None = None  # numbers of the captions that aren't left out
        self._ended: Tensor | None = None  # which of these have ended

    @property
    def batch_size(self) -> int:
        """Pictures."""
        return len(self.pictures[0].keys)

    def going_on(self, input_ids: Tensor, end: int | list[int] | None) -> Tensor:
        """Those of the next tokens, (captions, tokens), that aren't left out.

        Args:
            input_ids: of all captions.
            end: token after which a caption has ended.
        """
        tokens = input_ids if self._rows is None else input_ids[self._rows]
        if end is None or len(tokens) != self.batch_size:
            return tokens
        ended = torch.isin(tokens[:, -1], torch.tensor(end, device=tokens.device))
        self._ended = ended if self._ended is None else ended | self._ended
        rest = (~self._ended).nonzero().squeeze(1)
        if not 0 < len(rest) <= 0.75 * len(tokens):  # 0: another process goes on
            return tokens
        self._rows = rest if self._rows is None else self._rows[rest]
        self._ended = None
        self.pictures = [KeysValues(keys[rest], values[rest]) for keys, values in self.pictures]
        self.batch_select_indices(rest)
        return tokens[rest]

    def to_all(self, logits: Tensor, rows: int) -> Tensor:
        """The logits of the captions that aren't left out among zeros for those that are, ``rows`` in all."""
        if self._rows is None:
            return logits
        return logits.new_zeros(rows, *logits.shape[1:]).index_copy_(0, self._rows, logits)


class GitLayer(modeling_git.GitLayer):  # type: ignore[misc]
    """A layer of the decoder, which is told how to attend."""

    def forward(self, hidden: Tensor, attend: Attend) -> tuple[Tensor, KeysValues]:
        """From (batch, positions, width) to those of the positions that ``attend`` chooses, the last ones."""
        attended, pictures = attend(self.attention.self, hidden)
        hidden = self.attention.output(attended, hidden[:, hidden.shape[1] - attended.shape[1] :])
        return self.feed_forward_chunk(hidden), pictures


class GitForCausalLM(transformers.GitForCausalLM):  # type: ignore[misc]
    """transformers' GIT with a forward pass of its own.

    Its name is saved with the weights, and stays that of the published class.
    """

    def __init__(self, config: transformers.GitConfig) -> None:
        super().__init__(config)
        # The same modules, initialized as they are, called otherwise.
        for layer in self.git.encoder.layer:
            layer.__class__ = GitLayer
        for module in self.modules():
            if type(module) is nn.Linear:
                module.__class__ = Linear
        # transformers has it for pictures, and refuses to be asked; and a model's configuration may be another's too.
        vision_config = deepcopy(config.vision_config)
        vision_config._attn_implementation = "sdpa"
        for layer in self.git.image_encoder.vision_model.encoder.layers:
            layer.self_attn.config = vision_config

    def see(self, pixel_values: Tensor) -> Tensor:
        """What the vision tower makes of pictures, (batch, 3, height, width): (batch, positions, its width).

        Under autocast it is of that type, as the projection that comes next would make it.
        """
        features: Tensor = self.git.image_encoder(pixel_values).last_hidden_state
        device = features.device.type
        return features.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else features

    def encode(self, features: Tensor, text: Tensor | None = None, seen: Tensor | None = None) -> Encoded:
        """Read pictures, and captions after them.

        Args:
            features: what :meth:`see` makes of the pictures.
            text: embedded tokens, (batch, text length, width); by default there are none.
            seen: (batch, 1, text length, text length), True where a token sees another. All see their picture.

        Returns:
            the last hidden states of the text, and what each layer keeps of the pictures.
        """
        picture = self.git.visual_projection(features)
        length = picture.shape[1]
        hidden = picture if text is None else torch.cat([picture, text], dim=1)
        seen = None if seen is None else F.pad(seen, (length, 0), value=True)
        pictures = []
        *layers, last = self.git.encoder.layer
        for layer in layers:
            hidden, kept = layer(hidden, partial(attend, length=length, seen=seen))
            pictures.append(kept)
        hidden, kept = last(hidden, partial(attend, length=length, seen=seen, text_alone=True))
        return Encoded(hidden, [*pictures, kept])

    def forward(self, input_ids: Tensor, past_key_values: CaptionCache, **_: Any) -> CausalLMOutputWithPast:
        """The logits after the last of some tokens, which the cache then has; how ``generate`` calls a model.

        Args:
            input_ids: (rows, tokens) that follow those of the cache, padding alone after a caption's end.
            past_key_values: with the pictures of the captions.

        Returns:
            (rows, 1, vocabulary), zeros where a caption has ended.
        """
        cache = past_key_values
        tokens = cache.going_on(input_ids, self.generation_config.eos_token_id)
        logits = cache.to_all(self.output(self.read_on(tokens, cache)[:, -1:]), len(input_ids))
        return CausalLMOutputWithPast(logits=logits, past_key_values=cache)

    def read_on(self, tokens: Tensor, cache: CaptionCache) -> Tensor:
        """The last hidden states of tokens, (captions, tokens), that follow those of the cache, which then has them."""
        hidden: Tensor = self.git.embeddings(tokens, past_key_values_length=cache.get_seq_length())
        for layer in self.git.encoder.layer:
            hidden, _ = layer(hidden, partial(attend_on, cache=cache))
        return hidden


class Encoded(NamedTuple):
    """What the decoder makes of pictures and captions."""

    text: Tensor  # (batch, text length, width)
    pictures: list[KeysValues]  # of each layer


def attend(
    attention: modeling_git.GitSelfAttention,
    hidden: Tensor,
    length: int,
    seen: Tensor | None,
    *,
    text_alone: bool = False,
) -> tuple[Tensor, KeysValues]:
    """Attention among pictures and the text after them.

    Args:
        attention: of a layer, for its projections.
        hidden: (batch, length + text length, width).
        length: positions of a picture.
        seen: (batch, 1, text length, length + text length), True where a token sees a position.
        text_alone: what the pictures attend to isn't needed.
    """
    keys, values = _heads(attention, attention.key(hidden)), _heads(attention, attention.value(hidden))
    pictures = KeysValues(keys[:, :, :length], values[:, :, :length])
    queries = _heads(attention, attention.query(hidden[:, length:] if text_alone else hidden))
    dropout = attention.dropout.p if attention.training else 0.0
    attended = []
    if not text_alone:
        attended.append(F.scaled_dot_product_attention(queries[:, :, :length], *pictures, dropout_p=dropout))
        queries = queries[:, :, length:]
    if queries.shape[2]:
        attended.append(F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen, dropout_p=dropout))
    return _joined(torch.cat(attended, dim=2) if attended else queries), pictures


def attend_on(
    attention: modeling_git.GitSelfAttention, hidden: Tensor, cache: CaptionCache
) -> tuple[Tensor, KeysValues]:
    """Attention of new tokens to their pictures and to the captions before them.

    All beams of a picture look at the same keys and values of it, so these are neither copied nor moved for them.

    Args:
        attention: of a layer, for its projections.
        hidden: (rows, new tokens, width).
        cache: takes the new tokens' keys and values.
    """
    queries, keys, values = (
        _heads(attention, project(hidden)) for project in (attention.query, attention.key, attention.value)
    )
    keys, values = cache.update(keys, values, attention.layer_idx)
    pictures = cache.pictures[attention.layer_idx]
    beams, new = len(queries) // cache.batch_size, queries.shape[2]

    of_pictures = _beams_to_queries(queries, beams) @ pictures.keys.mT
    of_text = queries @ keys.mT
    if new > 1:
        before = torch.ones(of_text.shape[-2:], dtype=torch.bool, device=hidden.device).tril(of_text.shape[-1] - new)
        of_text = of_text.masked_fill(~before, -torch.inf)
    scores = torch.cat([_queries_to_beams(of_pictures, beams), of_text], dim=-1)
    shares = (scores / attention.attention_head_size**0.5).softmax(-1).to(values.dtype)
    of_pictures, of_text = shares.split([of_pictures.shape[-1], of_text.shape[-1]], dim=-1)
    attended = _queries_to_beams(_beams_to_queries(of_pictures, beams) @ pictures.values, beams)
    return _joined(attended + of_text @ values), pictures


def _heads(attention: modeling_git.GitSelfAttention, projected: Tensor) -> Tensor:
    """(batch, positions, width) -> (batch, heads, positions, width of a head)."""
    heads = projected.view(*projected.shape[:-1], attention.num_attention_heads, attention.attention_head_size)
    return heads.transpose(1, 2)


def _joined(attended: Tensor) -> Tensor:
    """(batch, heads, positions, width of a head) -> (batch, positions, width)."""
    return attended.transpose(1, 2).flatten(2)


def _beams_to_queries(rows: Tensor, beams: int) -> Tensor:
    """(pictures · beams, heads, positions, size) -> (pictures, heads, beams · positions, size)."""
    return rows.view(-1, beams, *rows.shape[1:]).transpose(1, 2).flatten(2, 3)


def _queries_to_beams(rows: Tensor, beams: int) -> Tensor:
    """(pictures, heads, beams · positions, size) -> (pictures · beams, heads, positions, size)."""
    return rows.view(*rows.shape[:2], beams, -1, rows.shape[-1]).transpose(1, 2).flatten(0, 1)
