"""A short causal convolution over queries, keys and values, each channel by itself, as linear and state-space models
have it (Fu et al. 2023, arXiv 2212.14052; Poli et al. 2023, arXiv 2302.10866)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from miclab.config.checks import check_known, check_whole
from miclab.model.attention.mechanism import attention
from miclab.model.attention.share import ShareOptions, initial_share, share_of, share_shapes
from miclab.model.attention.softmax import Softmax

PARTS = {"queries": "query", "keys": "key", "values": "value"}


@dataclass(frozen=True, kw_only=True)
class ConvolutionOptions(ShareOptions):
    """Options of `short_convolution`. The weight is that of the position before, one for each channel; that of the
    position itself is 1 minus it. Positions farther back begin with 0 and are learnt, unless the weight is frozen."""

    width: int = 3
    """Positions that a kernel spans: the position itself and those right before it."""
    on: Literal["all", "queries", "keys", "values"] = "all"
    """What is convolved."""

    def check(self, owner):
        super().check(owner)
        check_whole(owner, self, "width", 2, 1024)
        check_known(owner, self, "on", ("all", *PARTS))


@attention("short_convolution")
class ShortConvolution(Softmax):
    """Softmax attention after y_i = (1 - s) x_i + s x_(i - 1) + sum over t from 2 of c_t x_(i - t), by channel; before
    the first position there is 0. The scale of a channel is that of its projection."""

    Options = ConvolutionOptions

    def __init__(self, config, options):
        super().__init__(config, options)
        self.parts = [part for name, part in PARTS.items() if self.options.on in ("all", name)]

    def shapes(self, layer):
        shapes = super().shapes(layer) | share_shapes(self.options, len(self.parts), self.width)
        learns_more = self.options.share != "frozen" and self.options.width > 2
        taps = {"taps": (self.options.width - 2, len(self.parts), self.width)}
        return shapes | (taps if learns_more else {})

    def initial(self, name, shape, generator, *, layer):
        if name == "share":
            return initial_share(self.options, shape)
        return torch.zeros(shape) if name == "taps" else super().initial(name, shape, generator, layer=layer)

    def weight(self, parameters, layer):
        return self._share(parameters).unflatten(-1, (self.heads, -1)).mean((0, -1))

    def _share(self, parameters):
        return share_of(self.options, parameters, len(self.parts), self.width, like=parameters["value"])

    def project(self, parameters, x, gain, layer):
        found = dict(zip(PARTS.values(), super().project(parameters, x, gain, layer), strict=True))
        share, farther = self._share(parameters), parameters.get("taps")
        for i, part in enumerate(self.parts):
            taps = [1 - share[i], share[i], *(() if farther is None else farther[:, i])]
            moved = [_later(found[part], back) * tap.unflatten(0, (self.heads, 1, -1)) for back, tap in enumerate(taps)]
            found[part] = torch.stack(moved).sum(0)
        return found["query"], found["key"], found["value"]


def _later(heads, back):
    """Heads moved to later positions, with zeros where nothing has stood."""
    length = heads.shape[-2]
    return torch.nn.functional.pad(heads, (0, 0, min(back, length), 0))[..., :length, :]
