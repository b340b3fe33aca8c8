"""The decoder: one pre-norm causal transformer, whose heads, depth, width, MLP, norm and positions are configuration.

A decoder is a function of (parameters, batch); parameters are a flat dictionary of tensors. `logits` is the fast path
of training: in the last block only the query's last position is computed. `trace` computes every position, returns
named activations and applies edits that are passed in; it knows no intervention by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from miclab.config.run import RunConfig
from miclab.errors import RunError
from miclab.model.encoders import encoder_shapes, initial_encoder
from miclab.model.positions import position_code
from miclab.model.projector import project, projector_shapes
from miclab.seeds import stream
from miclab.worlds.sequences import Batch, config_roles

Parameters = Mapping[str, Tensor]
Edits = Mapping[str, Callable[[Tensor], Tensor]]
EPSILON = 1e-5
"""Added to the mean square inside RMSNorm and to the variance inside LayerNorm."""


@dataclass(frozen=True)
class Trace:
    """Logits at the query and the activations that were asked for.

    Names, for block i: `items.<modality>` [batch, exemplar, width], `labels` [batch, context, width], `embedding`
    [batch, position, width], `blocks.i.attention.pattern` [batch, head, position, position],
    `blocks.i.attention.heads` [batch, head, position, dimension], `blocks.i.attention.output`, `blocks.i.mlp.output`
    and `blocks.i.residual` [batch, position, width], `final` [batch, width].
    """

    logits: Float[Tensor, "batch label"]
    activations: dict[str, Tensor] = field(default_factory=dict)


class Decoder:
    """The model that a configuration describes, for sequences of that configuration's length.

    Arguments:
        config: the run's configuration; `miclab.worlds.splits.with_context` gives one for another length.

    Raises:
        RunError: the run pretrains an encoder.
    """

    def __init__(self, config: RunConfig):
        if config.is_classification:
            raise RunError("This run pretrains an encoder and has no decoder: give one that has seen sequences.")
        self.config, self.options = config, config.decoder
        self.width = self.options.residual_width(config.item_width)
        self.heads = self.options.heads
        self.positions = position_code(config)
        length = config.sequence_length
        mask = torch.full((length, length), -math.inf).triu(1)
        bias = self.positions.bias()
        self.score_bias = mask[None] if bias is None else bias + mask
        roles, on = config_roles(config), self.options.token_constant_on
        shown = {"all": torch.ones(length), "labels": roles.is_label.float(), "items": (roles.kind >= 0).float()}[on]
        self.constant_on = shown[:, None]

    # -- parameters ---------------------------------------------------------------------------------------------
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter; a weight is [input, output], used as `x @ weight`."""
        options, width = self.options, self.width
        hidden = options.mlp_hidden or width
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
            shapes |= {f"{block}.attention.{part}": (width, width) for part in ("query", "key", "value")}
            shapes |= {f"{block}.attention.{part}_bias": (width,) for part in options.biased(i)}
            if options.has_output_projection:
                shapes[f"{block}.attention.output"] = (width, width)
            if options.mlp == "none":
                continue
            shapes |= {f"{block}.norm2.{part}": (width,) for part in norm}
            for part, shape in (
                ("gate", (width, hidden)),
                ("value", (width, hidden)),
                ("out", (hidden, width)),
            ):
                shapes[f"{block}.mlp.{part}.weight"] = shape
                if options.mlp == "released" and options.mlp_bias == "on":
                    shapes[f"{block}.mlp.{part}.bias"] = shape[1:]
        shapes |= {f"decoder.norm.{part}": (width,) for part in norm}
        shapes["decoder.readout"] = (width, self.config.label_count)
        return shapes | projector_shapes(self.config) | encoder_shapes(self.config)

    def parameter_count(self) -> int:
        """Number of weights, bridge and encoders included."""
        return sum(math.prod(shape) for shape in self.shapes().values())

    def initial_parameters(self, seed: int) -> dict[str, Tensor]:
        """Fresh parameters; each has a random stream of its own, named like it.

        Attention, projectors, input map and readout: Normal(0, initial_std). MLP: PyTorch's default, uniform in
        +-1/sqrt(inputs). Learnt positions, the first token and jitter: norm about 1. The constant: of exactly the norm
        that is configured. Biases of queries and keys: Normal(0, attention_bias_std). Gains 1, biases of norms 0.
        Encoders: PyTorch's own.
        """
        parameters: dict[str, Tensor] = {}
        for name, modality in self.config.modalities.items():
            if self.config.encodes(name):
                parameters |= initial_encoder(modality, name, seed)
        for name, shape in self.shapes().items():
            if name in parameters:
                continue
            generator = stream(seed, "parameters", name)
            if ".mlp." in name:
                inputs = self.width if ".out." not in name else (self.options.mlp_hidden or self.width)
                parameters[name] = (torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(inputs)
            elif ".norm" in name:
                parameters[name] = torch.ones(shape) if name.endswith("gain") else torch.zeros(shape)
            else:
                drawn = torch.randn(shape, generator=generator)
                parameters[name] = drawn * self._initial_std(name)
                if name == "decoder.constant":
                    parameters[name] = drawn * (self.options.token_constant / drawn.norm())
        return parameters

    def _initial_std(self, name: str) -> float:
        if ".positions." in name or name == "decoder.jitter":
            return 1 / math.sqrt(self.width)
        if name == "decoder.first_token":
            return 1 / math.sqrt(self.config.item_width)
        return self.options.attention_bias_std if name.endswith("_bias") else self.options.initial_std

    # -- pieces -------------------------------------------------------------------------------------------------
    def _norm(self, parameters: Parameters, name: str, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The normalised residual, and the gain that its readers owe it: folded into their weights, where it costs a
        product of a weight's size instead of one of the residual's."""
        if self.options.norm == "rmsnorm":
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON), parameters[f"decoder.{name}.gain"]
        if self.options.norm == "layernorm":
            gain, bias = parameters[f"decoder.{name}.gain"], parameters[f"decoder.{name}.bias"]
            return F.layer_norm(x, (self.width,), gain, bias, EPSILON), None
        return x, None

    def _mlp(self, parameters: Parameters, name: str, x: Tensor, gain: Tensor | None) -> Tensor:
        weights = [parameters[f"decoder.{name}.{part}.weight"] for part in ("gate", "value", "out")]
        both = x @ _scaled(gain, torch.cat(weights[:2], 1))
        if self.options.mlp == "swiglu":
            gate, value = both.chunk(2, -1)
            return (F.silu(gate) * value) @ weights[2]
        if self.options.mlp_bias == "off":
            gate, value = both.chunk(2, -1)
            return F.silu(gate * value) @ weights[2]
        biases = [parameters[f"decoder.{name}.{part}.bias"] for part in ("gate", "value", "out")]
        gate, value = _shifted(both, torch.cat(biases[:2])).chunk(2, -1)
        return _shifted(F.silu(gate * value) @ weights[2], biases[2])

    def _split(self, x: Float[Tensor, "batch row width"]) -> Float[Tensor, "batch head row dimension"]:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _split_weight(self, weight: Float[Tensor, "width width"]) -> Float[Tensor, "head width dimension"]:
        return weight.unflatten(1, (self.heads, -1)).transpose(0, 1)

    def _biased(self, parameters: Parameters, name: str, part: str, x: Tensor) -> Tensor:
        """Queries or keys with their bias, where the configuration gives them one."""
        bias = parameters.get(f"decoder.{name}.{part}_bias")
        return x if bias is None else x + bias

    def _centred(self, x: Tensor) -> Tensor:
        """What keys are made of: less its mean where they are centred, which centres every linear map of it."""
        if self.options.centre_keys == "off":
            return x
        return x - x.mean((0, 1) if self.options.centre_keys == "all" else 0, keepdim=True)

    def _merge(self, parameters: Parameters, name: str, heads: Float[Tensor, "batch head row dimension"]) -> Tensor:
        merged = heads.transpose(1, 2).flatten(2)
        output = parameters.get(f"decoder.{name}.output")
        return merged if output is None else merged @ output

    def _attend_query(
        self, parameters: Parameters, name: str, x: Tensor, gain: Tensor | None
    ) -> Float[Tensor, "batch 1 width"]:
        """Attention of the last position alone. As there is one query, values (and keys, where nothing is rotated)
        need no projection at every position: sum_j a_j (x_j W_v) = (sum_j a_j x_j) W_v, q.(x_j W_k) = (q W_k').x_j."""
        query, key, value = (_scaled(gain, parameters[f"decoder.{name}.{part}"]) for part in ("query", "key", "value"))
        last = slice(-1, None)
        queries = self._biased(parameters, name, "query", x[:, last] @ query)
        queries = self.positions.rotate(self._split(queries), last)
        if self.positions.rotates:
            keys = self._biased(parameters, name, "key", self._centred(x) @ key)
            keys = self.positions.rotate(self._split(keys), slice(None))
        else:
            # A bias of the keys would add the same to every score of the one query, which the softmax takes away.
            queries, keys = queries @ self._split_weight(key).transpose(-1, -2), self._centred(x).unsqueeze(1)
        # Multiply and sum, not a product of matrices: with one row the compiler fuses it with what stands around it.
        scores = (queries * keys).sum(-1) / math.sqrt(self.width // self.heads)
        pattern = (scores + self.score_bias[:, -1]).softmax(-1)
        pooled = (pattern.unsqueeze(-1) * x.unsqueeze(1)).sum(-2, keepdim=True)
        return self._merge(parameters, name, pooled @ self._split_weight(value))

    def _attend_all(
        self, parameters: Parameters, name: str, x: Tensor, gain: Tensor | None, point: Callable
    ) -> Float[Tensor, "batch position width"]:
        both = torch.cat([parameters[f"decoder.{name}.{part}"] for part in ("query", "key")], 1)
        queries, keys = (x @ _scaled(gain, both)).chunk(2, -1)
        queries = self._split(self._biased(parameters, name, "query", queries))
        keys = self._split(self._biased(parameters, name, "key", self._centred(keys)))
        values = self._split(x @ _scaled(gain, parameters[f"decoder.{name}.value"]))
        everywhere = slice(None)
        queries, keys = self.positions.rotate(queries, everywhere), self.positions.rotate(keys, everywhere)
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(self.width // self.heads)
        pattern = point(f"{name}.pattern", (scores + self.score_bias).softmax(-1))
        heads = point(f"{name}.heads", pattern @ values)
        return point(f"{name}.output", self._merge(parameters, name, heads))

    def _embed(self, parameters: Parameters, batch: Batch, point: Callable) -> Float[Tensor, "batch position width"]:
        """Items through the bridge, labels between them, positions beside or on them, padded to the width."""
        config = self.config
        columns = [
            point(f"items.{name}", project(config, parameters, name, batch.items[name])) for name in config.order
        ]
        # The query has no label: a filler takes its place and is cut off.
        columns.append(F.pad(point("labels", batch.label_vectors), (0, 0, 0, 1)))
        tokens = torch.stack(columns, 2).flatten(1, 2)[:, :-1]
        if config.sequence.first_token != "none":
            tokens = torch.cat([parameters["decoder.first_token"].expand(len(tokens), 1, -1), tokens], 1)
        tokens = self.positions.concatenate(tokens, batch.placement)
        if self.options.input_map == "linear":
            tokens = tokens @ parameters["decoder.input"]
        elif tokens.shape[-1] < self.width:
            tokens = F.pad(tokens, (0, self.width - tokens.shape[-1]))
        tokens = self.positions.add(tokens, batch.placement, parameters.get("decoder.positions.table"))
        return self._shift_tokens(parameters, batch, tokens)

    def _shift_tokens(self, parameters: Parameters, batch: Batch, tokens: Tensor) -> Tensor:
        """Tokens with what the configuration adds to them beside positions: a constant, jitter, noise."""
        if self.options.token_constant:
            tokens = tokens + self.constant_on * parameters["decoder.constant"]
        if self.config.sequence.jitter:
            drawn = (batch.placement * self.config.sequence.jitter).long()
            tokens = tokens + parameters["decoder.jitter"][drawn][:, None]
        if batch.token_noise is not None:
            tokens = tokens + batch.token_noise[..., : self.width]
        return tokens

    # -- the two ways to run it ---------------------------------------------------------------------------------
    def logits(self, parameters: Parameters, batch: Batch) -> Float[Tensor, "batch label"]:
        """Logits over the labels at the query, by the least work."""
        return self._run(parameters, batch, _as_it_is, query_only=True)

    def loss(self, parameters: Parameters, batch: Batch) -> Float[Tensor, ""]:
        """Mean cross-entropy, in nats, over the labels at the query."""
        return F.cross_entropy(self.logits(parameters, batch), batch.target)

    def trace(
        self,
        parameters: Parameters,
        batch: Batch,
        *,
        capture: tuple[str, ...] = (),
        edits: Edits | None = None,
    ) -> Trace:
        """Logits at the query with every position computed.

        Arguments:
            capture: names of activations to return, after their edit; a name may end in `*`.
            edits: for a name, a function from the activation to what takes its place.

        Raises:
            KeyError: a name that the forward pass never met.
        """
        kept: dict[str, Tensor] = {}
        met: set[str] = set()
        edits = edits or {}
        exact = {name for name in capture if not name.endswith("*")}
        starts = tuple(name[:-1] for name in capture if name.endswith("*"))

        def point(name: str, value: Tensor) -> Tensor:
            met.add(name)
            if name in edits:
                value = edits[name](value)
            if name in exact or name.startswith(starts):
                kept[name] = value
            return value

        logits = self._run(parameters, batch, point, query_only=False)
        unmet = [name for name in (*exact, *edits) if name not in met]
        unmet += [f"{start}*" for start in starts if not any(name.startswith(start) for name in met)]
        if unmet:
            raise KeyError(f"no activation named {unmet[0]!r}; there are {', '.join(sorted(met))}")
        return Trace(logits, kept)

    def _run(self, parameters: Parameters, batch: Batch, point: Callable, query_only: bool) -> Tensor:
        x = point("embedding", self._embed(parameters, batch, point))
        for i in range(self.options.layers):
            name = f"blocks.{i}"
            normed, gain = self._norm(parameters, f"{name}.norm1", x)
            if query_only and i == self.options.layers - 1:
                x = x[:, -1:] + self._attend_query(parameters, f"{name}.attention", normed, gain)
            else:
                x = x + self._attend_all(parameters, f"{name}.attention", normed, gain, point)
            if self.options.mlp != "none":
                normed, gain = self._norm(parameters, f"{name}.norm2", x)
                x = x + point(f"{name}.mlp.output", self._mlp(parameters, f"{name}.mlp", normed, gain))
            x = point(f"{name}.residual", x)
        normed, gain = self._norm(parameters, "norm", x[:, -1])
        final = point("final", normed if gain is None else normed * gain)
        return final @ parameters["decoder.readout"]


def _scaled(gain: Float[Tensor, " input"] | None, weight: Float[Tensor, "input output"]) -> Tensor:
    """A weight whose input carries a gain: (x * gain) @ W = x @ (gain * W)."""
    return weight if gain is None else gain[:, None] * weight


def _shifted(x: Float[Tensor, "*row width"], bias: Float[Tensor, " width"]) -> Tensor:
    """x + bias, with the bias of every row from a product with ones: its gradient, a sum over rows, is then a product
    as well, several times as fast as the compiler's own sum."""
    ones = torch.ones(x.shape[:-1].numel(), 1, dtype=x.dtype, device=x.device)
    return x + (ones @ bias[None]).view(x.shape)


def _as_it_is(name: str, value: Tensor) -> Tensor:
    return value
