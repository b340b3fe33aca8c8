"""QK-norm: queries and keys of each head are normalised before positions are put in (Henry et al. 2020, arXiv
2010.04245; as RMSNorm with gains: Dehghani et al. 2023, arXiv 2302.05442)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from miclab.model.attention.mechanism import attention
from miclab.model.attention.share import ShareOptions
from miclab.model.attention.softmax import Softmax

EPSILON = 1e-5
"""Added to the mean square."""


@dataclass(frozen=True, kw_only=True)
class NormOptions(ShareOptions):
    """Options of `qk_norm`. The weight is every entry of the gains, which the heads of a layer share."""

    start: float = 1.0
    """The gains at first."""
    share: str = "free"  # type: ignore[assignment]
    """`free`: the gains are learnt. `frozen`: they never change."""

    kinds: ClassVar[tuple[str, ...]] = ("free", "frozen")


@attention("qk_norm")
class QKNorm(Softmax):
    """Softmax attention of normalised queries and keys: q / rms(q) * gain, by head."""

    Options = NormOptions

    def shapes(self, layer):
        gains = dict.fromkeys(("query_gain", "key_gain"), (self.width // self.heads,))
        return super().shapes(layer) | (gains if self.options.share == "free" else {})

    def initial(self, name, shape, generator, *, layer):
        if name.endswith("_gain"):
            return torch.full(shape, self.options.start)
        return super().initial(name, shape, generator, layer=layer)

    def weight(self, parameters, layer):
        """Root of the mean product of both gains: what a score is multiplied by is its square."""
        product = self._gain(parameters, "query") * self._gain(parameters, "key")
        like = parameters["value"]
        mean = torch.as_tensor(product, dtype=like.dtype, device=like.device).mean()
        return mean.abs().sqrt().expand(self.heads)

    def _gain(self, parameters, part):
        return parameters.get(f"{part}_gain", self.options.start)

    def project(self, parameters, x, gain, layer):
        queries, keys, values = super().project(parameters, x, gain, layer)
        queries, keys = (
            heads * torch.rsqrt(heads.square().mean(-1, keepdim=True) + EPSILON) * self._gain(parameters, part)
            for part, heads in (("query", queries), ("key", keys))
        )
        return queries, keys, values
