"""Linear attention with the feature map elu(x) + 1 (Katharopoulos et al. 2020, arXiv 2006.16236). Under a rotary code
only the numerator's features are rotated (Su et al. 2021, arXiv 2104.09864, equation 19)."""

from __future__ import annotations

import torch.nn.functional as F

from miclab.model.attention.mechanism import Mechanism, attention, scaled

PARTS = ("query", "key", "value")


@attention("linear")
class Linear(Mechanism):
    """Values weighted by products of positive features of queries and keys, over the sum of these products."""

    points = ("queries", "keys", "values", "pattern", "heads")
    heeds = ("rotation",)

    def __init__(self, config, options):
        super().__init__(config, options)
        # Rotated features may be negative.
        self.facts = frozenset() if config.decoder.position_facts.rotates else frozenset({"softmax"})

    def shapes(self, layer):
        square = (self.width, self.width)
        return dict.fromkeys(PARTS, square) | ({"output": square} if self.decoder.has_output_projection else {})

    def everywhere(self, parameters, x, gain, *, layer, positions, roles, point):
        queries, keys, values = (self.split(x @ scaled(gain, parameters[part])) for part in PARTS)
        queries, keys, values = point("queries", queries), point("keys", keys), point("values", values)
        queries, keys = F.elu(queries) + 1, F.elu(keys) + 1
        total = (queries @ keys.transpose(-1, -2)).tril().sum(-1, keepdim=True)
        products = (positions.queries(queries) @ positions.keys(keys).transpose(-1, -2)).tril()
        return self.merge(parameters, point("heads", point("pattern", products / total) @ values))
