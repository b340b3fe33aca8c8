"""Mechanisms of attention: their options, sizes, first weights and what is logged of them; parity, causality and the
fast path are in tests/test_decoder.py, which runs over the registry."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny import lively_parameters, tiny_config, tiny_mapping

from miclab.config.options import ATTENTION, AttentionOptions, option_text
from miclab.config.positions import POSITION_CODES, position_text
from miclab.config.request import Request
from miclab.config.run import RunConfig
from miclab.config.schema import from_mapping, to_mapping, trajectory_hash
from miclab.errors import ConfigError
from miclab.model.cost import cost
from miclab.model.decoder import Decoder
from miclab.training.loop import train_config

QUERY_KEY_VALUE = {"query", "key", "value"}
NAMES = {
    "softmax": QUERY_KEY_VALUE,
    "smeared": QUERY_KEY_VALUE | {"share"},
    "smeared:share=frozen": QUERY_KEY_VALUE,
    "short_convolution": QUERY_KEY_VALUE | {"share", "taps"},
    "sliding_window": QUERY_KEY_VALUE,
    "qk_norm": QUERY_KEY_VALUE | {"query_gain", "key_gain"},
    "sink": QUERY_KEY_VALUE | {"sink"},
    "grouped_query": QUERY_KEY_VALUE,
    "multi_query": QUERY_KEY_VALUE,
    "previous_token": {"value"},
    "latent": QUERY_KEY_VALUE | {"compress", "query_rotary", "key_rotary"},
    "differential": QUERY_KEY_VALUE | {"lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2", "head_gain"},
    "differential:share=free": QUERY_KEY_VALUE | {"share", "head_gain"},
    "linear": QUERY_KEY_VALUE,
    "forgetting": QUERY_KEY_VALUE | {"gate", "gate_bias"},
    "gated_delta": QUERY_KEY_VALUE | {"write", "gate", "gate_bias", "gate_rate", "head_gain"},
    "gated_delta:convolution=4,gate=frozen": QUERY_KEY_VALUE | {"write", "taps", "head_gain"},
    "multi_token": QUERY_KEY_VALUE | {"share", "kernel", "head_gain"},
    "multi_token:mixed=2,share=frozen": QUERY_KEY_VALUE | {"mixing", "head_gain"},
}
"""Parameters of a layer, by mechanism; two heads, which adds `output`."""


@pytest.mark.parametrize("text", NAMES)
def test_names_of_parameters_are_frozen(text):
    """Fails if a parameter of a mechanism is renamed: it would begin with other numbers than in old runs."""
    config = tiny_config(1, decoder={"attention": text, "heads": 2})
    assert set(Decoder(config).attention[0].shapes(0)) == NAMES[text] | {"output"}
    assert {name.partition(":")[0] for name in NAMES} | {"by_layer", "dilated", "linear_example"} >= set(ATTENTION)


# -- options ------------------------------------------------------------------------------------------------------
REFUSED = {
    "a window of 0": ("sliding_window:window=0", "window", "at least 1"),
    "groups that do not divide the heads": ("grouped_query:groups=3", "groups", "[1, 2]"),
    "a rank above the width": ("latent:rank=9", "rank", "8"),
    "a start that a sigmoid never gives": ("smeared:start=0", "start", "'free'"),
    "no such share": ("smeared:share=open", "share", "bounded"),
    "a share that makes no sense": ("sink:share=bounded", "share", "free"),
    "back beyond the sequence": ("smeared:back=9", "back", "9 positions"),
    "a convolution of one position": ("short_convolution:width=1", "width", "at least 2"),
    "a gate that forgets nothing and is learnt": ("forgetting:start=0", "start", "'frozen'"),
    "mixing that does not divide the heads": ("multi_token:mixed=3", "mixed", "[1, 2]"),
    "too few mechanisms": ("by_layer:each=[smeared]", "each", "2 layers"),
    "a mechanism within itself": ("by_layer:each=[by_layer,softmax]", "each", "one layer"),
    "one choice written in two ways": ("by_layer:each=[softmax,'smeared:start=0.50']", "each", "'smeared'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_that_cannot_be_are_named(name):
    """Fails if a mechanism that needs something else is let through, or the message would not help to mend it."""
    attention, field, word = REFUSED[name]
    with pytest.raises(ConfigError) as raised:
        from_mapping(RunConfig, tiny_mapping(1, decoder={"attention": attention, "heads": 2}))
    assert raised.value.field == f"decoder.attention.{field}"
    assert word in str(raised.value), str(raised.value)


def test_heads_that_cannot_be_halved_are_named():
    with pytest.raises(ConfigError, match="multiple of 4") as raised:
        tiny_config(1, decoder={"attention": "differential", "heads": 4})
    assert raised.value.field == "decoder.heads"


CODES = {
    "no such option": ("yarn:facter=2", "decoder.positions.facter", "'factor'"),
    "options of a code without": ("rope:theta=2", "decoder.positions.theta", "known field"),
    "a factor below 1": ("yarn:factor=0.5", "decoder.positions.factor", "at least 1"),
    "no range of frequencies": ("yarn:slow=2,fast=1", "decoder.positions.fast", "more than"),
    "too small a fraction": ("partial_rope:fraction=0.1", "decoder.positions.fraction", "at least 2"),
    "no such code": ("yarm:factor=2", "decoder.positions", "'yarn'"),
}


@pytest.mark.parametrize("name", CODES)
def test_options_of_codes_that_cannot_be_are_named(name):
    """Fails if an option of a position code is ignored or misread."""
    text, field, word = CODES[name]
    with pytest.raises(ConfigError) as raised:
        tiny_config(1, decoder={"positions": text})
    assert raised.value.field == field
    assert word in str(raised.value), str(raised.value)


def test_a_position_code_has_one_text_and_one_hash():
    """Fails if two ways to write one choice give two runs, if a default that is written out renames a run, or if an
    option is lost on its way to disk."""
    forms = ["yarn:factor=2,slow=0.5", "yarn:slow=0.5,factor=2.0", {"name": "yarn", "factor": 2, "slow": 0.5}]
    configs = [tiny_config(1, decoder={"positions": form}) for form in forms]
    assert {config.decoder.positions for config in configs} == {"yarn:factor=2.0,slow=0.5"}
    assert len({trajectory_hash(config) for config in configs}) == 1
    assert from_mapping(RunConfig, json.loads(json.dumps(to_mapping(configs[0])))) == configs[0]
    assert configs[0].variety == "yarn"
    assert position_text("partial_rope:fraction=0.25") == "partial_rope"
    assert all(position_text(name) == position_text({"name": name}) == name for name in POSITION_CODES)
    # The hash of a plain name as it has always been.
    assert trajectory_hash(tiny_config(1, decoder={"positions": "rope"})) == trajectory_hash(tiny_config(1))


# -- first weights and what is logged -----------------------------------------------------------------------------
STARTS = {
    "smeared": 0.5, "smeared:start=0.02": 0.02, "smeared:start=0,share=free": 0.0, "smeared:share=frozen": 0.5,
    "smeared:share=free": 0.5, "short_convolution:start=0.02": 0.02, "qk_norm:start=3": 3.0, "sink:start=-1": -1.0,
    "sink:share=frozen": 0.0, "differential:start=0.3,share=bounded": 0.3, "forgetting:start=0.1": 0.1,
    "forgetting:gate=frozen,start=0.0": 0.0, "gated_delta:start=0.25": 0.25, "multi_token:start=0.5,share=free": 0.5,
}  # fmt: skip


@pytest.mark.parametrize("text", STARTS)
def test_weights_begin_as_configured(text):
    """Fails if an initial weight is not the one that an option says, by the mechanism's own account."""
    decoder = Decoder(tiny_config(1, decoder={"attention": text, "heads": 2}))
    found = decoder.weight(decoder.initial_parameters(0), 0)["weight"]
    assert found.tolist() == pytest.approx([STARTS[text]] * 2, abs=1e-6)


@pytest.mark.parametrize("text", ["smeared:start=0,share=free", "forgetting:gate=frozen,start=0.0", "sink:start=-60",
                                  "short_convolution:start=0,share=free", "sliding_window:window=9"])  # fmt: skip
def test_a_mechanism_of_weight_zero_is_plain_attention(text):
    """Fails if a mechanism changes attention where its weight says that it does not."""
    plain = Decoder(tiny_config(1, decoder={"heads": 2}))
    other = Decoder(tiny_config(1, decoder={"heads": 2, "attention": text}))
    parameters = {**other.initial_parameters(1), **plain.initial_parameters(1)}
    x = torch.randn(2, plain.config.sequence_length, 8, generator=torch.Generator().manual_seed(0))
    found = []
    for decoder in (plain, other):
        own = {name: parameters[f"decoder.blocks.0.attention.{name}"] for name in decoder.attention[0].shapes(0)}
        given = {"layer": 0, "positions": decoder.positions_of(parameters), "roles": None}
        found.append(decoder.attention[0].everywhere(own, x, None, **given, point=lambda name, value: value))
    torch.testing.assert_close(*found)


def test_the_learnt_weight_is_logged_in_the_layer_that_has_it(tmp_path):
    """Fails if a row lacks the weight of a mechanism, puts it into another layer, or takes measures away from the layer
    that is plain softmax: the weight in a checkpoint is that of the row."""
    config = tiny_config(1, decoder={"attention": "by_layer:each=['sink:start=-2.0',smeared]", "heads": 2})
    request = Request(steps=3, evaluate_every=3, checkpoint_every=3, sequences=4, novel_sets=2)
    run, _ = train_config(config, request, tmp_path)
    row = run.rows()[-1]["measures"]
    _, parameters = run.parameters(3)
    sink = parameters["decoder.blocks.0.attention.sink"].tolist()
    share = parameters["decoder.blocks.1.attention.share"].sigmoid().tolist()
    np.testing.assert_allclose(row["learnt_weight"], [sink, share], atol=2e-6)
    assert sink != [-2.0, -2.0]
    assert share != [0.5, 0.5]
    # A sink takes attention away, so entropies are those of the other layer alone.
    assert row["entropy"][0] == [None, None]
    assert all(0 <= value <= 1 for value in row["entropy"][1])
    assert np.isfinite(np.array(row["induction_total"], dtype=float)).all()
    assert "learnt_weight" not in train_config(tiny_config(1), request, tmp_path)[0].rows()[-1]["measures"]


# -- one mechanism for each layer ---------------------------------------------------------------------------------
def test_each_layer_has_its_own_mechanism():
    """Fails if layers are mixed up: beside decoders with one mechanism in one layer."""
    both = Decoder(tiny_config(1, decoder={"attention": "by_layer:each=[smeared,'sink:start=-2.0']"}))
    assert [type(one).__name__ for one in both.attention] == ["Smeared", "Sink"]
    assert [one.options for one in both.attention] == list(both.options.attention.chosen)
    assert [name for _, name in both.config.uses()[1:]] == ["by_layer", "smeared", "sink"]
    alone = tiny_config(1, decoder={"attention": "smeared:layers=[0]"})
    assert Decoder(alone).shapes().items() <= both.shapes().items()
    text = option_text("by_layer", both.options.attention)
    assert AttentionOptions.read(text, "", None) == both.options.attention


# -- sizes --------------------------------------------------------------------------------------------------------
def test_operations_of_softmax_are_those_of_its_products():
    """Fails if an operation is lost or counted twice: the sum of 2 m k n over the products of the forward pass."""
    config = tiny_config(1, decoder={"heads": 2, "width": 12, "mlp_hidden": 20, "mlp": "swiglu"})
    length, width, labels = config.sequence_length, 12, 8
    attention = 4 * 2 * length * width**2 + 2 * 2 * length**2 * width
    found = cost(config)
    assert found.attention_flops == 2 * attention
    assert found.flops == 2 * (attention + 3 * 2 * length * width * 20) + 2 * width * labels
    assert found.attention_parameters == 2 * 4 * width**2
    assert found.parameters == Decoder(config).parameter_count()


MORE = {
    "smeared": 2, "short_convolution": 3 * 2 * 8, "qk_norm": 8, "sink": 2, "multi_query": -64, "linear": 0,
    "grouped_query:groups=2": 0, "latent:rank=2": 16 + 16 + 16 - 128 + 64 + 32, "differential": 4 * 2 + 4,
    "forgetting": 16 + 2, "gated_delta": 16 + 16 + 4 + 4, "multi_token": 2 * 6 * 11 + 2 + 4, "previous_token": -128,
}  # fmt: skip
"""Parameters of a layer more than softmax has; width 8, two heads."""


@pytest.mark.parametrize("text", MORE)
def test_parameters_of_a_mechanism_are_those_of_its_formula(text):
    """Fails if a parameter is missing or one too many, or if products go uncounted."""
    plain, other = (cost(tiny_config(1, decoder={"attention": a, "heads": 2})) for a in ("softmax", text))
    more = other.attention_parameters - plain.attention_parameters
    assert more == 2 * MORE[text]
    assert other.parameters - plain.parameters == more
    assert other.attention_flops > 0
    if text == "latent:rank=2":
        products = 2 * 9 * (8 * 8 + 8 * 2 + 2 * 2 * 8 + 8 * 8 + 8 * 4 + 64) + 2 * 81 * (2 * 8 + 8)
        assert other.attention_flops == 2 * products


def test_lively_parameters_of_every_mechanism_stay_finite():
    """Fails if a mechanism divides by zero or overflows on long sequences."""
    for name in ATTENTION:
        config = tiny_config(1, decoder={"attention": name, "heads": 2}, sequence={"context": 64, "burstiness": 1})
        decoder = Decoder(config)
        x = torch.randn(2, config.sequence_length, 8, generator=torch.Generator().manual_seed(0))
        parameters = lively_parameters(config)
        own = {n: parameters[f"decoder.blocks.0.attention.{n}"] for n in decoder.attention[0].shapes(0)}
        given = {"layer": 0, "positions": decoder.positions_of(parameters), "roles": None}
        assert decoder.attention[0].everywhere(own, x, None, **given, point=lambda _, value: value).isfinite().all()
