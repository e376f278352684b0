"""LoRA (https://arxiv.org/abs/2106.09685): frozen weights with small trained matrices beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from torch import Tensor, nn

from captioning.errors import UserError, nearest

if TYPE_CHECKING:
    from captioning.models.git import GitForCausalLM

TOWERS = {"text": "git.encoder.layer.", "vision": "git.image_encoder.vision_model.encoder.layers."}  # of their layers


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Which linear layers have an adapter, and how large it is: from x, a layer makes W x + scale · B A x."""

    rank: int = 0  # rows of A and columns of B; 0 is no adapters
    alpha: int | None = None  # the scale, times the rank; None is twice the rank
    dropout: float = 0.0  # share of an adapter's inputs that is left out in training
    towers: Sequence[str] = ("text",)  # text, vision or both: all linear layers of their layers have one

    def __post_init__(self) -> None:
        if not self.towers:
            raise UserError("model.lora_towers=[] names no tower; for no adapters set model.lora_rank=0")
        for tower in self.towers:
            if tower not in TOWERS:
                raise UserError(f"model.lora_towers: {tower} is no tower{nearest(tower, list(TOWERS))}")
        if self.rank and find_spec("peft") is None:
            raise UserError(
                f"model.lora_rank={self.rank}: adapters need peft, which isn't installed: pip install -e '.[lora]'"
            )

    @property
    def scale(self) -> float:
        """Of what the adapters add."""
        return 2.0 if self.alpha is None else self.alpha / self.rank


def add_adapters(network: GitForCausalLM, lora: Lora) -> None:
    """Add adapters, which compute nothing yet, to linear layers; A is drawn by torch's generator."""
    from peft import LoraConfig, inject_adapter_in_model  # takes a second, and may not be installed

    prefixes = tuple(TOWERS[tower] for tower in lora.towers)
    layers = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=2 * lora.rank if lora.alpha is None else lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=[name for name in layers if name.startswith(prefixes)],
    )
    inject_adapter_in_model(config, network)


def merged(weights: Mapping[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """The weights of a plain GIT that is equal to the one with adapters whose ``state_dict`` is given."""
    plain = {name.replace(".base_layer.", "."): weight for name, weight in weights.items() if ".lora_" not in name}
    for name, b in weights.items():
        layer, is_b, _ = name.partition(".lora_B.")
        if is_b:
            a = weights[name.replace(".lora_B.", ".lora_A.")]
            # In 32 bits, or much of what a small change learned would be rounded away.
            plain[f"{layer}.weight"] = plain[f"{layer}.weight"] + lora.scale * (b.float() @ a.float())
    return plain
