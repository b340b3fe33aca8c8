"""A short causal convolution over queries, keys and values, by channel, as in linear and state-space models. Sources:
Fu et al. 2023, arXiv 2212.14052; Poli et al. 2023, arXiv 2302.10866."""

from __future__ import annotations

import torch

from miclab.config.mechanisms import PARTS, ConvolutionOptions
from miclab.model.attention.mechanism import attention
from miclab.model.attention.share import initial_share, share_of, share_shapes
from miclab.model.attention.softmax import Softmax


@attention("short_convolution")
class ShortConvolution(Softmax):
    """Softmax attention after y_i = (1 - s) x_i + s x_(i - 1) + sum over t from 2 of c_t x_(i - t). The sum is by
    channel, and x is 0 before the first position. The scale of a channel is that of its projection."""

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
    """Heads shifted to later positions, with zeros at the first ones."""
    length = heads.shape[-2]
    return torch.nn.functional.pad(heads, (0, 0, min(back, length), 0))[..., :length, :]
