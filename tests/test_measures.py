"""The door for measures: a measure of one's own, what measures assume, what is left out, and the guide lines."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from test_strengths import random_attention
from tiny import lively_parameters, tiny_config

from miclab.circuits.diagnose import diagnose
from miclab.circuits.head_strengths import circuits
from miclab.circuits.knockout import knock_out
from miclab.cli import main
from miclab.config.extensions import load_plugin
from miclab.config.request import Request, SplitSizes
from miclab.errors import ConfigError, MiclabError
from miclab.measures.attention import attention_entropy, key_constant, label_row_entropy, strengths
from miclab.measures.baselines import levels
from miclab.measures.evaluate import evaluate
from miclab.measures.layer import Layer, causal, take
from miclab.measures.registry import MEASURES, chosen, describe, guides, measure
from miclab.model.decoder import Decoder
from miclab.training.loop import train_config
from miclab.worlds.roles import sequence_roles
from miclab.worlds.sequences import training_batch
from miclab.worlds.world import draw_world

SIZES = SplitSizes(sequences=20, novel_sets=2)
OF_EVERY_ROW = (
    "previous_token_1", "previous_token_2", "label_to_item", "induction", "induction_total", "induction_all_positions",
    "target_label_attention", "target_item_attention", "total_label_attention", "entropy", "label_row_entropy",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def plugin():
    """The example of the page on measures, loaded as `--plugin` loads it."""
    return load_plugin(Path(__file__).parent / "extensions" / "weight_norm.py")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A real training of a few steps, two layers of two heads."""
    request = Request(steps=2, evaluate_every=2, checkpoint_every=2, sequences=4, novel_sets=1)
    config = tiny_config(decoder={"heads": 2, "positions": "rope"})
    return train_config(config, request, tmp_path_factory.mktemp("runs"))[0]


@pytest.fixture
def registered():
    """Takes measures that a test registers out of the registry again."""
    before = dict(MEASURES._known)
    yield
    MEASURES._known.clear()
    MEASURES._known.update(before)


# -- a measure of one's own ---------------------------------------------------------------------------------------
def test_a_measure_of_weights_of_a_trained_run(run, plugin):
    """Fails if a plugin's measure is not given its layer's weights, or heads or layers are mixed up: beside NumPy."""
    found = evaluate(run, splits=("icl",), sizes=SIZES, measures=("strongest_direction",)).scores["icl"]
    _, parameters = run.parameters()
    size = parameters["decoder.blocks.0.attention.query"].shape[1] // 2
    for layer in range(2):
        weights = [parameters[f"decoder.blocks.{layer}.attention.{part}"].double().numpy() for part in ("query", "key")]
        for head in range(2):
            query, key = (w[:, head * size : (head + 1) * size] for w in weights)
            values = np.linalg.svd(query @ key.T, compute_uv=False) ** 2
            assert found.strengths["strongest_direction"][:, layer, head] == pytest.approx(values[0] / values.sum())
    assert Path(MEASURES.file("strongest_direction")) == plugin.file
    assert guides("strongest_direction", run.config)[0][0] == pytest.approx(1 / size)


def test_rows_hold_the_same_measures_whatever_is_registered(run):
    """Fails if a plugin, or a measure on request, enters metric rows: rows of one configuration would differ."""
    assert {name.partition(".")[0] for name in run.rows()[-1]["measures"]} == set(OF_EVERY_ROW)
    assert tuple(one.name for one in chosen(True)) == (*OF_EVERY_ROW, "learnt_weight")


def test_what_cannot_be_given_is_left_out_by_name(run, registered, capsys):
    """Fails if a missing activation ends in a traceback, takes other measures with it, or is not named."""
    measure("of_gates", needs=("gates",), range=(0, 1), words="needs what no layer gives")(lambda gates: gates)
    measure("of_masks", needs=("pattern",), assumes=("a_gate",), range=(0, 1), words="")(lambda pattern: pattern)
    wanted = ("of_gates", "strongest_direction", "of_masks", "entropy")
    found = evaluate(run, splits=("icl",), sizes=SIZES, measures=wanted).scores["icl"]
    assert list(found.strengths) == ["strongest_direction", "entropy"]
    assert list(found.left_out) == ["of_gates", "of_masks"]
    assert "gives no gates" in found.left_out["of_gates"]
    sizes = ("--sequences", "20", "--novel-sets", "2", "--measures", *wanted)
    assert main(["evaluate", str(run.path), *sizes, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert list(content["measures"]) == ["strongest_direction", "entropy"]
    assert set(content["measures"]["entropy"]) == {"0.0", "0.1", "1.0", "1.1"}
    assert content["left_out"] == found.left_out
    assert main(["evaluate", str(run.path), *sizes]) == 0
    assert "of_gates: left out" in re.sub(r"\s+", " ", capsys.readouterr().out)


def test_a_report_shows_measures_on_request(run, registered, tmp_path, capsys):
    """Fails if a report lacks a measure that was requested, or hides that it was left out; or takes a wrong name."""
    measure("of_gates", needs=("gates",), range=(0, 1), words="needs what no layer gives")(lambda gates: gates)
    page = tmp_path / "page.html"
    requested = ("report", str(run.path), "--output", str(page), "--measures")
    assert main([*requested, "strongest_direction", "of_gates"]) == 0
    text = page.read_text()
    assert re.search(r'<h4>Measures on request.*?<td class="name">strongest_direction</td>', text, re.DOTALL)
    assert "The measure of_gates is left out" in text
    assert main([*requested, "strongest"]) == 2
    assert "strongest_direction" in capsys.readouterr().err


def test_faults_of_a_measure_are_named(run, registered):
    """Fails if an unknown name, an unknown argument or a wrong shape is not said in words."""
    with pytest.raises(ConfigError, match="entropy"):
        evaluate(run, splits=("icl",), sizes=SIZES, measures=("entropi",))
    with pytest.raises(MiclabError, match="'attention' that it is not given"):
        measure("wrong_argument", needs=("pattern",), range=(0, 1), words="")(lambda attention: attention)
    measure("wrong_shape", needs=("pattern",), range=(0, 1), words="")(lambda pattern: pattern)
    with pytest.raises(MiclabError, match=r"'wrong_shape' returned .* has to return a tensor \[batch, head\]"):
        evaluate(run, splits=("icl",), sizes=SIZES, measures=("wrong_shape",))


# -- what measures assume of the mask ------------------------------------------------------------------------------
def window(length: int, width: int) -> torch.Tensor:
    """Each position sees itself and so many before it."""
    return causal(length) & ~causal(length).tril(-width)


def test_entropies_count_what_a_row_may_see():
    """Fails if a row is divided by the log of positions that a mask hides; heads may have masks of their own."""
    roles, length = sequence_roles(("m1",), 4), 9
    visible = torch.stack([window(length, 3), window(length, 2)])
    attention = visible[None].float() / visible[None].sum(-1, keepdim=True)
    torch.testing.assert_close(attention_entropy(attention, visible), torch.ones(1, 2))
    torch.testing.assert_close(label_row_entropy(attention, roles, visible), torch.ones(1, 2))
    # The same rows under a mask that hides nothing are sharper than uniform.
    assert (attention_entropy(attention, causal(length)) < 0.51).all()


def test_a_plain_causal_mask_changes_no_bit():
    """Fails if the mask that a decoder gives and the one that is taken for granted differ in a digit: rows of old runs
    are compared bit by bit."""
    for modalities, context in ((("m1",), 8), (("m1", "m2"), 8), (("m1",), 60)):
        roles = sequence_roles(modalities, context)
        length = roles.kind.shape[-1]
        attention = random_attention(3, 2, length, context)
        labels, target = torch.randint(3, (3, context)), torch.randint(3, (3,))
        plain = strengths(attention, roles, labels, target)
        masked = strengths(attention, roles, labels, target, causal(length)[None])
        assert all(torch.equal(plain[name], masked[name]) for name in plain)


def test_guide_lines_are_what_uniform_attention_gives():
    """Fails if a guide line named uniform is not the measure's value there, or a value leaves the measure's range."""
    config = tiny_config(2)
    roles, length = sequence_roles(config.order, config.sequence.context), config.sequence_length
    # Another order than that of the levels, and the query of another class: neither matters.
    labels, target = torch.tensor([[1, 0, 0, 1]]), torch.tensor([1])
    uniform = causal(length)[None, None].float() / causal(length).sum(-1)[:, None]
    found = strengths(uniform, roles, labels, target)
    checked = 0
    for name, value in found.items():
        for level, words in levels(name, config):
            if "uniform" in words:
                assert float(value) == pytest.approx(level, abs=1e-5), name
                checked += 1
    assert checked == len(found)
    drawn = strengths(random_attention(1, 64, length, 0), roles, labels, target)
    for name, value in drawn.items():
        low, high = MEASURES[name.partition(".")[0]].range
        assert low <= float(value.min()) <= float(value.max()) <= high, name
        assert all(describe(name)), name


# -- the constant part of keys -------------------------------------------------------------------------------------
def test_key_constant_is_the_share_of_the_norm_that_is_common():
    """Fails if the constant is taken over positions instead of sequences, is biased by few sequences, or heads that
    share keys do not share the value."""
    generator = torch.Generator().manual_seed(0)
    constant = torch.randn(2, 6, 4, generator=generator)
    constant[1] = 0
    share = float(constant[0].square().sum(-1).mean() / (constant[0].square().sum(-1).mean() + 4))
    drawn = torch.stack([
        key_constant(constant + torch.randn(3, 2, 6, 4, generator=generator), head_count=4) for _ in range(4000)
    ])  # fmt: skip
    assert drawn.mean(0).tolist() == pytest.approx([share, share, 0, 0], abs=0.02)
    alike = constant[None].expand(5, -1, -1, -1)
    assert key_constant(alike, head_count=2).tolist() == pytest.approx([1, 0])


def test_key_constant_reads_keys_where_a_layer_gives_them():
    """Fails if the activation is not found by its short name."""
    keys = torch.ones(3, 2, 5, 4)
    layer = Layer(sequence_roles(("m1",), 2), torch.zeros(3, 2, dtype=torch.long), torch.zeros(3, dtype=torch.long),
                  2, {"attention.keys": keys})  # fmt: skip
    found, left_out = take(chosen(("key_constant", "entropy")), layer)
    assert found["key_constant"].tolist() == [[1, 1]] * 3
    assert left_out == {"entropy": "the decoder's attention gives no pattern"}


@pytest.mark.parametrize("positions", ["rope", "alibi", "learned"])
def test_keys_are_those_before_their_positions(positions):
    """Fails if the keys that a layer gives are rotated, or miss what makes them: beside a plain product."""
    config = tiny_config(decoder={"norm": "none", "positions": positions, "heads": 2})
    batch, parameters = training_batch(config, draw_world(config), 0), lively_parameters(config)
    found = Decoder(config).trace(parameters, batch, capture=("embedding", "blocks.0.attention.keys")).activations
    wanted = found["embedding"] @ parameters["decoder.blocks.0.attention.key"]
    torch.testing.assert_close(found["blocks.0.attention.keys"].transpose(1, 2).flatten(2), wanted)


def test_a_constant_on_every_token_shows_in_the_keys(tmp_path):
    """Fails if `key_constant` of a real run does not see what the configuration put into every key."""
    request = Request(steps=1, evaluate_every=1, checkpoint_every=1, sequences=4, novel_sets=1)
    found = {}
    for norm in (0.0, 8.0):
        config = tiny_config(decoder={"positions": "rope", "token_constant": norm})
        run = train_config(config, request, tmp_path)[0]
        found[norm] = evaluate(run, splits=("icl",), sizes=SIZES, measures=("key_constant",)).scores["icl"]
    share = {norm: float(scores.strengths["key_constant"][:, 0].mean()) for norm, scores in found.items()}
    assert share[0.0] < 0.3
    assert share[8.0] > 0.8


def test_a_decoder_without_a_pattern_says_so_everywhere(tmp_path):
    """Fails if linear attention, which has no pattern, ends an analysis in a traceback, or a row claims a measure."""
    load_plugin(Path(__file__).parent / "extensions" / "linear_example.py")
    request = Request(steps=1, evaluate_every=1, checkpoint_every=1, sequences=4, novel_sets=2)
    config = tiny_config(decoder={"heads": 2, "positions": "learned", "attention": {"name": "linear_example"}})
    run = train_config(config, request, tmp_path)[0]
    assert run.rows()[-1]["measures"] == {}
    found = circuits([run], sizes=SIZES)
    assert (found.measures, found.heads) == ({}, (None,))
    assert "gives no pattern" in found.no_circuit[0]
    effects = knock_out([run], sizes=SIZES)
    assert [e.name for e in effects.effects] == ["untouched", "head 0.0", "head 0.1", "head 1.0", "head 1.1"]
    assert {sign.name for sign in diagnose(run, sizes=SIZES).signs if "gives no pattern" in sign.evidence} == {
        "no induction circuit",
        "diffuse attention",
    }
