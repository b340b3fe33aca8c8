"""QK-norm: queries and keys of each head are normalised before positions are applied (Henry et al. 2020, arXiv
2010.04245). As RMSNorm with gains: Dehghani et al. 2023, arXiv 2302.05442."""

from __future__ import annotations

import torch

from miclab.config.mechanisms import NormOptions
from miclab.model.attention.mechanism import attention
from miclab.model.attention.softmax import Softmax

EPSILON = 1e-5
"""Added to the mean square."""


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
        """Root of the mean product of both gains. A score is multiplied by its square."""
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
