"""One mechanism for each layer, each with options of its own."""

from __future__ import annotations

from dataclasses import dataclass

from miclab.config.options import AttentionOptions, option_text
from miclab.errors import ConfigError
from miclab.model.attention.mechanism import Mechanism, attention, mechanism_of


@dataclass(frozen=True, kw_only=True)
class ByLayerOptions(AttentionOptions):
    """Options of `by_layer`."""

    each: tuple[str, ...] = ()
    """The mechanism of each layer, in their order, such as `[smeared, "sliding_window:window=2"]`; empty: softmax in
    all of them."""

    @property
    def chosen(self) -> tuple[AttentionOptions, ...]:
        """The options of each layer's mechanism."""
        return tuple(AttentionOptions.read(text, "decoder.attention.each", None) for text in self.each)

    def check(self, owner):
        super().check(owner)
        for text, options in zip(self.each, self.chosen, strict=True):
            where = f"{owner}.each"
            if options.name == self.name or options.layers:
                raise ConfigError(where, text, "a mechanism of one layer: neither by_layer nor one with `layers`")
            options.check(where)
            if text != option_text(options.name, options):
                # One choice has one hash.
                raise ConfigError(where, text, f"the same as {option_text(options.name, options)!r}")

    def check_shape(self, owner, config):
        if self.layers:
            raise ConfigError(f"{owner}.layers", self.layers, f"empty: {owner}.each says what each layer has")
        if self.each and len(self.each) != config.decoder.layers:
            allowed = f"one mechanism for each of the {config.decoder.layers} layers"
            raise ConfigError(f"{owner}.each", self.each, allowed)
        for options in self.chosen:
            options.check_shape(f"{owner}.each", config)

    def names(self):
        return tuple(dict.fromkeys((self.name, *(options.name for options in self.chosen))))


@attention("by_layer")
class ByLayer(Mechanism):
    """Another mechanism in each layer. Parameters are called as those of each mechanism alone."""

    Options = ByLayerOptions

    def __init__(self, config, options):
        super().__init__(config, options)
        chosen = self.options.chosen or (AttentionOptions(),) * config.decoder.layers
        self.each = [mechanism_of(config, one) for one in chosen]

    def of_layer(self, layer):
        return self.each[layer]
