"""The decoder: causality, the fast path, parity with other implementations, and the paper's sizes."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import oracle_numpy
import own_doors  # noqa: F401  (its mechanisms and codes are in the registries)
import pytest
import torch
import torch.nn.functional as F
from tiny import lively_parameters, tiny_config

from miclab.config.decoder import DecoderConfig
from miclab.config.options import ATTENTION
from miclab.config.positions import POSITION_CODES
from miclab.config.presets import run_config
from miclab.config.run import RunConfig
from miclab.model.decoder import Decoder
from miclab.training.objective import cross_entropy
from miclab.worlds.roles import LABEL
from miclab.worlds.sequences import Batch, training_batch
from miclab.worlds.world import draw_world

PAIRS = [
    (positions, name)
    for positions in ("rope", "t5_bias", "pope")
    for name, mechanism in ATTENTION.items()
    if positions == "rope" or "score_bias" in mechanism.heeds or (positions == "pope" and name != "previous_token")
]
"""Codes that rotate and codes with a bias, with the mechanisms that heed them."""
VARIANTS = [
    "smeared:start=0.3,share=frozen,on=all,back=2", "smeared:start=0,share=free,on=both", "smeared:on=values,back=3",
    "short_convolution:width=4,on=keys,start=-0.5,share=free", "short_convolution:share=frozen,width=2",
    "qk_norm:start=2,share=frozen", "sink:share=frozen", "sink:start=-2", "grouped_query:groups=2", "latent:rank=3",
    "differential:share=bounded", "differential:start=0.4,share=free", "differential:start=0.4,share=frozen",
    "forgetting:gate=learnt,start=0.1", "forgetting:gate=frozen,start=0.2", "gated_delta:convolution=4",
    "gated_delta:gate=frozen,start=0.3", "multi_token:mixed=2,queries=3,keys=4,start=0.5,share=bounded",
    "multi_token:share=frozen,start=0.5,keys=5", "by_layer:each=[smeared,sliding_window:window=2]",
]  # fmt: skip
"""Options of mechanisms, each of which is met once; two heads."""
BIASES = {"attention_bias": "both", "attention_bias_std": 0.5}
CONSTANTS = {"token_constant": 2.0, "attention_bias": "key", "attention_bias_layers": [0]}


def parts_of(config: RunConfig, size: int = 3, dtype: torch.dtype = torch.float32):
    """A decoder, lively parameters and a batch of so many sequences."""
    batch = training_batch(config, draw_world(config), 0).rows(slice(0, size))
    batch = replace(
        batch,
        items={name: value.to(dtype) for name, value in batch.items.items()},
        label_vectors=batch.label_vectors.to(dtype),
    )
    return Decoder(config), lively_parameters(config, dtype=dtype), batch


def token_at(batch: Batch, position: int) -> tuple[torch.Tensor, int]:
    """The tensor that holds a position's token, and the token's index in it."""
    kind, exemplar = int(batch.roles.kind[position]), int(batch.roles.exemplar[position])
    return (batch.label_vectors if kind == LABEL else batch.items[batch.roles.modalities[kind]]), exemplar


# -- causality ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("modalities", [1, 2])
@pytest.mark.parametrize(
    ("positions", "attention"),
    [*[(name, "softmax") for name in POSITION_CODES], *[("rope", name) for name in ATTENTION if name != "softmax"]],
)
def test_no_position_sees_what_comes_after_it(positions, attention, modalities):
    """Fails if a mechanism or code lets one later token through, in either block: the gradient of the residual at i
    with respect to every token at j > i is exactly zero, and with respect to each j <= i that can be seen it is not."""
    both = {"positions": positions, "attention": attention, "heads": 2, "initial_std": 0.3, "width": 80}
    config = tiny_config(modalities, decoder=both)
    decoder, parameters, batch = parts_of(config, size=2)
    for tensor in (*batch.items.values(), batch.label_vectors):
        tensor.requires_grad_()
    kept = decoder.trace(parameters, batch, capture=("blocks.*",)).activations
    reached = torch.eye(config.sequence_length)
    for block in range(2):
        reached = (decoder.visible(block)[0] + torch.eye(config.sequence_length)) @ reached
        residual = kept[f"blocks.{block}.residual"]
        for i in range(config.sequence_length):
            tensors = (*batch.items.values(), batch.label_vectors)
            slopes = torch.autograd.grad(residual[:, i].square().sum(), tensors, retain_graph=True)
            slope_of = dict(zip(map(id, tensors), slopes, strict=True))
            for j in range(config.sequence_length):
                tensor, index = token_at(batch, j)
                slope = slope_of[id(tensor)][:, index]
                assert j <= i or reached[i, j] == 0
                assert (slope != 0).any() if reached[i, j] else (slope == 0).all(), (block, i, j)


# -- order of the context -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("modalities", [1, 2])
@pytest.mark.parametrize("layers", [1, 2])
def test_order_of_the_context_without_positions(layers, modalities):
    """Fails if positions leak into a decoder that has none: one layer sees a bag, so permuting the examples changes
    nothing at the query. Two causal layers see how much stands before each example, so they must notice."""
    config = tiny_config(modalities, decoder={"positions": "none", "layers": layers, "initial_std": 0.3})
    decoder, parameters, batch = parts_of(config, size=8)
    order = torch.tensor([2, 0, 3, 1])
    with_query = torch.cat([order, torch.tensor([4])])
    permuted = replace(
        batch,
        items={name: value[:, with_query] for name, value in batch.items.items()},
        label_vectors=batch.label_vectors[:, order],
    )
    change = (decoder.logits(parameters, permuted) - decoder.logits(parameters, batch)).abs().max()
    assert change < 1e-5 if layers == 1 else change > 1e-3


# -- the fast path ------------------------------------------------------------------------------------------------
FAST_PATHS = [
    *[(positions, heads, {}) for positions in POSITION_CODES for heads in (1, 2)],
    ("rope", 2, {"layers": 1}),
    ("none", 1, {"layers": 1, "norm": "none", "mlp": "none"}),
    ("alibi", 2, {"norm": "layernorm", "output_projection": "off"}),
    ("rope", 1, {"norm": "none", "mlp": "swiglu", "output_projection": "on"}),
    *[(positions, 2, BIASES) for positions in ("rope", "hybrid")],
    ("none", 2, {"attention_bias": "query"}),
    ("rope", 2, {**CONSTANTS, "token_constant_on": "items"}),
    *[(positions, 2, {"centre_keys": kind}) for positions in ("rope", "learned") for kind in ("all", "position")],
    *[(positions, 2, {"attention": name}) for positions, name in PAIRS],
    *[
        ("rope", 2, {"attention": {"name": name, "layers": [layer]}})
        for name in ATTENTION
        for layer in (0, 1)
        if name != "by_layer"
    ],
    *[(positions, 1, {"attention": "sliding_window:window=2", **BIASES}) for positions in ("rope", "hybrid")],
    *[("rope", 2, {"attention": text}) for text in VARIANTS],
]


@pytest.mark.parametrize(("positions", "heads", "options"), FAST_PATHS)
def test_query_only_path_has_the_logits_and_gradients_of_the_full_one(positions, heads, options):
    """Fails if a gain, a head's share of a weight, the bias or the rotation is lost where the last block computes the
    query alone; in float64, so that rounding cannot hide it."""
    decoder_options = {"positions": positions, "heads": heads, "initial_std": 0.3, "width": 80, **options}
    decoder, parameters, batch = parts_of(tiny_config(2, decoder=decoder_options), dtype=torch.float64)
    for value in parameters.values():
        value.requires_grad_()
    fast, full = decoder.logits(parameters, batch), decoder.trace(parameters, batch).logits
    # Without a norm the logits are large: rounding is judged beside the largest.
    close = partial(torch.testing.assert_close, rtol=0, atol=1e-11 * max(1.0, float(full.detach().abs().max())))
    close(fast, full)
    slopes = [
        torch.autograd.grad(F.cross_entropy(logits, batch.target), list(parameters.values()), allow_unused=True)
        for logits in (fast, full)
    ]
    for name, one, other in zip(parameters, *slopes, strict=True):
        close(one, other, msg=partial("{}: {}".format, name))
        assert one is not None, f"{name} is no part of the logits"


# -- parity -------------------------------------------------------------------------------------------------------
NUMPY_CONFIGS = {
    "paper rope": (1, {}, {}),
    "paper one-hot": (1, {"positions": "onehot"}, {}),
    **{f"two heads, {p}": (2, {"positions": p, "heads": 2, "width": 80}, {}) for p in POSITION_CODES},
    "one layer, layernorm, no MLP": (1, {"layers": 1, "norm": "layernorm", "mlp": "none"}, {}),
    "three layers, swiglu, no norm": (2, {"layers": 3, "norm": "none", "mlp": "swiglu", "initial_std": 0.1}, {}),
    "two heads, no output projection": (1, {"heads": 2, "output_projection": "off", "mlp_hidden": 5}, {}),
    "one head, output projection": (1, {"output_projection": "on", "rope_theta": 100.0}, {}),
    "padded width": (2, {"width": 12, "positions": "learned", "position_slots": 20}, {"projector": "linear"}),
    "mapped narrower": (2, {"width": 6, "input_map": "linear", "positions": "onehot"}, {"projector": "large"}),
    "mapped, three modalities": (3, {"width": 8, "input_map": "linear", "positions": "alibi", "heads": 4}, {}),
    "biases": (2, {"heads": 2, **BIASES}, {}),
    **{f"attention {m}, {p}": (2, {"attention": m, "positions": p}, {}) for p, m in PAIRS},
    **{f"{text}, two heads": (1, {"attention": text, "heads": 2}, {}) for text in VARIANTS},
    **{
        f"options: {text}": (1, {"positions": text, "heads": 2}, {})
        for text in (
            "yarn:factor=2,fast=2,original=9,slow=0.1",
            "partial_rope:fraction=0.5",
            "fire:threshold=3,hidden=5",
        )
    },
    "a window in the second layer": (1, {"attention": {"name": "sliding_window", "layers": [1], "window": 2}}, {}),
    "constants in the first layer": (2, CONSTANTS, {}),
    "a constant on items": (2, {"token_constant": 2.0, "token_constant_on": "items"}, {}),
    "a constant on labels": (1, {"token_constant": 2.0, "token_constant_on": "labels"}, {}),
    "fixed placement": (1, {"positions": "learned", "placement": "fixed"}, {}),
    "no biases in the MLP": (1, {"mlp_bias": "off"}, {}),
    **{
        f"first token and jitter, {p}": (2, {"positions": p, "token_constant": 1.0, "width": 80}, {})
        for p in ("rope", "onehot", "learned")
    },
}


@pytest.mark.parametrize("name", NUMPY_CONFIGS)
def test_numpy_forward_pass_agrees(name):
    """Fails if any part of the forward pass differs from its definition: logits, attention and residuals of every
    layer, against an implementation without torch."""
    modalities, options, bridge = NUMPY_CONFIGS[name]
    sequence = {"first_token": "learnt", "jitter": 5} if name.startswith("first token") else {}
    config = tiny_config(modalities, decoder={"initial_std": 0.3, **options}, bridge=bridge, sequence=sequence)
    decoder, parameters, batch = parts_of(config)
    trace = decoder.trace(parameters, batch, capture=("blocks.*",))
    arrays = ({n: p.numpy() for n, p in parameters.items()}, {n: v.numpy() for n, v in batch.items.items()})
    wanted = oracle_numpy.forward(config, *arrays, batch.label_vectors.numpy(), batch.placement.numpy())
    scale = max(1.0, float(np.abs(wanted.logits).max()))
    assert np.abs(wanted.logits).std() > 0.05
    np.testing.assert_allclose(trace.logits.numpy(), wanted.logits, rtol=0, atol=1e-5 * scale)
    for layer in range(config.decoder.layers):
        expected = wanted.patterns[layer]
        if decoder.attention[layer].gives_pattern and expected is not None:
            pattern = trace.activations[f"blocks.{layer}.attention.pattern"].numpy()
            np.testing.assert_allclose(pattern, expected, rtol=1e-5, atol=2e-5)
        residual = trace.activations[f"blocks.{layer}.residual"].numpy()
        largest = max(1.0, float(np.abs(residual).max()))
        np.testing.assert_allclose(residual, wanted.residuals[layer], rtol=0, atol=1e-5 * largest)


@pytest.mark.parametrize("name", ATTENTION)
def test_activations_are_those_that_are_named_with_their_axes(name):
    """Fails if a mechanism names an activation that it never gives, gives one that it does not name, or has other axes;
    every mechanism gives the output of each head."""
    config = tiny_config(2, decoder={"attention": name, "heads": 2})
    decoder, parameters, batch = parts_of(config)
    length, context = config.sequence_length, config.sequence.context
    sizes = {"batch": 3, "head": 2, "dimension": 4, "width": 8, "exemplar": context + 1, "context": context}
    sizes |= dict.fromkeys(("position", "query", "key"), length) | {"group": 1, "coded": 8}
    found = decoder.trace(parameters, batch, capture=("*",)).activations
    axes = decoder.activations()
    assert found.keys() == axes.keys() >= {f"blocks.{i}.attention.heads" for i in range(2)}
    for activation, value in found.items():
        assert tuple(value.shape) == tuple(sizes[axis] for axis in axes[activation].split()), activation


@pytest.mark.parametrize("kind", ["all", "position"])
def test_centred_keys_take_away_what_is_common_to_all_of_them(kind):
    """Fails if a key keeps its mean: a vector added to the input of every key then changes nothing, although it moves
    the scores of a rotary decoder whose keys are not centred."""
    both = {"positions": "rope", "layers": 1, "initial_std": 0.3, "token_constant": 5.0, "norm": "none", "mlp": "none"}
    for centre, changes in (("off", True), (kind, False)):
        decoder, parameters, batch = parts_of(tiny_config(1, decoder={**both, "centre_keys": centre}), size=8)
        patterns = []
        for factor in (0.0, 1.0):
            moved = {**parameters, "decoder.constant": parameters["decoder.constant"] * factor}
            # Queries see the constant too: they are made blind to it.
            blind = parameters["decoder.constant"] / parameters["decoder.constant"].norm()
            query = parameters["decoder.blocks.0.attention.query"]
            moved["decoder.blocks.0.attention.query"] = query - torch.outer(blind, blind @ query)
            name = "blocks.0.attention.pattern"
            patterns.append(decoder.trace(moved, batch, capture=(name,)).activations[name])
        assert bool((patterns[0] - patterns[1]).abs().max() > 1e-3) == changes, centre


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("positions", ["none", "alibi", "rope"])
def test_attention_is_torchs_scaled_dot_product(positions, heads):
    """Fails if scores are scaled or masked otherwise than PyTorch does it; `torch.nn.RMSNorm` gives the input."""
    config = tiny_config(2, decoder={"positions": positions, "heads": heads, "initial_std": 0.3})
    decoder, parameters, batch = parts_of(config)
    kept = decoder.trace(parameters, batch, capture=("embedding", "blocks.0.*")).activations
    norm = torch.nn.RMSNorm(8, eps=1e-5)
    norm.weight.data = parameters["decoder.blocks.0.norm1.gain"]
    with torch.no_grad():
        x = norm(kept["embedding"])
    query, key, value = (
        (x @ parameters[f"decoder.blocks.0.attention.{part}"]).unflatten(-1, (heads, -1)).transpose(1, 2)
        for part in ("query", "key", "value")
    )
    if positions == "rope":
        query, key = (decoder.positions.rotate(part, slice(None), {}) for part in (query, key))
    if positions == "alibi":
        place = torch.arange(config.sequence_length)
        slope = 2.0 ** (-8 * torch.arange(1, heads + 1) / heads)
        mask = -slope[:, None, None] * (place[:, None] - place)
        mask = mask.masked_fill(place[:, None] < place, -math.inf)
        wanted = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    else:
        wanted = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    torch.testing.assert_close(kept["blocks.0.attention.heads"], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["rmsnorm", "layernorm"])
def test_norms_are_torchs(kind):
    """Fails if the norm's epsilon, gain or centring is wrong: `torch.nn.RMSNorm` and `torch.nn.LayerNorm` say what
    the final residual becomes. Small residuals, where epsilon counts."""
    config = tiny_config(decoder={"norm": kind, "mlp": "none", "initial_std": 0.01})
    decoder, parameters, batch = parts_of(config)
    small = {"embedding": lambda x: 0.003 * x, "blocks.1.residual": lambda x: 0.003 * x}
    kept = decoder.trace(parameters, batch, capture=("blocks.1.residual", "final"), edits=small).activations
    norm = {"rmsnorm": torch.nn.RMSNorm, "layernorm": torch.nn.LayerNorm}[kind](8, eps=1e-5)
    norm.weight.data = parameters["decoder.norm.gain"]
    if kind == "layernorm":
        norm.bias.data = parameters["decoder.norm.bias"]
    with torch.no_grad():
        torch.testing.assert_close(kept["final"], norm(kept["blocks.1.residual"][:, -1]))


def test_loss_is_the_cross_entropy_at_the_query():
    """Fails if the loss sees another position or another target."""
    decoder, parameters, batch = parts_of(tiny_config(2), size=16)
    probabilities = decoder.logits(parameters, batch).double().softmax(-1).numpy()
    wanted = -np.log(probabilities[np.arange(16), batch.target.numpy()]).mean()
    assert float(cross_entropy(batch, decoder.logits(parameters, batch), {})) == pytest.approx(wanted, rel=1e-5)


# -- sizes and first values ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(("positions", "count"), [("rope", 51_904), ("onehot", 205_239)])
def test_parameter_counts_are_the_papers(positions, count):
    """Fails if a weight is missing or one too many: the paper's decoders have 52k (RoPE) and 205k (APE) weights."""
    config = replace(run_config("unimodal", "paper"), decoder=DecoderConfig(positions=positions))
    decoder = Decoder(config)
    assert decoder.parameter_count() == count
    found = decoder.initial_parameters(0)
    assert {n: tuple(p.shape) for n, p in found.items()} == decoder.shapes()
    assert sum(p.numel() for p in found.values()) == count


def test_first_parameters_have_the_spread_of_the_paper():
    """Fails if an initialisation is of another size: 0.02 for attention, readout and projector, the default of
    `torch.nn.Linear` for the MLP, gains 1; learnt positions as large as items."""
    config = run_config("early_fusion", "paper")
    options = DecoderConfig(heads=2, norm="layernorm", positions="learned", mlp_hidden=256)
    found = Decoder(replace(config, decoder=options)).initial_parameters(3)
    for name, value in found.items():
        if ".mlp." in name:
            bound = 1 / math.sqrt(256 if ".out." in name else 64)
            assert value.abs().max() <= bound
            assert float(value.std()) == pytest.approx(bound / math.sqrt(3), rel=0.2), name
        elif ".norm" in name:
            assert torch.equal(value, torch.full_like(value, float(name.endswith("gain")))), name
        elif name == "decoder.positions.table":
            assert float(value.norm(dim=-1).mean()) == pytest.approx(1, rel=0.05)
        else:
            assert float(value.std()) == pytest.approx(0.02, rel=0.1), name
            assert abs(float(value.mean())) < 0.002, name


def test_first_constants_have_the_norms_that_are_configured():
    """Fails if the constant, a bias, the first token or jitter begins with another norm."""
    config = run_config("unimodal", "paper")
    options = DecoderConfig(token_constant=3.0, attention_bias="both", attention_bias_std=0.125)
    sequence = replace(config.sequence, jitter=400, first_token="learnt")
    found = Decoder(replace(config, decoder=options, sequence=sequence)).initial_parameters(1)
    assert float(found["decoder.constant"].norm()) == pytest.approx(3.0, rel=1e-5)
    assert float(found["decoder.jitter"].norm(dim=-1).mean()) == pytest.approx(1, rel=0.05)
    assert float(found["decoder.first_token"].norm()) == pytest.approx(1, rel=0.3)
    biases = torch.cat([v for n, v in found.items() if n.endswith(("query_bias", "key_bias"))])
    assert biases.numel() == 4 * 64
    assert float(biases.std()) == pytest.approx(0.125, rel=0.15)


def test_a_parameters_first_value_does_not_depend_on_the_others():
    """Fails if parameters share one random stream: then another layer would change the first one's weights."""
    two = Decoder(tiny_config()).initial_parameters(0)
    three = Decoder(tiny_config(decoder={"layers": 3, "mlp": "none", "initial_std": 0.3})).initial_parameters(0)
    other = Decoder(tiny_config()).initial_parameters(1)
    shared = [name for name in two if name in three and ".norm" not in name]
    assert len(shared) == 7
    for name in shared:
        assert torch.equal(two[name], three[name])
        assert not torch.equal(two[name], other[name])
    drawn = [value.flatten()[:8] for name, value in two.items() if name in shared]
    assert len({tuple(v.tolist()) for v in drawn}) == len(drawn)
