"""Forgetting attention: a gate of each token lowers the scores of all keys before it (Lin et al. 2025, arXiv
2503.02130)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from miclab.config.checks import check_known, check_number
from miclab.config.options import AttentionOptions
from miclab.errors import ConfigError
from miclab.model.attention.mechanism import Mechanism, attention, scaled
from miclab.model.attention.softmax import Softmax


@dataclass(frozen=True, kw_only=True)
class ForgettingOptions(AttentionOptions):
    """Options of `forgetting`. The weight is the share that is forgotten at each step, 1 minus the gate."""

    start: float = 0.5
    """The share at first, of a token whose features are 0."""
    gate: Literal["input", "learnt", "frozen"] = "input"
    """`input`: sigmoid(w . x + b), as in the paper. `learnt`: sigmoid(b), the same for every token. `frozen`: it never
    changes."""

    def check(self, owner):
        super().check(owner)
        check_known(owner, self, "gate", ("input", "learnt", "frozen"))
        check_number(owner, self, "start", 0.0, 1.0)
        if self.start == 1 or (self.start == 0 and self.gate != "frozen"):
            allowed = f"a number between 0 and 1; 0, which forgets nothing, with {owner}.gate = 'frozen'"
            raise ConfigError(f"{owner}.start", self.start, allowed)


@attention("forgetting")
class Forgetting(Softmax):
    """Softmax of q_i . k_j / sqrt(d) + sum of log f_l over l from j + 1 to i; the gate f is one number a head."""

    Options = ForgettingOptions

    def shapes(self, layer):
        gate = self.options.gate
        bias = {"gate_bias": (self.heads,)} if gate != "frozen" else {}
        return super().shapes(layer) | ({"gate": (self.width, self.heads)} if gate == "input" else {}) | bias

    def initial(self, name, shape, generator, *, layer):
        if name == "gate_bias":
            return torch.full(shape, math.log(1 / self.options.start - 1))
        return super().initial(name, shape, generator, layer=layer)

    def weight(self, parameters, layer):
        if self.options.gate == "frozen":
            return torch.full_like(parameters["value"][0, :1], self.options.start).expand(self.heads)
        return (-parameters["gate_bias"]).sigmoid()

    def decay(self, parameters, x, gain):
        """Sum of the logs of the gates between two positions [batch head query key]."""
        if self.options.gate == "frozen":
            logs = torch.full_like(x[..., :1], math.log1p(-self.options.start)).expand(-1, -1, self.heads)
        else:
            raised = x @ scaled(gain, parameters["gate"]) if "gate" in parameters else 0 * x[..., :1]
            logs = F.logsigmoid(raised + parameters["gate_bias"])
        total = logs.transpose(1, 2).cumsum(-1)
        return total[..., :, None] - total[..., None, :]

    def everywhere(self, parameters, x, gain, *, layer, positions, roles, point):
        queries, keys, values = self.project(parameters, x, gain, layer)
        queries, keys, values = point("queries", queries), point("keys", keys), point("values", values)
        products = positions.queries(queries) @ positions.keys(keys).transpose(-1, -2)
        scores = products / math.sqrt(self.width // self.heads) + self.decay(parameters, x, gain)
        pattern = point("pattern", (scores + self.score_bias(parameters, positions, layer)).softmax(-1))
        return self.merge(parameters, point("heads", pattern @ values))

    last = Mechanism.last
