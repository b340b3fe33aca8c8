"""Options of the package's own attention mechanisms, so that a configuration is checked without torch.

The mechanisms themselves are in `miclab.model.attention`. Extensions keep their options beside their mechanism.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from miclab.config.checks import check_divides, check_known, check_number, check_whole
from miclab.config.options import SOFTMAX, AttentionOptions, option_text
from miclab.errors import ConfigError

BY_DEPTH = -1.0
"""Value of `start` of `differential` that selects a start by layer."""
PARTS = {"queries": "query", "keys": "key", "values": "value"}
"""Parts that `short_convolution` can convolve, and the projection of each."""


@dataclass(frozen=True, kw_only=True)
class ShareOptions(AttentionOptions):
    """Options of a mechanism with an initial weight."""

    start: float = 0.5
    """The weight at first."""
    share: Literal["bounded", "free", "frozen"] = "bounded"
    """`bounded`: learnt, and kept between 0 and 1 by a sigmoid. `free`: learnt, any number. `frozen`: never changes."""

    kinds: ClassVar[tuple[str, ...]] = ("bounded", "free", "frozen")
    """Values of `share` that make sense for the mechanism."""
    by_layer: ClassVar[float | None] = None
    """The value of `start` that selects a start by layer, if there is one."""

    def check(self, owner: str) -> None:
        """Raises ConfigError for impossible values."""
        super().check(owner)
        check_known(owner, self, "share", self.kinds)
        check_number(owner, self, "start", -1e6, 1e6)
        if self.share == "bounded" and self.start != self.by_layer and not 0 < self.start < 1:
            allowed = f"a number between 0 and 1 with {owner}.share = 'bounded', or {owner}.share = 'free' or 'frozen'"
            raise ConfigError(f"{owner}.start", self.start, allowed)


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
                # Equal choices have equal hashes.
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


@dataclass(frozen=True, kw_only=True)
class DifferentialOptions(ShareOptions):
    """Options of `differential`. The weight is lambda, the factor of the second softmax."""

    start: float = BY_DEPTH
    """Lambda at first; -1: 0.8 - 0.6 exp(-0.3 layer), layers from 0, as in the paper."""
    share: str = "vectors"  # type: ignore[assignment]
    """`vectors`: exp(q1 . k1) - exp(q2 . k2) + start with four learnt vectors, as in the paper. `bounded`, `free` and
    `frozen`: one number for each head."""

    kinds: ClassVar[tuple[str, ...]] = ("vectors", "bounded", "free", "frozen")
    by_layer: ClassVar[float | None] = BY_DEPTH

    def check_shape(self, owner, config):
        """Raises ConfigError for heads that cannot be halved."""
        decoder = config.decoder
        head = decoder.residual_width(config.item_width) // decoder.heads
        parts = 4 if decoder.position_facts.rotates else 2
        if head % parts:
            allowed = f"heads whose width is a multiple of {parts}, which {head} is not with 'differential'"
            raise ConfigError("decoder.heads", decoder.heads, allowed)


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


@dataclass(frozen=True, kw_only=True)
class DeltaOptions(AttentionOptions):
    """Options of `gated_delta`. The weight is the share of the state that decays at each step."""

    start: float = 0.02
    """The share at first, of a token whose features are 0."""
    gate: Literal["input", "frozen"] = "input"
    """`input`: a = exp(-e^A softplus(w . x + b)), as in the paper. `frozen`: it never changes."""
    convolution: int = 0
    """Positions that a convolution over queries, keys and values spans, each channel by itself, with SiLU after it; 0:
    there is none. The paper has 4."""

    def check(self, owner):
        super().check(owner)
        check_known(owner, self, "gate", ("input", "frozen"))
        check_number(owner, self, "start", 0.0, 0.999, open_low=self.gate == "input")
        check_whole(owner, self, "convolution", 0, 1024)


@dataclass(frozen=True, kw_only=True)
class GroupOptions(AttentionOptions):
    """Options of `grouped_query`."""

    groups: int = 1
    """Groups of heads, each with one key and one value; divides the number of heads."""

    def check(self, owner):
        super().check(owner)
        check_whole(owner, self, "groups", 1, 1024)

    def check_shape(self, owner, config):
        check_divides(owner, self, "groups", "decoder.heads", config.decoder.heads)


@dataclass(frozen=True, kw_only=True)
class LatentOptions(AttentionOptions):
    """Options of `latent`."""

    rank: int = 0
    """Width of the vector that keys and values are made from; 0: a quarter of the residual stream's."""

    def check(self, owner):
        super().check(owner)
        check_whole(owner, self, "rank", 0, 65_536)

    def check_shape(self, owner, config):
        width = config.decoder.residual_width(config.item_width)
        if self.rank > width:
            raise ConfigError(f"{owner}.rank", self.rank, f"at most the width of the residual stream, {width}")


@dataclass(frozen=True, kw_only=True)
class MultiTokenOptions(ShareOptions):
    """Options of `multi_token`. The weight is the kernel's entry for the same query and the previous key, one for each
    head. It passes the score of the previous key on to a key. The other entries begin with that of the identity, and
    are learnt unless the weight is frozen."""

    start: float = 0.0
    """The weight at first; 0: the kernel begins as the identity, as in the paper."""
    share: str = "free"  # type: ignore[assignment]
    """`bounded`, `free` or `frozen`, as for every mechanism with an initial weight."""
    queries: int = 6
    """Queries that the kernel spans: the query itself and those right before it."""
    keys: int = 11
    """Keys that the kernel spans: about as many after a key as before it."""
    mixed: int = 1
    """Heads in a group whose weights are mixed after the softmax; 1: none are."""

    def check(self, owner):
        super().check(owner)
        check_whole(owner, self, "queries", 1, 1024)
        check_whole(owner, self, "keys", 3, 1024)
        check_whole(owner, self, "mixed", 1, 1024)

    def check_shape(self, owner, config):
        check_divides(owner, self, "mixed", "decoder.heads", config.decoder.heads)


@dataclass(frozen=True, kw_only=True)
class NormOptions(ShareOptions):
    """Options of `qk_norm`. The weight is every entry of the gains, which the heads of a layer share."""

    start: float = 1.0
    """The gains at first."""
    share: str = "free"  # type: ignore[assignment]
    """`free`: the gains are learnt. `frozen`: they never change."""

    kinds: ClassVar[tuple[str, ...]] = ("free", "frozen")


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


@dataclass(frozen=True, kw_only=True)
class SinkOptions(ShareOptions):
    """Options of `sink`. The weight is the sink's logit, one for each head."""

    start: float = 0.0
    """The logit at first. `sink:share=frozen` is softmax off by one."""
    share: str = "free"  # type: ignore[assignment]
    """`free`: the logit is learnt. `frozen`: it never changes."""

    kinds: ClassVar[tuple[str, ...]] = ("free", "frozen")


@dataclass(frozen=True, kw_only=True)
class WindowOptions(AttentionOptions):
    """Options of `sliding_window`."""

    window: int = 3
    """Positions that a query sees: its own and those right before it."""

    def check(self, owner):
        super().check(owner)
        check_whole(owner, self, "window", 1, 100_000)


@dataclass(frozen=True, kw_only=True)
class SmearedOptions(ShareOptions):
    """Options of `smeared`. The weight is the share of the earlier position, one for each head."""

    on: Literal["keys", "values", "both", "all"] = "keys"
    """What is mixed: keys, values, `both` of them, or `all`: queries too, which is a token shift."""
    back: int = 1
    """Distance of the earlier position."""

    def check(self, owner):
        super().check(owner)
        check_known(owner, self, "on", ("keys", "values", "both", "all"))
        check_whole(owner, self, "back", 1, 100_000)

    def check_shape(self, owner, config):
        if self.back >= config.sequence_length:
            raise ConfigError(f"{owner}.back", self.back, f"less than a sequence's {config.sequence_length} positions")


OPTIONS: dict[str, type[AttentionOptions]] = {
    SOFTMAX: AttentionOptions,
    "by_layer": ByLayerOptions,
    "differential": DifferentialOptions,
    "forgetting": ForgettingOptions,
    "gated_delta": DeltaOptions,
    "grouped_query": GroupOptions,
    "latent": LatentOptions,
    "linear": AttentionOptions,
    "multi_query": AttentionOptions,
    "multi_token": MultiTokenOptions,
    "previous_token": AttentionOptions,
    "qk_norm": NormOptions,
    "short_convolution": ConvolutionOptions,
    "sink": SinkOptions,
    "sliding_window": WindowOptions,
    "smeared": SmearedOptions,
}
"""The options of each mechanism of the package, by its name."""
