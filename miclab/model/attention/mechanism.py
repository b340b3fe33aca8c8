"""Attention mechanisms: the interface, its decorator, and its arguments.

A mechanism defines the parameters of a layer and computes attention at every position. `last`, the query's position
alone, is the fast path of the last layer in training; by default it is the last row of `everywhere`.

Shapes: x [batch position width] is the residual stream after normalisation. It lacks the norm's gain: if `gain` is not
None, the input is x * gain. Folding the gain into a weight (`scaled`) is cheaper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from miclab.config.decoder import DecoderConfig
from miclab.config.options import ATTENTION, AttentionOptions
from miclab.config.run import RunConfig
from miclab.errors import ConfigError
from miclab.model.positions import Coded, Heads, PositionCode, build_positions
from miclab.worlds.roles import Roles

Parameters = Mapping[str, Tensor]
"""Parameters of one layer's attention, by the names in `Mechanism.shapes`."""
Point = Callable[[str, Tensor], Tensor]
"""Names an activation and returns its replacement: `heads = point("heads", heads)`."""
Residual = Float[Tensor, "batch position width"]
Gain = Float[Tensor, " width"] | None
Kind = TypeVar("Kind", bound="type[Mechanism]")


@dataclass(frozen=True)
class Positions:
    """The position code of a forward pass, with its parameters.

    Arguments:
        code: the code.
        score_bias: added to scores [head query key], -inf for keys after the query.
        parameters: of the code.
    """

    code: PositionCode
    score_bias: Float[Tensor, "#head position position"]
    parameters: Parameters = field(default_factory=dict)

    @property
    def rotates(self) -> bool:
        """Whether `queries` or `keys` change their input."""
        return self.code.rotates

    def queries(self, heads: Heads, rows: slice = slice(None)) -> Coded:
        """Queries of the positions `rows` with their code applied."""
        return self.code.queries(heads, rows, self.parameters)

    def keys(self, heads: Heads, rows: slice = slice(None)) -> Coded:
        """Keys of the positions `rows` with their code applied."""
        return self.code.keys(heads, rows, self.parameters)


class Mechanism:
    """The interface of attention mechanisms. `shapes` and `everywhere` must be defined.

    Arguments:
        config: the run's configuration.
        options: the mechanism's own options, an instance of `Options`.
    """

    Options: type[AttentionOptions] = AttentionOptions
    """Dataclass of the mechanism's options; a subclass of `AttentionOptions` if it has any."""
    points: tuple[str, ...] = ("heads",)
    """Activations that `everywhere` names. Every mechanism names `heads` [batch head position dimension], the output of
    every head before they are joined, so that heads can be knocked out. A mechanism with a `pattern` [batch head query
    key], whose rows are shares of attention, names it too. Without it no measure of attention is taken."""
    heeds: tuple[str, ...] = ()
    """What the mechanism supports, so that no option is ignored in silence. `rotation`: it passes queries and keys
    through `positions`. `score_bias`: it adds `positions.score_bias` to scores. `centre_keys`: it centres keys."""
    facts: frozenset[str] = frozenset()
    """Facts about the pattern that measures may rely on: `softmax`, if no weight is negative and each row sums to 1."""
    axes: Mapping[str, str] = {}
    """Axes of activations that differ from the usual ones (`miclab.model.decoder.AXES`), by the names in `points`."""
    followed: tuple[str, ...] = ("everywhere",)
    """Methods that `last` relies on. A subclass that overrides one gets the slow `last`, unless it overrides that as
    well."""

    def __init_subclass__(cls) -> None:
        if "last" not in cls.__dict__ and any(name in cls.__dict__ for name in cls.followed):
            cls.last = Mechanism.last

    def __init__(self, config: RunConfig, options: AttentionOptions):
        self.decoder: Any = config.decoder
        self.options: Any = options
        self.length, self.heads = config.sequence_length, config.decoder.heads
        self.width = config.decoder.residual_width(config.item_width)

    @property
    def gives_pattern(self) -> bool:
        """Whether there is an attention pattern."""
        return "pattern" in self.points

    def shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter of a layer, from 0; a weight is [input, output], used as `x @ weight`.
        Their full names are `decoder.blocks.LAYER.attention.NAME`."""
        raise NotImplementedError

    def initial(self, name: str, shape: tuple[int, ...], generator: torch.Generator, *, layer: int) -> Tensor | None:
        """Initial value of a parameter; None: Normal(0, initial_std)."""
        return None

    def of_layer(self, layer: int) -> Mechanism:
        """The mechanism of a layer. It differs by layer if a decoder combines several."""
        return self

    def weight(self, parameters: Parameters, layer: int) -> Float[Tensor, " head"] | None:
        """The weight by which the mechanism differs from plain attention, by head, for the measure `learnt_weight`.
        None if it has none."""
        return None

    def everywhere(
        self,
        parameters: Parameters,
        x: Residual,
        gain: Gain,
        *,
        layer: int,
        positions: Positions,
        roles: Roles,
        point: Point,
    ) -> Residual:
        """Attention at every position. No position may see later ones."""
        raise NotImplementedError

    def last(
        self, parameters: Parameters, x: Residual, gain: Gain, *, layer: int, positions: Positions, roles: Roles
    ) -> Float[Tensor, "batch 1 width"]:
        """Attention at the last position alone: the last row of `everywhere`."""
        given = {"layer": layer, "positions": positions, "roles": roles}
        return self.everywhere(parameters, x, gain, **given, point=unchanged)[:, -1:]

    def visible(self, positions: Positions, layer: int) -> Bool[Tensor, "#head query key"]:
        """Whether a query's position may see a key's. By default every position sees itself and all before it.

        Arguments:
            positions: the position code; its `score_bias` holds the causal mask alone.
        """
        return positions.score_bias > -math.inf

    # -- pieces -------------------------------------------------------------------------------------------------
    def split(self, x: Float[Tensor, "batch row width"]) -> Heads:
        """The heads' shares of a projection."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def merge(self, parameters: Parameters, heads: Heads) -> Float[Tensor, "batch row width"]:
        """Heads beside each other, through the parameter `output` if there is one."""
        merged = heads.transpose(1, 2).flatten(2)
        output = parameters.get("output")
        return merged if output is None else merged @ output


def attention(name: str) -> Callable[[Kind], Kind]:
    """A decorator that registers a mechanism, so that `decoder.attention` takes `name`.

    Raises:
        MiclabError: the name is not a plain word, or is taken.
    """
    return ATTENTION.register(name)


def build_attention(config: RunConfig) -> list[Mechanism]:
    """The mechanism of each layer.

    Raises:
        ConfigError: a mechanism ignores a setting of the configuration.
    """
    options = config.decoder.attention
    chosen = mechanism_of(config, options)
    usual = mechanism_of(config, AttentionOptions()) if options.layers else chosen
    mechanisms = [(chosen if options.uses(i) else usual).of_layer(i) for i in range(config.decoder.layers)]
    positions = build_positions(config)
    for i, mechanism in enumerate(mechanisms):
        _check_heeded(config.decoder, positions, mechanism, i)
    return mechanisms


def mechanism_of(config: RunConfig, options: AttentionOptions) -> Mechanism:
    """A mechanism by its options."""
    return ATTENTION.find(options.name)(config, options)


def _check_heeded(decoder: DecoderConfig, positions: PositionCode, mechanism: Mechanism, layer: int) -> None:
    """Raises ConfigError for a setting that a mechanism ignores."""
    here = f"with decoder.attention = {mechanism.options.name!r}"
    if any(f"{part}_bias" not in mechanism.shapes(layer) for part in decoder.biased(layer)):
        raise ConfigError("decoder.attention_bias", decoder.attention_bias, f"'none' {here}, which has no such bias")
    if decoder.centre_keys != "off" and "centre_keys" not in mechanism.heeds:
        raise ConfigError("decoder.centre_keys", decoder.centre_keys, f"'off' {here}, which centres no keys")
    if positions.rotates and "rotation" not in mechanism.heeds:
        allowed = f"a code that leaves queries and keys alone {here}, which does not heed `rotation`"
        raise ConfigError("decoder.positions", decoder.positions, allowed)
    if type(positions).bias is not PositionCode.bias and "score_bias" not in mechanism.heeds:
        allowed = f"a code that adds nothing to scores {here}, which does not heed `score_bias`"
        raise ConfigError("decoder.positions", decoder.positions, allowed)


def scaled(gain: Float[Tensor, " input"] | None, weight: Float[Tensor, "input output"]) -> Tensor:
    """A weight whose input carries a gain: (x * gain) @ W = x @ (gain * W)."""
    return weight if gain is None else gain[:, None] * weight


def unchanged(name: str, value: Tensor) -> Tensor:
    """A `Point` that records and changes nothing."""
    return value
