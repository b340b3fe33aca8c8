"""Differential attention: the difference of two softmaxes (Ye et al. 2024, arXiv 2410.05258)."""

from __future__ import annotations

import math

import torch

from miclab.config.mechanisms import BY_DEPTH, DifferentialOptions
from miclab.model.attention.mechanism import Mechanism, attention
from miclab.model.attention.share import initial_share, share_of, share_shapes
from miclab.model.attention.softmax import Softmax

EPSILON = 1e-5
"""Added to the mean square of a head's output."""
VECTORS = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")
SPREAD = 0.1
"""Their initial standard deviation, as in the paper."""


@attention("differential")
class Differential(Softmax):
    """(softmax(Q1 K1') - lambda softmax(Q2 K2')) V; each head's output is normalised and multiplied by 1 minus the
    first lambda. Two halves of a head's queries and keys are Q1 and Q2, K1 and K2; its values are as wide as both."""

    Options = DifferentialOptions
    heeds = ("rotation", "score_bias", "centre_keys")
    facts = frozenset()

    def start(self, layer):
        """Initial lambda."""
        start = self.options.start
        return 0.8 - 0.6 * math.exp(-0.3 * layer) if start == BY_DEPTH else start

    def shapes(self, layer):
        size = self.width // self.heads
        if self.options.share == "vectors":
            weight = dict.fromkeys(VECTORS, (size // 2,))
        else:
            weight = share_shapes(self.options, self.heads)
        return super().shapes(layer) | weight | {"head_gain": (size,)}

    def initial(self, name, shape, generator, *, layer):
        if name in VECTORS:
            return torch.randn(shape, generator=generator) * SPREAD
        if name == "share":
            return initial_share(self.options, shape, self.start(layer))
        return torch.ones(shape) if name == "head_gain" else super().initial(name, shape, generator, layer=layer)

    def weight(self, parameters, layer):
        if self.options.share == "vectors":
            q1, k1, q2, k2 = (parameters[name] for name in VECTORS)
            return ((q1 * k1).sum().exp() - (q2 * k2).sum().exp() + self.start(layer)).expand(self.heads)
        like = parameters["value"]
        return share_of(self.options, parameters, self.heads, like=like, start=self.start(layer))

    def everywhere(self, parameters, x, gain, *, layer, positions, roles, point):
        queries, keys, values = self.project(parameters, x, gain, layer)
        queries, keys, values = point("queries", queries), point("keys", keys), point("values", values)
        halves = [part.chunk(2, -1) for part in (queries, keys)]
        bias = self.score_bias(parameters, positions, layer)
        first, second = (
            (positions.queries(q) @ positions.keys(k).transpose(-1, -2) / math.sqrt(self.width // self.heads // 2)
             + bias).softmax(-1)
            for q, k in zip(*halves, strict=True)
        )  # fmt: skip
        pattern = point("pattern", first - self.weight(parameters, layer)[:, None, None] * second)
        heads = pattern @ values
        heads = heads * torch.rsqrt(heads.square().mean(-1, keepdim=True) + EPSILON) * parameters["head_gain"]
        return self.merge(parameters, point("heads", heads * (1 - self.start(layer))))

    last = Mechanism.last
