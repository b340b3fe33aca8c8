"""Multi-token attention (Golovneva et al. 2025, arXiv 2504.00927). Scores of neighbouring queries and keys are
convolved before the softmax. Weights of neighbouring heads are mixed after it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from miclab.config.mechanisms import MultiTokenOptions
from miclab.model.attention.mechanism import Mechanism, attention
from miclab.model.attention.share import initial_share, share_of, share_shapes
from miclab.model.attention.softmax import Softmax

EPSILON = 1e-5
"""Added to the mean square of a head's output."""


@attention("multi_token")
class MultiToken(Softmax):
    """softmax(mask(conv(mask_0(Q K' / sqrt(d))))): masked with 0 before the convolution and with -inf after it. Each
    head's output is normalised, without the paper's factor by depth."""

    Options = MultiTokenOptions
    facts = frozenset()

    def __init__(self, config, options):
        super().__init__(config, options)
        self.own = (0, (self.options.keys - 1) // 2)
        """Row and column of the kernel's entry for the same query and key."""

    def shapes(self, layer):
        options = self.options
        shapes = super().shapes(layer) | share_shapes(options, self.heads)
        if options.share != "frozen":
            shapes["kernel"] = (self.heads, options.queries, options.keys)
        if options.mixed > 1:
            shapes["mixing"] = (self.heads // options.mixed, options.mixed, options.mixed)
        return shapes | {"head_gain": (self.width // self.heads,)}

    def initial(self, name, shape, generator, *, layer):
        if name == "share":
            return initial_share(self.options, shape)
        if name == "kernel":
            return torch.zeros(shape)
        if name == "mixing":
            return torch.eye(shape[-1]).expand(shape).clone()
        return torch.ones(shape) if name == "head_gain" else super().initial(name, shape, generator, layer=layer)

    def weight(self, parameters, layer):
        return share_of(self.options, parameters, self.heads, like=parameters["value"])

    def kernel(self, parameters):
        """Weights [head, query, key] of scores. Axis `query` counts queries backwards, axis `key` keys backwards from
        (keys - 1) // 2 keys later. They are learnt, plus the identity and the weight of the key before."""
        weight, (row, column) = self.weight(parameters, 0), self.own
        shape = (self.heads, self.options.queries, self.options.keys)
        same, before = (torch.zeros(shape, dtype=weight.dtype, device=weight.device) for _ in range(2))
        same[:, row, column], before[:, row, column + 1] = 1.0, 1.0
        return same + before * weight[:, None, None] + (1 - before) * parameters.get("kernel", 0)

    def everywhere(self, parameters, x, gain, *, layer, positions, roles, point):
        queries, keys, values = self.project(parameters, x, gain, layer)
        queries, keys, values = point("queries", queries), point("keys", keys), point("values", values)
        scores = positions.queries(queries) @ positions.keys(keys).transpose(-1, -2)
        scores = (scores / math.sqrt(self.width // self.heads)).tril()
        after, ahead = self.own[1], self.options.keys - 1 - self.own[1]
        # Entry (r, c) is of the query r before and the key c - `after` before: a correlation with the flipped kernel.
        padded = F.pad(scores, (ahead, after, self.options.queries - 1, 0))
        flipped = self.kernel(parameters).flip(-1, -2)
        scores = F.conv2d(padded, flipped.unsqueeze(1), groups=self.heads)
        pattern = (scores + self.score_bias(parameters, positions, layer)).softmax(-1)
        if self.options.mixed > 1:
            grouped = pattern.unflatten(1, (-1, self.options.mixed))
            pattern = torch.einsum("gab,ngbqk->ngaqk", parameters["mixing"], grouped).flatten(1, 2)
        heads = point("pattern", pattern) @ values
        heads = heads * torch.rsqrt(heads.square().mean(-1, keepdim=True) + EPSILON) * parameters["head_gain"]
        return self.merge(parameters, point("heads", heads))

    last = Mechanism.last
