"""Smeared keys: each key is mixed with the key of an earlier position, before positions are put in (Olsson et al. 2022,
arXiv 2209.11895, "Smeared keys"). On queries, keys and values together it is a token shift (Peng et al. 2023, RWKV)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from miclab.config.checks import check_known, check_whole
from miclab.errors import ConfigError
from miclab.model.attention.mechanism import attention
from miclab.model.attention.share import ShareOptions, earlier, initial_share, share_of, share_shapes
from miclab.model.attention.softmax import Softmax


@dataclass(frozen=True, kw_only=True)
class SmearedOptions(ShareOptions):
    """Options of `smeared`. The weight is the share of the earlier position, one for each head."""

    on: Literal["keys", "values", "both", "all"] = "keys"
    """What is mixed: keys, values, `both` of them, or `all`: queries too, which is a token shift."""
    back: int = 1
    """How many positions earlier the other one stands."""

    def check(self, owner):
        super().check(owner)
        check_known(owner, self, "on", ("keys", "values", "both", "all"))
        check_whole(owner, self, "back", 1, 100_000)

    def check_shape(self, owner, config):
        if self.back >= config.sequence_length:
            raise ConfigError(f"{owner}.back", self.back, f"less than a sequence's {config.sequence_length} positions")


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
