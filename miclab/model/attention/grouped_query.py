"""Grouped-query attention: several heads share keys and values (Ainslie et al. 2023, arXiv 2305.13245)."""

from __future__ import annotations

from dataclasses import dataclass

from miclab.config.checks import check_whole
from miclab.config.options import AttentionOptions
from miclab.errors import ConfigError
from miclab.model.attention.mechanism import attention
from miclab.model.attention.softmax import Softmax


@dataclass(frozen=True, kw_only=True)
class GroupOptions(AttentionOptions):
    """Options of `grouped_query`."""

    groups: int = 1
    """Groups of heads, each with one key and one value; divides the number of heads."""

    def check(self, owner):
        super().check(owner)
        check_whole(owner, self, "groups", 1, 1024)

    def check_shape(self, owner, config):
        heads = config.decoder.heads
        if heads % self.groups:
            divisors = [groups for groups in range(1, heads + 1) if heads % groups == 0]
            raise ConfigError(f"{owner}.groups", self.groups, f"a divisor of decoder.heads = {heads}: {divisors}")


@attention("grouped_query")
class GroupedQuery(Softmax):
    """Softmax attention whose heads share keys and values within groups of neighbours."""

    Options = GroupOptions
    axes = dict.fromkeys(("keys", "values"), "batch group position dimension")

    def __init__(self, config, options):
        super().__init__(config, options)
        self.groups = self.group_count()

    def group_count(self):
        """How many groups there are."""
        return self.options.groups

    def shapes(self, layer):
        shapes, narrow = super().shapes(layer), self.width // self.heads * self.groups
        shapes |= dict.fromkeys(("key", "value"), (self.width, narrow))
        return shapes | ({"key_bias": (narrow,)} if "key_bias" in shapes else {})

    def project(self, parameters, x, gain, layer):
        queries, keys, values = self.linear(parameters, x, gain)
        keys, values = (part.unflatten(-1, (self.groups, -1)).transpose(1, 2) for part in (keys, values))
        return self.split(queries), keys, values

    def shared(self, heads):
        return heads.repeat_interleave(self.heads // self.groups, 1)
