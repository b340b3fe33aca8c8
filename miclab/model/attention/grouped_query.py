"""Grouped-query attention: several heads share keys and values (Ainslie et al. 2023, arXiv 2305.13245)."""

from __future__ import annotations

from miclab.config.mechanisms import GroupOptions
from miclab.model.attention.mechanism import attention
from miclab.model.attention.softmax import Softmax


@attention("grouped_query")
class GroupedQuery(Softmax):
    """Softmax attention whose heads share keys and values within groups of neighbours."""

    Options = GroupOptions
    axes = dict.fromkeys(("keys", "values"), "batch group position dimension")

    def __init__(self, config, options):
        super().__init__(config, options)
        self.groups = self.group_count()

    def group_count(self):
        """Number of groups."""
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
