"""The floating-point operations of training, by arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from captioning.models.git import GitForCausalLM


def training_flops(model: GitForCausalLM, *, images: int, tokens: int) -> int:
    """The model FLOPs of a forward and a backward pass, as for MFU (Chowdhery et al. 2022, PaLM, appendix B).

    Two for each multiplication; no gradients of frozen weights or below them, and nothing for a vision tower that is
    frozen as a whole. ``tokens`` are an image's, padding included.
    """
    text, vision = model.config, model.config.vision_config
    width, inner, layers = text.hidden_size, text.intermediate_size, text.num_hidden_layers
    patches = (vision.image_size // vision.patch_size) ** 2
    positions = patches + 1
    of_vision = vision.num_hidden_layers * (
        positions * (4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size)
        + 2 * positions**2 * vision.hidden_size
    )
    # All positions have keys and values; the rest of the last layer is for the text alone.
    rows = layers * tokens + (layers - 1) * positions
    of_decoder = 2 * layers * (positions + tokens) * width**2 + rows * (2 * width**2 + 2 * width * inner)
    of_decoder += 2 * width * ((layers - 1) * positions**2 + layers * tokens * (positions + tokens))

    tower = model.git.image_encoder.vision_model
    sections: list[tuple[nn.Module, int]] = [
        (tower.embeddings.patch_embedding, patches * 3 * vision.patch_size**2 * vision.hidden_size),
        (tower.encoder, of_vision),
        (model.git.visual_projection, positions * vision.hidden_size * width),
        (model.git.encoder, of_decoder),
        (model.output, (tokens - 1) * width * text.vocab_size),
    ]
    total, below = 0, False
    for section, multiplications in sections:
        trained = any(parameter.requires_grad for parameter in section.parameters())
        inputs = below or (trained and section in (tower.encoder, model.git.encoder))  # of all layers but the first
        weights = max(section.parameters(), key=lambda parameter: parameter.numel()).requires_grad  # no adapter's
        below = below or trained
        if below:
            total += 2 * (1 + inputs + weights) * multiplications
    return images * total
