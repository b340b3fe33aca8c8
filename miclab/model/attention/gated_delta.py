"""The gated delta rule (Yang et al. 2025, arXiv 2412.06464). A state maps keys to values; it decays, and a key's old
value is replaced. S_t = a_t S_(t-1) (I - b_t k_t k_t') + b_t v_t k_t', o_t = S_t q_t.

It is computed in the parallel form, where g_ij is the product of a_l over l from j + 1 to i. Written values are U = (1
+ strictly_lower(b_i g_ij k_i . k_j))^-1 b V. Outputs are lower(g_ij q_i . k_j) U.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from miclab.config.mechanisms import DeltaOptions
from miclab.model.attention.mechanism import Mechanism, attention, scaled

PARTS = ("query", "key", "value")
EPSILON = 1e-5
"""Added to the mean square of a head's output."""


@attention("gated_delta")
class GatedDelta(Mechanism):
    """A linear recurrence with decay and replacement; queries and keys have norm 1, and each head's output is
    normalised. The paper's gate of the output is left out."""

    Options = DeltaOptions
    points = ("queries", "keys", "values", "pattern", "heads")
    heeds = ("rotation",)

    def shapes(self, layer):
        square, options = (self.width, self.width), self.options
        shapes: dict[str, tuple[int, ...]] = {**dict.fromkeys(PARTS, square), "write": (self.width, self.heads)}
        if options.gate == "input":
            shapes |= {"gate": (self.width, self.heads), "gate_bias": (self.heads,), "gate_rate": (self.heads,)}
        if options.convolution:
            shapes["taps"] = (options.convolution, len(PARTS), self.width)
        shapes["head_gain"] = (self.width // self.heads,)
        return shapes | ({"output": square} if self.decoder.has_output_projection else {})

    def initial(self, name, shape, generator, *, layer):
        if name == "gate_bias":
            # exp(-softplus(b)) is 1 - sigmoid(b).
            return torch.full(shape, math.log(self.options.start / (1 - self.options.start)))
        if name == "taps":
            bound = 1 / math.sqrt(shape[0])
            return torch.rand(shape, generator=generator) * 2 * bound - bound
        return {"gate_rate": torch.zeros, "head_gain": torch.ones}.get(name, lambda shape: None)(shape)

    def weight(self, parameters, layer):
        if self.options.gate == "frozen":
            return torch.full_like(parameters["value"][0, :1], self.options.start).expand(self.heads)
        return 1 - torch.exp(-parameters["gate_rate"].exp() * F.softplus(parameters["gate_bias"]))

    def _decay(self, parameters, x, gain):
        """Products of decays between two positions [batch head query key], 0 where the key is later."""
        if self.options.gate == "frozen":
            logs = torch.full_like(x[..., :1], math.log1p(-self.options.start)).expand(-1, -1, self.heads)
        else:
            raised = x @ scaled(gain, parameters["gate"]) + parameters["gate_bias"]
            logs = -parameters["gate_rate"].exp() * F.softplus(raised)
        total = logs.transpose(1, 2).cumsum(-1)
        later = torch.ones(self.length, self.length, dtype=torch.bool, device=x.device).triu(1)
        return (total[..., :, None] - total[..., None, :]).masked_fill(later, -math.inf).exp()

    def everywhere(self, parameters, x, gain, *, layer, positions, roles, point):
        found = [x @ scaled(gain, parameters[part]) for part in PARTS]
        if self.options.convolution:
            taps = parameters["taps"]
            found = [
                F.silu(
                    torch.stack(
                        [F.pad(one, (0, 0, back, 0))[:, : self.length] * tap[i] for back, tap in enumerate(taps)]
                    ).sum(0)
                )
                for i, one in enumerate(found)
            ]
        queries, keys, values = map(self.split, found)
        queries, keys, values = point("queries", queries), point("keys", keys), point("values", values)
        # Norms are made last: a rotation keeps them, and another code may not.
        both = positions.queries(queries), positions.keys(keys)
        queries, keys = (F.normalize(heads, dim=-1, eps=1e-6) for heads in both)
        write = (x @ scaled(gain, parameters["write"])).sigmoid().transpose(1, 2)[..., None]
        decay, turned = self._decay(parameters, x, gain), keys.transpose(-1, -2)
        replaced = (write * decay * (keys @ turned)).tril(-1)
        one = torch.eye(self.length, dtype=x.dtype, device=x.device)
        written = torch.linalg.solve_triangular(one + replaced, one * write.transpose(-1, -2), upper=False)
        pattern = point("pattern", (decay * (queries @ turned)).tril() @ written)
        heads = pattern @ values
        heads = heads * torch.rsqrt(heads.square().mean(-1, keepdim=True) + EPSILON) * parameters["head_gain"]
        return self.merge(parameters, point("heads", heads))
