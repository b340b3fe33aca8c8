"""The decoder's part of a run's configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from miclab.config.checks import check_known, check_number, check_whole
from miclab.config.options import AttentionOptions
from miclab.config.positions import PositionFacts, PositionName, facts, position_text
from miclab.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The causal transformer."""

    layers: int = 2
    """Number of blocks."""
    heads: int = 1
    """Attention heads of each block; divides the width."""
    width: int = 0
    """Width of the residual stream; 0: the width of the input (items, and one-hot positions if any)."""
    input_map: Literal["pad", "linear"] = "pad"
    """Used if the width differs from the input's: zero-pad (nothing learnt) or a learnt linear map."""
    positions: PositionName = "rope"
    """Position code, with any options after a colon, such as `NAME:OPTION=VALUE,OPTION=VALUE`."""
    attention: AttentionOptions = field(default_factory=AttentionOptions)
    """Attention mechanism of the blocks, with any options after a colon, such as `NAME:OPTION=VALUE,OPTION=VALUE`."""
    position_slots: int = 0
    """Slots of an absolute code; each sequence starts at a random one. 0: 65, and 66 for `hybrid`."""
    rope_theta: float = 10000.0
    """Base of the rotary frequencies."""
    mlp: Literal["released", "swiglu", "none"] = "released"
    """`released`: W3 SiLU(W1 x * W2 x) with biases. `swiglu`: W3 (SiLU(W1 x) * W2 x) without."""
    mlp_hidden: int = 0
    """Hidden width of the MLP; 0: the width."""
    norm: Literal["rmsnorm", "layernorm", "none"] = "rmsnorm"
    """Normalisation before attention, before the MLP and before the readout."""
    output_projection: Literal["auto", "on", "off"] = "auto"
    """Projection after attention. `auto`: only with more than one head, as in the released code."""
    initial_std: float = 0.02
    """Standard deviation of the initial attention projections, projectors and readout."""
    placement: Literal["random", "fixed"] = "random"
    """Start of a sequence in the slots of an absolute code: a random slot, or always the first."""
    token_constant: float = 0.0
    """Initial norm of one learnt vector that is added to every token; 0: there is none."""
    token_constant_on: Literal["all", "items", "labels"] = "all"
    """Tokens that the constant is added to."""
    attention_bias: Literal["none", "query", "key", "both"] = "none"
    """Learnt biases of the query and key projections, before any rotation."""
    attention_bias_layers: tuple[int, ...] = ()
    """Layers, from 0, that have these biases; empty: all of them."""
    attention_bias_std: float = 0.02
    """Standard deviation of these biases at the start."""
    centre_keys: Literal["off", "all", "position"] = "off"
    """What is subtracted from keys before any rotation, in training and in evaluation. `all` is their mean over the
    batch and all positions, `position` that over the batch at each position."""
    mlp_bias: Literal["on", "off"] = "on"
    """Biases of the MLP `released`."""

    def check(self, owner: str = "decoder") -> None:
        """Raises ConfigError for faults that need no world to be found."""
        check_whole(owner, self, "layers", 1, 24)
        check_whole(owner, self, "heads", 1, 1024)
        check_whole(owner, self, "width", 0, 65_536)
        check_whole(owner, self, "position_slots", 0, 1_000_000)
        check_whole(owner, self, "mlp_hidden", 0, 1_000_000)
        check_number(owner, self, "rope_theta", 1.0, open_low=True)
        check_number(owner, self, "initial_std", 0.0, 100.0)
        check_known(owner, self, "input_map", ("pad", "linear"))
        text = position_text(self.positions, f"{owner}.positions")
        if text != self.positions:
            # Equal choices have equal hashes.
            raise ConfigError(f"{owner}.positions", self.positions, f"the same as {text!r}")
        check_known(owner, self, "mlp", ("released", "swiglu", "none"))
        check_known(owner, self, "norm", ("rmsnorm", "layernorm", "none"))
        check_known(owner, self, "output_projection", ("auto", "on", "off"))
        check_known(owner, self, "placement", ("random", "fixed"))
        check_known(owner, self, "token_constant_on", ("all", "items", "labels"))
        check_known(owner, self, "attention_bias", ("none", "query", "key", "both"))
        check_known(owner, self, "centre_keys", ("off", "all", "position"))
        check_known(owner, self, "mlp_bias", ("on", "off"))
        check_number(owner, self, "token_constant", 0.0, 1e6)
        check_number(owner, self, "attention_bias_std", 0.0, 100.0)
        self._check_constants(owner)
        self._check_attention(f"{owner}.attention")

    def _check_attention(self, owner: str) -> None:
        """Raises ConfigError for an unknown mechanism, its wrong options, or layers that do not exist."""
        if not isinstance(self.attention, AttentionOptions):
            raise ConfigError(owner, self.attention, "an instance of AttentionOptions or of a mechanism's own options")
        self.attention.check(owner)
        self._check_layers(f"{owner}.layers", self.attention.layers)

    def _check_layers(self, field: str, layers: tuple[int, ...]) -> None:
        if len(set(layers)) < len(layers) or any(type(i) is not int or not 0 <= i < self.layers for i in layers):
            raise ConfigError(field, layers, f"layers from 0 to {self.layers - 1}, each once")

    def _check_constants(self, owner: str) -> None:
        """Raises ConfigError for constants and biases without effect, or on layers that do not exist."""
        layers = self.attention_bias_layers
        self._check_layers(f"{owner}.attention_bias_layers", layers)
        if layers and self.attention_bias == "none":
            raise ConfigError(f"{owner}.attention_bias_layers", layers, f"empty without {owner}.attention_bias")
        if self.token_constant_on != "all" and not self.token_constant:
            allowed = f"'all' without {owner}.token_constant"
            raise ConfigError(f"{owner}.token_constant_on", self.token_constant_on, allowed)
        if self.centre_keys != "off" and self.attention_bias in ("key", "both"):
            allowed = f"'off' with {owner}.attention_bias = {self.attention_bias!r}: centring takes a key's bias away"
            raise ConfigError(f"{owner}.centre_keys", self.centre_keys, allowed)
        if self.placement == "fixed" and not self.position_facts.slots:
            allowed = f"'random' with {owner}.positions = {self.positions!r}: only an absolute code has slots"
            raise ConfigError(f"{owner}.placement", self.placement, allowed)
        if self.mlp_bias == "off" and self.mlp != "released":
            raise ConfigError(f"{owner}.mlp_bias", "off", f"'on' with {owner}.mlp = {self.mlp!r}, which has none")

    def biased(self, layer: int) -> tuple[str, ...]:
        """Those of the projections `query` and `key` that have a bias in a layer, from 0."""
        if self.attention_bias == "none" or (self.attention_bias_layers and layer not in self.attention_bias_layers):
            return ()
        return ("query", "key") if self.attention_bias == "both" else (self.attention_bias,)

    @property
    def position_facts(self) -> PositionFacts:
        """Facts about the position code."""
        return facts(self.positions)

    @property
    def position_name(self) -> str:
        """Name of the position code."""
        return self.positions.partition(":")[0]

    @property
    def slots(self) -> int:
        """Slots of an absolute position code."""
        return self.position_slots or (66 if self.positions == "hybrid" else 65)

    def input_width(self, item_width: int) -> int:
        """Width of a token before it enters the residual stream: item and concatenated position."""
        return item_width + (self.slots if self.position_facts.beside else 0)

    def residual_width(self, item_width: int) -> int:
        """Width of the residual stream."""
        return self.width or self.input_width(item_width)

    @property
    def has_output_projection(self) -> bool:
        """Whether attention ends with a projection."""
        return self.output_projection == "on" or (self.output_projection == "auto" and self.heads > 1)
