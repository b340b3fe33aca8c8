"""A decoder that miclab trained, as a plain `torch.nn.Module`. It needs PyTorch and safetensors, and no miclab.

    from decoder import Decoder
    model = Decoder.load("FOLDER")
    logits = model(items, labels)                                  # see Decoder.forward
    logits, kept = model.activations(["blocks.0.attn.hook_pattern"], items, labels)

Activations pass through modules of type `nn.Identity`, whose names and axes are those of TransformerLens. So a forward
hook of PyTorch reads them, and one that returns a tensor replaces them. Axes of queries, keys, values and of the output
of heads (`hook_z`) are [batch, position, head, dimension], of patterns [batch, head, query, key].
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-5
"""Added to the mean square inside norms."""
ROTATING = ("rope", "rope_released", "partial_rope", "yarn", "hybrid", "pope")
"""Position codes that change queries and keys."""


class Norm(nn.Module):
    """RMSNorm, LayerNorm, or nothing."""

    def __init__(self, kind: str, width: int):
        super().__init__()
        self.kind = kind
        if kind != "none":
            self.w = nn.Parameter(torch.ones(width))
            self.hook_scale, self.hook_normalized = _points(2)
        if kind == "layernorm":
            self.b = _zeros(width)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "none":
            return x
        if self.kind == "layernorm":
            x = x - x.mean(-1, keepdim=True)
        scale = self.hook_scale((x.square().mean(-1, keepdim=True) + EPSILON).sqrt())
        x = self.hook_normalized(x / scale) * self.w
        return x + self.b if self.kind == "layernorm" else x


class Positions(nn.Module):
    """The position code: beside the tokens, added to them, applied to queries and keys, or added to scores."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.own, self.kind = config["positions"], config["positions"]["name"]
        self.heads, self.width = config["heads"], config["width"]
        self.rotates = self.kind in ROTATING
        _add_parameters(self, self.own)

    def _slots(self, placement: Tensor, length: int) -> Tensor:
        """The slot of each position [batch, position] of an absolute code."""
        free = 0 if self.own["placement"] == "fixed" else self.own["slots"] - length + 1
        first = (placement * free).long()
        return first[:, None] + torch.arange(length, device=placement.device)

    def beside(self, tokens: Tensor, placement: Tensor) -> Tensor:
        """Tokens with their one-hot slots beside them."""
        if self.kind not in ("onehot", "hybrid"):
            return tokens
        code = F.one_hot(self._slots(placement, tokens.shape[1]), self.own["slots"])
        return torch.cat([tokens, code.to(tokens.dtype)], -1)

    def added(self, tokens: Tensor, placement: Tensor) -> Tensor | None:
        """What is added to the tokens; None: nothing."""
        if self.kind == "learned":
            return self.get_parameter("table")[self._slots(placement, tokens.shape[1])]
        if self.kind != "sinusoidal":
            return None
        places = torch.arange(self.own["slots"], device=tokens.device)
        angle = places[:, None] * 10000.0 ** (-torch.arange(0, self.width, 2, device=tokens.device) / self.width)
        table = torch.cat([angle.sin(), angle.cos()], -1) / math.sqrt(self.width / 2)
        return table[self._slots(placement, tokens.shape[1])].to(tokens.dtype)

    def _angles(self, length: int, count: int, like: Tensor) -> Tensor:
        """Angle of each position and frequency [position, frequency]."""
        frequency = self.own["theta"] ** (-torch.arange(count, dtype=torch.double) / count)
        if self.kind == "yarn":
            turns = self.own["original"] * frequency / (2 * math.pi)
            kept = ((turns - self.own["slow"]) / (self.own["fast"] - self.own["slow"])).clamp(0, 1)
            frequency = frequency * (kept + (1 - kept) / self.own["factor"])
        return (torch.arange(length)[:, None] * frequency).to(like.device)

    def rotate(self, x: Tensor, is_key: bool) -> Tensor:
        """Queries or keys with their code."""
        length, size = x.shape[1], x.shape[-1]
        if self.kind == "pope":
            angle = self._angles(length, size, x).float()[:, None]
            if is_key:
                angle = angle + self.get_parameter("phase")[: x.shape[2], :size].clamp(-2 * math.pi, 0.0)
            magnitude = F.softplus(x)
            return torch.cat([magnitude * angle.cos(), magnitude * angle.sin()], -1)
        turned = 2 * int(self.own["fraction"] * size / 2) if self.kind == "partial_rope" else size
        still, x = x[..., turned:], x[..., :turned]
        angle = self._angles(length, turned // 2, x)[:, None]
        cosine, sine = angle.cos().float().to(x.dtype), angle.sin().float().to(x.dtype)
        one, two = x.chunk(2, -1)
        # The code of the paper's authors crosses odd and even dimensions, and is no rotation.
        first, second = (x[..., 1::2], x[..., ::2]) if self.kind == "rope_released" else (two, one)
        x = torch.cat([one * cosine - first * sine, two * cosine + second * sine, still], -1)
        return x * (0.1 * math.log(self.own["factor"]) + 1) if self.kind == "yarn" else x

    def bias(self, length: int, like: Tensor) -> Tensor:
        """What is added to scores [head, query, key]: the code's bias, and -inf for keys after the query."""
        mask = torch.full((length, length), -math.inf, dtype=like.dtype, device=like.device).triu(1)
        place = torch.arange(length, device=like.device)
        if self.kind == "alibi":
            slope = 2.0 ** (-8 * torch.arange(1, self.heads + 1, device=like.device) / self.heads)
            return mask - slope[:, None, None] * (place[:, None] - place)
        if self.kind == "fire":
            slope = self.get_parameter("slope").abs()
            farthest = torch.maximum(place, self.get_parameter("threshold").abs())[:, None]
            distance = (place[:, None] - place).clamp(min=0)
            relative = (slope * distance + 1).log() / (slope * farthest + 1).log().clamp(min=1e-6)
            hidden = (relative[..., None] @ self.get_parameter("in_weight") + self.get_parameter("in_bias")).relu()
            return mask + (hidden @ self.get_parameter("out_weight") + self.get_parameter("out_bias")).permute(2, 0, 1)
        return mask[None]


class Attention(nn.Module):
    """Softmax attention and its variants (`config["attention"]`, one for each layer)."""

    def __init__(self, config: dict[str, Any], layer: int):
        super().__init__()
        self.own, self.centre = config["attention"][layer], config["centre_keys"]
        self.kind, heads, width = self.own["name"], config["heads"], config["width"]
        size, groups = width // heads, self.own.get("groups", heads)
        self.repeats = heads // groups
        self.W_V = _zeros(groups, width, size)
        self.hook_v, self.hook_pattern, self.hook_z = _points(3)
        self.W_O = _zeros(heads, size, width) if config["output_projection"] else None
        _add_parameters(self, self.own)
        self.W_Q, self.W_K = _zeros(heads, width, size), _zeros(groups, width, size)
        self.b_Q = _zeros(heads, size) if self.own["query_bias"] else None
        self.b_K = _zeros(groups, size) if self.own["key_bias"] else None
        self.hook_q, self.hook_k, self.hook_attn_scores = _points(3)
        if config["positions"]["name"] in ROTATING:
            self.hook_rot_q, self.hook_rot_k = _points(2)

    def forward(self, x: Tensor, positions: Positions) -> Tensor:
        # Where keys are centred, it is over the batch.
        centred = x if self.centre == "off" else x - x.mean((0, 1) if self.centre == "all" else 0, keepdim=True)
        q, k = torch.einsum("bpw,hwd->bphd", x, self.W_Q), torch.einsum("bpw,hwd->bphd", centred, self.W_K)
        v = torch.einsum("bpw,hwd->bphd", x, self.W_V)
        q, k = q if self.b_Q is None else q + self.b_Q, k if self.b_K is None else k + self.b_K
        q, k, v = self._changed(q, k, v)
        q, k, v, size = self.hook_q(q), self.hook_k(k), self.hook_v(v), v.shape[-1]
        if positions.rotates:
            q, k = self.hook_rot_q(positions.rotate(q, False)), self.hook_rot_k(positions.rotate(k, True))
        k, v = k.repeat_interleave(self.repeats, 2), v.repeat_interleave(self.repeats, 2)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(size) + positions.bias(x.shape[1], x)
        place, keys = torch.arange(x.shape[1], device=x.device), x.shape[1]
        back = place[:, None] - place
        if self.kind == "sliding_window":
            scores = scores.masked_fill(back >= self.own["window"], -math.inf)
        if self.kind == "previous_token":
            # The first position, which has none before it, attends to itself.
            scores = scores.masked_fill((back != 1) & (back + place[:, None] > 0), -math.inf)
        scores = self.hook_attn_scores(scores)
        if self.kind == "sink":
            scores = torch.cat([scores, self.get_parameter("sink")[:, None, None].expand(*scores.shape[:-1], 1)], -1)
        z = self.hook_z(torch.einsum("bhqk,bkhd->bqhd", self.hook_pattern(scores.softmax(-1)[..., :keys]), v))
        return z.flatten(2) if self.W_O is None else torch.einsum("bqhd,hdw->bqw", z, self.W_O)

    def _changed(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values with what the variant does to them before positions."""
        if self.kind == "qk_norm":
            q, k = (
                x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON) * gain
                for x, gain in ((q, self.get_parameter("query_gain")), (k, self.get_parameter("key_gain")))
            )
        if self.kind == "smeared":
            back, share = self.own["back"], self.get_parameter("share")[:, None]
            q, k, v = (
                x + share * (torch.cat([x[:, :back], x[:, :-back]], 1) - x) if name in self.own["smeared"] else x
                for name, x in (("q", q), ("k", k), ("v", v))
            )
        return q, k, v


class MLP(nn.Module):
    """`released`: W_out SiLU(W_gate x * W_in x), with biases or without. `swiglu`: W_out (SiLU(W_gate x) * W_in x)."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.kind, width, hidden = config["mlp"], config["width"], config["mlp_hidden"]
        self.W_gate, self.W_in, self.W_out = _zeros(width, hidden), _zeros(width, hidden), _zeros(hidden, width)
        self.b_gate, self.b_in = (_zeros(hidden) if config["mlp_bias"] else None for _ in range(2))
        self.b_out = _zeros(width) if config["mlp_bias"] else None
        self.hook_pre, self.hook_pre_linear, self.hook_post = _points(3)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = x @ self.W_gate, x @ self.W_in
        if self.b_gate is not None and self.b_in is not None:
            gate, value = gate + self.b_gate, value + self.b_in
        gate, value = self.hook_pre(gate), self.hook_pre_linear(value)
        hidden = self.hook_post(F.silu(gate) * value if self.kind == "swiglu" else F.silu(gate * value))
        return hidden @ self.W_out if self.b_out is None else hidden @ self.W_out + self.b_out


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream."""

    def __init__(self, config: dict[str, Any], layer: int):
        super().__init__()
        self.ln1, self.attn = Norm(config["norm"], config["width"]), Attention(config, layer)
        self.hook_resid_pre, self.hook_attn_out, self.hook_resid_post = _points(3)
        self.mlp = None
        if config["mlp"] != "none":
            self.ln2, self.mlp = Norm(config["norm"], config["width"]), MLP(config)
            self.hook_resid_mid, self.hook_mlp_out = _points(2)

    def forward(self, x: Tensor, positions: Positions) -> Tensor:
        x = self.hook_resid_pre(x)
        x = x + self.hook_attn_out(self.attn(self.ln1(x), positions))
        if self.mlp is not None:
            x = self.hook_resid_mid(x)
            x = x + self.hook_mlp_out(self.mlp(self.ln2(x)))
        return self.hook_resid_post(x)


class Projector(nn.Module):
    """From a modality's items to the width of a token, GELU between the layers. Without layers: the items."""

    def __init__(self, sizes: list[list[int]]):
        super().__init__()
        self.W = nn.ParameterList(_zeros(*size) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        for layer, weight in enumerate(self.W):
            x = (F.gelu(x) if layer else x) @ weight
        return x


class Decoder(nn.Module):
    """The decoder that a configuration (`config.json`) describes, with weights 0 until they are loaded.

    Arguments:
        config: what `config.json` holds.
    """

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.config, width = config, config["width"]
        self.register_buffer("label_embeddings", torch.zeros(config["labels"], config["item_width"]))
        self.projectors = nn.ModuleList(Projector(one["projector"]) for one in config["items"])
        self.hook_items = nn.ModuleList(_points(len(config["items"])))
        _add_parameters(self, config)
        self.positions = Positions(config)
        self.hook_embed, self.hook_pos_embed = _points(2)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config["layers"]))
        self.ln_final = Norm(config["norm"], width)
        self.W_U = _zeros(width, config["labels"])

    @classmethod
    def load(cls, folder: str | Path = ".") -> Decoder:
        """The decoder in a folder with `config.json` and `model.safetensors`."""
        from safetensors.torch import load_file

        model = cls(json.loads((Path(folder) / "config.json").read_text()))
        model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
        return model.eval()

    def forward(self, items: dict[str, Tensor] | Tensor, labels: Tensor, placement: Tensor | None = None) -> Tensor:
        """Logits over the labels at the query [batch, label].

        Arguments:
            items: of each modality, by name [batch, context + 1, dimension]; the last is the query. A tensor, if there
                is one modality.
            labels: of the context [batch, context], whole numbers; or their vectors [batch, context, item width].
            placement: start of each sequence in the slots of an absolute position code, from 0 to below 1 [batch].
                None: the first slot. It also chooses the jitter.
        """
        x = self._embedded(items, labels, placement)
        for block in self.blocks:
            x = block(x, self.positions)
        return self.ln_final(x[:, -1]) @ self.W_U

    def activations(self, names: Iterable[str], *inputs: Any, **named: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and activations by the names of their modules.

        Arguments:
            names: such as `blocks.0.attn.hook_pattern`; `named_modules` lists them.
            inputs, named: of `forward`.
        """
        kept: dict[str, Tensor] = {}

        def keep(module: nn.Module, given: Any, found: Tensor, name: str) -> None:
            kept[name] = found

        hooks = [self.get_submodule(name).register_forward_hook(partial(keep, name=name)) for name in names]
        try:
            return self(*inputs, **named), kept
        finally:
            for hook in hooks:
                hook.remove()

    def _embedded(self, items: dict[str, Tensor] | Tensor, labels: Tensor, placement: Tensor | None) -> Tensor:
        config, order = self.config, [one["name"] for one in self.config["items"]]
        given = {order[0]: items} if isinstance(items, Tensor) else items
        vectors = labels if labels.is_floating_point() else self.get_buffer("label_embeddings")[labels]
        if placement is None:
            placement = torch.zeros(len(vectors), device=vectors.device)
        parts = zip(self.hook_items, self.projectors, order, strict=True)
        columns = [point(projector(given[name])) for point, projector, name in parts]
        # The query has no label.
        columns.append(F.pad(vectors.to(columns[0].dtype), (0, 0, 0, 1)))
        x = torch.stack(columns, 2).flatten(1, 2)[:, :-1]
        on_labels, on = torch.arange(x.shape[1], device=x.device) % len(columns) == len(order), config["constant_on"]
        shown = {"all": torch.ones_like(on_labels), "items": ~on_labels, "labels": on_labels}[on]
        if "first_token" in config["parameters"]:
            x = torch.cat([self.get_parameter("first_token").expand(len(x), 1, -1), x], 1)
            shown = F.pad(shown, (1, 0), value=on == "all")
        x = self.positions.beside(x, placement)
        padded = F.pad(x, (0, max(config["width"] - x.shape[-1], 0)))
        x = x @ self.get_parameter("input_map") if "input_map" in config["parameters"] else padded
        x, code = self.hook_embed(x), self.positions.added(x, placement)
        x = x if code is None else x + self.hook_pos_embed(code)
        if "constant" in config["parameters"]:
            x = x + shown[:, None] * self.get_parameter("constant")
        if "jitter" in config["parameters"]:
            x = x + self.get_parameter("jitter")[(placement * len(self.get_parameter("jitter"))).long()][:, None]
        return x


def _zeros(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))


def _points(count: int) -> list[nn.Identity]:
    return [nn.Identity() for _ in range(count)]


def _add_parameters(module: nn.Module, own: dict[str, Any]) -> None:
    """Parameters of a part, by the shapes in its configuration."""
    for name, shape in own.get("parameters", {}).items():
        setattr(module, name, _zeros(*shape))
