"""A sink: attention that goes nowhere. With a logit of 0 it is softmax off by one, exp(x_i) / (1 + sum exp(x_j))
(Miller 2023, "Attention is off by one"). A learnt logit for each head is that of gpt-oss (OpenAI 2025, arXiv
2508.10925)."""

from __future__ import annotations

import torch

from miclab.config.mechanisms import SinkOptions
from miclab.model.attention.mechanism import attention
from miclab.model.attention.share import initial_share, share_of, share_shapes
from miclab.model.attention.softmax import Softmax


@attention("sink")
class Sink(Softmax):
    """Softmax attention with one more logit, whose share of attention has no value."""

    Options = SinkOptions
    facts = frozenset()

    def shapes(self, layer):
        return super().shapes(layer) | {name.replace("share", "sink"): shape for name, shape in share_shapes(
            self.options, self.heads
        ).items()}  # fmt: skip

    def initial(self, name, shape, generator, *, layer):
        if name == "sink":
            return initial_share(self.options, shape)
        return super().initial(name, shape, generator, layer=layer)

    def weight(self, parameters, layer):
        given = {"share": parameters["sink"]} if "sink" in parameters else {}
        return share_of(self.options, given, self.heads, like=parameters["value"])

    def pattern(self, parameters, scores):
        # Scores have an axis of queries, or, of the last position alone, none.
        sink = self.weight(parameters, 0)[:, None, None] if scores.dim() == 4 else self.weight(parameters, 0)[:, None]
        both = torch.cat([scores, sink.expand(*scores.shape[:-1], 1)], -1)
        return both.softmax(-1)[..., :-1]

    last = Softmax.last
