"""Matrix products on a CPU, by whichever library is quicker at them."""

from __future__ import annotations

import platform

import torch
from torch import Tensor, nn

# torch has no public name for a float32 product by oneDNN; this one is what torch.compile writes for it.
HAS_ONEDNN = (
    platform.machine() in ("x86_64", "AMD64")
    and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


class Linear(nn.Linear):
    """torch's, which oneDNN computes on an x86 CPU where there is no gradient, in float32.

    torch takes MKL there, which on AMD reads the weights at a third of the memory's speed for a caption's next token.
    """

    def forward(self, x: Tensor) -> Tensor:
        if (
            not HAS_ONEDNN
            or torch.is_grad_enabled()
            or {x.dtype, self.weight.dtype} != {torch.float32}
            or {x.device.type, self.weight.device.type} != {"cpu"}
            or torch.is_autocast_enabled("cpu")
            or torch.compiler.is_compiling()
        ):
            return super().forward(x)
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return result
