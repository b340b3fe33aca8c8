"""A fixed pattern: every position attends only to the one before it, as a perfect previous-token head does. The pattern
is not learnt. It is a control for mechanisms that may make such a head."""

from __future__ import annotations

import torch

from miclab.model.attention.mechanism import Mechanism, attention, scaled
from miclab.model.attention.share import earlier


@attention("previous_token")
class PreviousToken(Mechanism):
    """Values of the position before; the first position has its own. A rotary code does not change them."""

    points = ("values", "pattern", "heads")
    heeds = ("rotation",)
    facts = frozenset({"softmax"})

    def shapes(self, layer):
        square = (self.width, self.width)
        return {"value": square} | ({"output": square} if self.decoder.has_output_projection else {})

    def everywhere(self, parameters, x, gain, *, layer, positions, roles, point):
        values = point("values", self.split(x @ scaled(gain, parameters["value"])))
        pattern = earlier(torch.eye(self.length, dtype=x.dtype, device=x.device))
        pattern = point("pattern", pattern.expand(len(x), self.heads, -1, -1))
        return self.merge(parameters, point("heads", pattern @ values))

    def visible(self, positions, layer):
        return earlier(torch.eye(self.length, dtype=torch.bool))[None]
