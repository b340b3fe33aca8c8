"""Linear attention without a softmax: the weights of values may be negative, so it has no pattern of shares."""

from __future__ import annotations

import torch

from miclab.model.attention.mechanism import Mechanism, attention, scaled


@attention("linear_example")
class LinearExample(Mechanism):
    """Values weighted by products of queries and keys; their mean over the positions seen."""

    heeds = ("rotation",)

    def shapes(self, layer):
        square = (self.width, self.width)
        return {"query": square, "key": square, "value": square, "output": square}

    def everywhere(self, parameters, x, gain, *, layer, positions, roles, point):
        queries, keys, values = (self.split(x @ scaled(gain, parameters[part])) for part in ("query", "key", "value"))
        weights = (positions.queries(queries) @ positions.keys(keys).transpose(-1, -2)).tril()
        seen = torch.arange(1, self.length + 1, device=values.device)[:, None]
        return self.merge(parameters, point("heads", weights @ values / seen))
