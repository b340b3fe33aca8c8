"""The decoder: one pre-norm causal transformer, whose heads, depth, width, MLP, norm and positions are configuration.

A decoder is a function of (parameters, batch); parameters are a flat dictionary of tensors. `logits` is the fast path
of training: in the last block only the query's last position is computed. `trace` computes every position, returns
named activations and applies edits that are passed in; it knows no intervention by name. Attention and position codes
are separate classes (`miclab.model.attention`, `miclab.model.positions`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from miclab.config import memory
from miclab.config.run import RunConfig
from miclab.errors import RunError, nearest
from miclab.model.attention.mechanism import Point, Positions, build_attention, unchanged
from miclab.model.encoders import encoder_shapes, initial_encoder
from miclab.model.feed_forward import feed_forward, feed_forward_shapes, initial_feed_forward
from miclab.model.positions import build_positions
from miclab.model.projector import project, projector_shapes
from miclab.seeds import stream
from miclab.worlds.roles import Roles
from miclab.worlds.sequences import Batch, config_roles

Parameters = Mapping[str, Tensor]
Edits = Mapping[str, Callable[[Tensor], Tensor]]
Stream = tuple[int, Float[Tensor, "batch position width"]]
"""A layer, and the residual stream that it reads."""
EPSILON = 1e-5
"""Added to the mean square inside RMSNorm and to the variance inside LayerNorm."""

AXES = {
    **dict.fromkeys(("queries", "keys", "values"), "batch head position dimension"),
    "pattern": "batch head query key",
    "heads": "batch head position dimension",
    "output": "batch position width",
}
"""Axes of the activations of attention. Queries and keys are those before any rotation."""


@dataclass(frozen=True)
class Trace:
    """Logits at the query, and the activations that were requested (see `Decoder.activations`)."""

    logits: Float[Tensor, "batch label"]
    activations: dict[str, Tensor] = field(default_factory=dict)


class Decoder:
    """The model that a configuration describes, for sequences of that configuration's length.

    Arguments:
        config: the run's configuration; `miclab.config.run.with_context` gives one for another length.

    Raises:
        RunError: the run pretrains an encoder.
        ConfigError: the attention mechanism ignores a setting of the configuration.
        TooLargeError: it needs more memory than the machine has.
    """

    def __init__(self, config: RunConfig):
        if config.is_classification:
            raise RunError("This run pretrains an encoder and has no decoder: give one that has seen sequences.")
        memory.check_model(config)
        self.config, self.options = config, config.decoder
        self.width = self.options.residual_width(config.item_width)
        self.positions, self.attention = build_positions(config), build_attention(config)
        length = config.sequence_length
        self.mask = torch.full((length, length), -math.inf).triu(1)
        # A fixed bias is a constant of the compiled step.
        self.fixed_bias = None if self.positions.shapes() else self._score_bias({})
        roles, on = config_roles(config), self.options.token_constant_on
        shown = {"all": torch.ones(length), "labels": roles.is_label.float(), "items": (roles.kind >= 0).float()}[on]
        self.constant_on = shown[:, None]

    def activations(self) -> dict[str, str]:
        """Name and axes of every activation, in the order of the forward pass. Axes of what one mechanism of attention
        alone has are empty here."""
        named = {f"items.{name}": "batch exemplar width" for name in self.config.order}
        named |= {"labels": "batch context width", "embedding": "batch position width"}
        for i, mechanism in enumerate(self.attention):
            axes = {**AXES, **mechanism.axes}
            named |= {f"blocks.{i}.attention.{part}": axes.get(part, "") for part in (*mechanism.points, "output")}
            if self.options.mlp != "none":
                named[f"blocks.{i}.mlp.output"] = "batch position width"
            named[f"blocks.{i}.residual"] = "batch position width"
        return named | {"final": "batch width"}

    @property
    def gives_patterns(self) -> bool:
        """Whether every layer has an attention pattern, `blocks.i.attention.pattern` [batch head query key]."""
        return all(mechanism.gives_pattern for mechanism in self.attention)

    # -- parameters ---------------------------------------------------------------------------------------------
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter; a weight is [input, output], used as `x @ weight`."""
        options, width = self.options, self.width
        norm = {"rmsnorm": ("gain",), "layernorm": ("gain", "bias"), "none": ()}[options.norm]
        shapes: dict[str, tuple[int, ...]] = {}
        if options.input_map == "linear":
            shapes["decoder.input"] = (options.input_width(self.config.item_width), width)
        shapes |= {f"decoder.positions.{name}": shape for name, shape in self.positions.shapes().items()}
        if self.config.sequence.first_token != "none":
            shapes["decoder.first_token"] = (self.config.item_width,)
        if options.token_constant:
            shapes["decoder.constant"] = (width,)
        if self.config.sequence.jitter:
            shapes["decoder.jitter"] = (self.config.sequence.jitter, width)
        for i, block in enumerate(f"decoder.blocks.{i}" for i in range(options.layers)):
            shapes |= {f"{block}.norm1.{part}": (width,) for part in norm}
            shapes |= {f"{block}.attention.{part}": shape for part, shape in self.attention[i].shapes(i).items()}
            mlp = feed_forward_shapes(options, width)
            shapes |= {f"{block}.norm2.{part}": (width,) for part in norm if mlp}
            shapes |= {f"{block}.mlp.{part}": shape for part, shape in mlp.items()}
        shapes |= {f"decoder.norm.{part}": (width,) for part in norm}
        shapes["decoder.readout"] = (width, self.config.label_count)
        return shapes | projector_shapes(self.config) | encoder_shapes(self.config)

    def parameter_count(self) -> int:
        """Number of weights, bridge and encoders included."""
        return sum(math.prod(shape) for shape in self.shapes().values())

    def initial_parameters(self, seed: int) -> dict[str, Tensor]:
        """Initial parameters. Each has its own random stream of the same name.

        Attention (unless the mechanism says otherwise), projectors, input map and readout: Normal(0, initial_std). MLP:
        PyTorch's default, uniform in +-1/sqrt(inputs). Learnt positions, the first token and jitter: norm about 1. The
        constant: exactly the configured norm. Gains 1, biases of norms 0. Encoders: PyTorch's defaults.
        """
        parameters: dict[str, Tensor] = {}
        for name, modality in self.config.modalities.items():
            if self.config.encodes(name):
                parameters |= initial_encoder(modality, name, seed)
        for name, shape in self.shapes().items():
            if name in parameters:
                continue
            parameters[name] = self._initial(name, shape, stream(seed, "parameters", name))
        return parameters

    def _initial(self, name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        part, own = name.split("."), None
        if part[:2] == ["decoder", "positions"]:
            return self.positions.initial(".".join(part[2:]), shape, generator)
        if part[:2] == ["decoder", "blocks"] and part[3] == "attention":
            own = self.attention[int(part[2])].initial(".".join(part[4:]), shape, generator, layer=int(part[2]))
        elif part[:2] == ["decoder", "blocks"] and part[3] == "mlp":
            own = initial_feed_forward(self.options, self.width, ".".join(part[4:]), shape, generator)
        elif part[0] == "decoder" and ".norm" in name:
            own = torch.ones(shape) if name.endswith("gain") else torch.zeros(shape)
        if own is not None:
            return own
        drawn = torch.randn(shape, generator=generator)
        if name == "decoder.constant":
            return drawn * (self.options.token_constant / drawn.norm())
        if name in ("decoder.jitter", "decoder.first_token"):
            return drawn * (1 / math.sqrt(shape[-1]))
        return drawn * self.options.initial_std

    # -- pieces -------------------------------------------------------------------------------------------------
    def norm(self, parameters: Parameters, name: str, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The normalised residual, and the gain that its readers must apply. They fold it into their weights, since a
        product of a weight's size is cheaper than one of the residual's."""
        if self.options.norm == "rmsnorm":
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON), parameters[f"decoder.{name}.gain"]
        if self.options.norm == "layernorm":
            gain, bias = parameters[f"decoder.{name}.gain"], parameters[f"decoder.{name}.bias"]
            return F.layer_norm(x, (self.width,), gain, bias, EPSILON), None
        return x, None

    def _score_bias(self, learnt: Parameters) -> Float[Tensor, "#head position position"]:
        """The bias of scores: the position code's bias, and -inf for keys after the query."""
        bias = self.positions.bias(learnt)
        return self.mask[None] if bias is None else bias + self.mask

    def positions_of(self, parameters: Parameters) -> Positions:
        """The position code with its parameters, as attention gets it."""
        learnt = _own(parameters, "decoder.positions", self.positions.shapes())
        bias = self.fixed_bias if self.fixed_bias is not None else self._score_bias(learnt)
        return Positions(self.positions, bias, learnt)

    def _embed(
        self, parameters: Parameters, batch: Batch, positions: Positions, point: Point
    ) -> Float[Tensor, "batch position width"]:
        """Items through the bridge, labels between them, positions beside or on them, padded to the width."""
        config = self.config
        columns = [
            point(f"items.{name}", project(config, parameters, name, batch.items[name])) for name in config.order
        ]
        # The query has no label; a filler is inserted and cut off.
        columns.append(F.pad(point("labels", batch.label_vectors), (0, 0, 0, 1)))
        tokens = torch.stack(columns, 2).flatten(1, 2)[:, :-1]
        if config.sequence.first_token != "none":
            tokens = torch.cat([parameters["decoder.first_token"].expand(len(tokens), 1, -1), tokens], 1)
        tokens = self.positions.concatenate(tokens, batch.placement)
        if self.options.input_map == "linear":
            tokens = tokens @ parameters["decoder.input"]
        elif tokens.shape[-1] < self.width:
            tokens = F.pad(tokens, (0, self.width - tokens.shape[-1]))
        tokens = self.positions.add(tokens, batch.placement, positions.parameters)
        return self._shift_tokens(parameters, batch, tokens)

    def _shift_tokens(self, parameters: Parameters, batch: Batch, tokens: Tensor) -> Tensor:
        """Tokens with the additions of the configuration beside positions: a constant, jitter, noise."""
        if self.options.token_constant:
            tokens = tokens + self.constant_on * parameters["decoder.constant"]
        if self.config.sequence.jitter:
            drawn = (batch.placement * self.config.sequence.jitter).long()
            tokens = tokens + parameters["decoder.jitter"][drawn][:, None]
        if batch.token_noise is not None:
            tokens = tokens + batch.token_noise[..., : self.width]
        return tokens

    # -- facts for measures -------------------------------------------------------------------------------------
    def visible(self, layer: int) -> Bool[Tensor, "#head query key"]:
        """Whether a query's position may see a key's, in a layer."""
        return self.attention[layer].visible(Positions(self.positions, self.mask[None]), layer)

    def facts(self, layer: int) -> frozenset[str]:
        """Facts about a layer's attention (see `miclab.measures.registry.Measure.assumes`)."""
        return self.attention[layer].facts

    def weight(self, parameters: Parameters, layer: int) -> dict[str, Float[Tensor, " head"]]:
        """The weight by which a layer differs from plain attention, as `weight`; empty if it has none."""
        found = self.attention[layer].weight(self.attention_parameters(parameters, layer), layer)
        return {} if found is None else {"weight": found}

    # -- the two ways to run it ---------------------------------------------------------------------------------
    def logits(self, parameters: Parameters, batch: Batch) -> Float[Tensor, "batch label"]:
        """Logits over the labels at the query, by the least work."""
        return self._run(parameters, batch, unchanged, query_only=True)

    def trace(
        self,
        parameters: Parameters,
        batch: Batch,
        *,
        capture: tuple[str, ...] = (),
        edits: Edits | None = None,
        start: Stream | None = None,
    ) -> Trace:
        """Logits at the query with every position computed.

        Arguments:
            capture: names of activations to return, after their edit; a name may end in `*`.
            edits: for a name, a function from the activation to its replacement.
            start: where to start; earlier activations are neither edited nor captured. None: with the embedding.

        Raises:
            RunError: there is no activation of such a name.
        """
        kept: dict[str, Tensor] = {}
        edits = edits or {}
        wanted = dict.fromkeys(self.named(edits), False) | dict.fromkeys(self.named(capture), True)

        def point(name: str, value: Tensor) -> Tensor:
            if name in edits:
                value = edits[name](value)
            if wanted.get(name):
                kept[name] = value
            return value

        return Trace(self._run(parameters, batch, point, query_only=False, start=start), kept)

    def named(self, names: Iterable[str]) -> list[str]:
        """The activations of names; a name may end in `*`.

        Raises:
            RunError: there is no activation of such a name.
        """
        known, found = self.activations(), []
        for name in names:
            fits = [one for one in known if one == name or (name.endswith("*") and one.startswith(name[:-1]))]
            if not fits:
                raise RunError(f"There is no activation named {name}: {nearest(name, tuple(known))}.")
            found += fits
        return found

    def _run(
        self, parameters: Parameters, batch: Batch, point: Point, query_only: bool, start: Stream | None = None
    ) -> Tensor:
        positions = self.positions_of(parameters)
        first, x = start or (0, point("embedding", self._embed(parameters, batch, positions, point)))
        for i, mechanism in enumerate(self.attention[first:], first):
            name = f"blocks.{i}"
            if query_only and i == self.options.layers - 1:
                normed, gain = self.norm(parameters, f"{name}.norm1", x)
                own = self.attention_parameters(parameters, i)
                given = {"layer": i, "positions": positions, "roles": batch.roles}
                # The residual comes first, since the order of these operations decides the last bits of gradients.
                x = x[:, -1:] + mechanism.last(own, normed, gain, **given)
            else:
                here = partial(_within, point, f"{name}.attention")
                x = x + here("output", self.attend(parameters, i, x, positions, batch.roles, here))
            if self.options.mlp != "none":
                x = x + point(f"{name}.mlp.output", self.feed(parameters, i, x))
            x = point(f"{name}.residual", x)
        return self.read(parameters, x[:, -1], point)

    # -- parts of a block, as functions of the residual stream -----------------------------------------------------
    def attend(
        self,
        parameters: Parameters,
        layer: int,
        x: Tensor,
        positions: Positions,
        roles: Roles,
        point: Point = unchanged,
    ) -> Float[Tensor, "batch position width"]:
        """Output of a layer's attention on the residual stream x [batch position width]; `point` names activations
        without their layer."""
        mechanism = self.attention[layer]
        normed, gain = self.norm(parameters, f"blocks.{layer}.norm1", x)
        own = self.attention_parameters(parameters, layer)
        return mechanism.everywhere(own, normed, gain, layer=layer, positions=positions, roles=roles, point=point)

    def attention_parameters(self, parameters: Parameters, layer: int) -> Parameters:
        """Parameters of a layer's attention, by their names within it."""
        return _own(parameters, f"decoder.blocks.{layer}.attention", self.attention[layer].shapes(layer))

    def feed(self, parameters: Parameters, layer: int, x: Float[Tensor, "*row width"]) -> Float[Tensor, "*row width"]:
        """Output of a layer's MLP on the residual stream after its attention. The decoder must have MLPs."""
        normed, gain = self.norm(parameters, f"blocks.{layer}.norm2", x)
        own = _own(parameters, f"decoder.blocks.{layer}.mlp", feed_forward_shapes(self.options, self.width))
        return feed_forward(self.options, own, normed, gain)

    def read(
        self, parameters: Parameters, x: Float[Tensor, "*row width"], point: Point = unchanged
    ) -> Float[Tensor, "*row label"]:
        """Logits of the residual stream after the last layer."""
        normed, gain = self.norm(parameters, "norm", x)
        final = point("final", normed if gain is None else normed * gain)
        return final @ parameters["decoder.readout"]


def _own(parameters: Parameters, owner: str, names: Iterable[str]) -> dict[str, Tensor]:
    """Parameters of a part, by their names within it."""
    return {name: parameters[f"{owner}.{name}"] for name in names}


def _within(point: Point, owner: str, name: str, value: Tensor) -> Tensor:
    """`point` for the activations of a part, by their names within it."""
    return point(f"{owner}.{name}", value)
