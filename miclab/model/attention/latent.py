"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1). Keys and values are made from one narrow
vector per token. Positions enter through a separate rotary part."""

from __future__ import annotations

import math

import torch

from miclab.config.mechanisms import LatentOptions
from miclab.model.attention.mechanism import attention, scaled
from miclab.model.attention.softmax import Softmax


@attention("latent")
class Latent(Softmax):
    """Softmax of (q_C . k_C + q_R . k_R) / sqrt(d_C + d_R). The first term is content from the latent vector. The
    second exists under a rotary code alone, and all heads share its key. d_R is d_C, a head's share of the width.
    Queries are not compressed, and the latent vector has no norm of its own."""

    Options = LatentOptions
    heeds = ("rotation", "score_bias")
    axes = dict.fromkeys(("queries", "keys"), "batch head position coded")

    def __init__(self, config, options):
        super().__init__(config, options)
        self.rotates = config.decoder.position_facts.rotates
        self.rank = self.options.rank or max(self.width // 4, 1)

    def shapes(self, layer):
        width, rank = self.width, self.rank
        shapes = {"query": (width, width), "compress": (width, rank), "key": (rank, width), "value": (rank, width)}
        if self.rotates:
            shapes |= {"query_rotary": (width, width), "key_rotary": (width, width // self.heads)}
        return shapes | ({"output": (width, width)} if self.decoder.has_output_projection else {})

    def project(self, parameters, x, gain, layer):
        """Content, followed by the rotated part."""
        latent = x @ scaled(gain, parameters["compress"])
        queries = self.split(x @ scaled(gain, parameters["query"]))
        keys, values = (self.split(latent @ parameters[part]) for part in ("key", "value"))
        if not self.rotates:
            return queries, keys, values
        turned = self.split(x @ scaled(gain, parameters["query_rotary"]))
        shared = (x @ scaled(gain, parameters["key_rotary"])).unsqueeze(1).expand(-1, self.heads, -1, -1)
        return torch.cat([queries, turned], -1), torch.cat([keys, shared], -1), values

    def everywhere(self, parameters, x, gain, *, layer, positions, roles, point):
        queries, keys, values = self.project(parameters, x, gain, layer)
        queries, keys, values = point("queries", queries), point("keys", keys), point("values", values)
        size = queries.shape[-1]
        if self.rotates:
            both = zip((queries, keys), (positions.queries, positions.keys), strict=True)
            parts = [(part.chunk(2, -1), rotate) for part, rotate in both]
            queries, keys = (torch.cat([content, rotate(turned)], -1) for (content, turned), rotate in parts)
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(size)
        pattern = point("pattern", (scores + self.score_bias(parameters, positions, layer)).softmax(-1))
        return self.merge(parameters, point("heads", pattern @ values))
