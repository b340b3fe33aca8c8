"""Smeared keys (Olsson et al. 2022, arXiv 2209.11895). Each key is mixed with the key of an earlier position before
positions are applied. On queries, keys and values together it is a token shift (Peng et al. 2023, RWKV)."""

from __future__ import annotations

from miclab.config.mechanisms import SmearedOptions
from miclab.model.attention.mechanism import attention
from miclab.model.attention.share import earlier, initial_share, share_of, share_shapes
from miclab.model.attention.softmax import Softmax


@attention("smeared")
class Smeared(Softmax):
    """Softmax attention whose keys (or values) hold a share of an earlier position: (1 - s) k_i + s k_(i - back)."""

    Options = SmearedOptions

    def shapes(self, layer):
        return super().shapes(layer) | share_shapes(self.options, self.heads)

    def initial(self, name, shape, generator, *, layer):
        return initial_share(self.options, shape) if name == "share" else super().initial(
            name, shape, generator, layer=layer
        )  # fmt: skip

    def weight(self, parameters, layer):
        return share_of(self.options, parameters, self.heads, like=parameters["value"])

    def project(self, parameters, x, gain, layer):
        queries, keys, values = super().project(parameters, x, gain, layer)
        share, on = self.weight(parameters, layer)[:, None, None], self.options.on

        def mixed(heads, which):
            return heads + share * (earlier(heads, self.options.back) - heads) if on in which else heads

        return mixed(queries, ("all",)), mixed(keys, ("keys", "both", "all")), mixed(values, ("values", "both", "all"))
