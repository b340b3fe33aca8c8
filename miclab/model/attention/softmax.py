"""The usual attention: a softmax over scaled products of queries and keys (Vaswani et al. 2017)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from miclab.model.attention.mechanism import (
    Mechanism,
    Parameters,
    Point,
    Positions,
    attention,
    scaled,
    unchanged,
)
from miclab.model.positions import Heads

Scores = Float[Tensor, "batch head query key"]


@attention("softmax")
class Softmax(Mechanism):
    """Softmax of scaled products of queries and keys."""

    points = ("queries", "keys", "values", "pattern", "heads")
    heeds = ("rotation", "score_bias", "centre_keys")
    facts = frozenset({"softmax"})
    followed = ("everywhere", "mix", "project", "pattern", "shared")

    def shapes(self, layer):
        square, options = (self.width, self.width), self.decoder
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("query", "key", "value"), square)
        shapes |= {f"{part}_bias": shapes[part][1:] for part in options.biased(layer)}
        return shapes | ({"output": square} if options.has_output_projection else {})

    def initial(self, name, shape, generator, *, layer):
        if name.endswith("_bias"):
            return torch.randn(shape, generator=generator) * self.decoder.attention_bias_std
        return None

    # -- methods for variants to override, used by `everywhere` and `last` ---------------------------------------
    def score_bias(
        self, parameters: Parameters, positions: Positions, layer: int
    ) -> Float[Tensor, "#head position position"]:
        """Bias that is added to the scores, -inf for keys that a query must not see."""
        return positions.score_bias

    def visible(self, positions, layer):
        """The keys that the scores of a layer allow. A `score_bias` with parameters must define this itself."""
        return self.score_bias({}, positions, layer) > -math.inf

    def pattern(self, parameters: Parameters, scores: Float[Tensor, "*row key"]) -> Float[Tensor, "*row key"]:
        """Scores to shares of attention."""
        return scores.softmax(-1)

    def shared(self, heads: Heads) -> Heads:
        """Keys or values by head; a variant whose heads share them repeats them here."""
        return heads

    # -- every position -----------------------------------------------------------------------------------------
    def project(self, parameters: Parameters, x: Tensor, gain: Tensor | None, layer: int) -> tuple[Heads, Heads, Heads]:
        """Queries, keys and values of every position, before the position code is applied."""
        return tuple(map(self.split, self.linear(parameters, x, gain)))  # type: ignore[return-value]

    def linear(self, parameters: Parameters, x: Tensor, gain: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The projections to queries, keys and values [batch position width], with biases."""
        query, key = parameters["query"], parameters["key"]
        queries, keys = (x @ scaled(gain, torch.cat([query, key], 1))).split([query.shape[1], key.shape[1]], -1)
        queries, keys = _biased(parameters, "query", queries), _biased(parameters, "key", self._centred(keys))
        return queries, keys, x @ scaled(gain, parameters["value"])

    def everywhere(self, parameters, x, gain, *, layer, positions, roles, point: Point):
        queries, keys, values = self.project(parameters, x, gain, layer)
        queries, keys, values = point("queries", queries), point("keys", keys), point("values", values)
        given = {"layer": layer, "positions": positions, "point": point}
        return self.merge(parameters, point("heads", self.mix(parameters, queries, keys, values, **given)))

    def mix(
        self,
        parameters: Parameters,
        queries: Heads,
        keys: Float[Tensor, "batch group key dimension"],
        values: Float[Tensor, "batch group key dimension"],
        *,
        layer: int,
        positions: Positions,
        rows: slice = slice(None),
        point: Point = unchanged,
    ) -> Heads:
        """Outputs of heads at the positions `rows`, from the queries there and from every key and value."""
        queries, keys = positions.queries(queries, rows), self.shared(positions.keys(keys))
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(self.width // self.heads)
        scores = scores + self.score_bias(parameters, positions, layer)[..., rows, :]
        return point("pattern", self.pattern(parameters, scores)) @ self.shared(values)

    # -- the last position --------------------------------------------------------------------------------------
    def last(self, parameters, x, gain, *, layer, positions, roles):
        """With one query, values need no projection at every position, nor do keys without rotation. The identities are
        sum_j a_j (x_j W_v) = (sum_j a_j x_j) W_v and q.(x_j W_k) = (q W_k').x_j."""
        query, key, value = (scaled(gain, parameters[part]) for part in ("query", "key", "value"))
        last = slice(-1, None)
        queries = positions.queries(self.split(_biased(parameters, "query", x[:, last] @ query)), last)
        if positions.rotates:
            keys = positions.keys(self.split(_biased(parameters, "key", self._centred(x) @ key)))
        else:
            # A bias of the keys would add the same to every score of the only query, which the softmax cancels.
            queries, keys = queries @ self._split_weight(key).transpose(-1, -2), self._centred(x).unsqueeze(1)
        # Multiply and sum instead of a matrix product: with one row the compiler fuses it with its neighbours.
        scores = (queries * keys).sum(-1) / math.sqrt(self.width // self.heads)
        pattern = self.pattern(parameters, scores + self.score_bias(parameters, positions, layer)[:, -1])
        mixed = (pattern.unsqueeze(-1) * x.unsqueeze(1)).sum(-2, keepdim=True)
        return self.merge(parameters, mixed @ self._split_weight(value))

    def _split_weight(self, weight: Float[Tensor, "width width"]) -> Float[Tensor, "head width dimension"]:
        return weight.unflatten(1, (self.heads, -1)).transpose(0, 1)

    def _centred(self, x: Tensor) -> Tensor:
        """The input of the keys. For centred keys its mean is subtracted, which centres every linear map of it."""
        if self.decoder.centre_keys == "off":
            return x
        return x - x.mean((0, 1) if self.decoder.centre_keys == "all" else 0, keepdim=True)


def _biased(parameters: Parameters, part: str, x: Tensor) -> Tensor:
    """Queries or keys with their bias, if the configuration has one."""
    bias = parameters.get(f"{part}_bias")
    return x if bias is None else x + bias
