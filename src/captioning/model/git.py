"""GIT, with a way to generate from pictures that have been read already."""

from __future__ import annotations

from typing import Any

import transformers


class GitForCausalLM(transformers.GitForCausalLM):  # type: ignore[misc]  # transformers is not followed by mypy
    """transformers' GIT, whose ``generate`` also takes ``past_key_values`` that hold a picture.

    Its name is saved with the weights, and stays that of the published class.
    """

    def prepare_inputs_for_generation(
        self, input_ids: Any, next_sequence_length: int | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        # generate() takes every cached position for a token of input_ids, and leaves that many of them out at the first
        # step. Those of a picture are no tokens; the number left is then below 1, and nothing is to be left out.
        if next_sequence_length is not None and next_sequence_length < 1:
            next_sequence_length = None
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, next_sequence_length=next_sequence_length, **kwargs
        )
        return inputs
