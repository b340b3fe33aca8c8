"""One mechanism for each layer, each with its own options."""

from __future__ import annotations

from miclab.config.mechanisms import ByLayerOptions
from miclab.config.options import AttentionOptions
from miclab.model.attention.mechanism import Mechanism, attention, mechanism_of


@attention("by_layer")
class ByLayer(Mechanism):
    """Another mechanism in each layer. Parameters have the names that they have in each mechanism alone."""

    Options = ByLayerOptions

    def __init__(self, config, options):
        super().__init__(config, options)
        chosen = self.options.chosen or (AttentionOptions(),) * config.decoder.layers
        self.each = [mechanism_of(config, one) for one in chosen]

    def of_layer(self, layer):
        return self.each[layer]
