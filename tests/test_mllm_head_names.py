"""Patterns of production models' heads: replaced, and called what they are, beside uniform attention."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_mllm_edges import by_hand
from tiny_mllm import production, task

from miclab.cli import main
from miclab.cli.mllm_heads import head_rows, interval_of
from miclab.errors import ConfigError
from miclab.mllm.attention import watchable
from miclab.mllm.edits import patterns_set
from miclab.mllm.episodes import make_episodes
from miclab.mllm.head_names import PLACES, uniform_strengths
from miclab.mllm.heads import HeadTable, measure_heads, with_random_weights
from miclab.mllm.knockout import knock_out
from miclab.mllm.loading import load_model
from miclab.mllm.options import EpisodeOptions, KnockoutOptions, LoadOptions
from miclab.mllm.passes import forward
from miclab.mllm.results import read_table
from miclab.worlds.roles import LABEL


@torch.no_grad()
@pytest.mark.parametrize("pattern", ["uniform", "previous_token", "own_item"])
@pytest.mark.parametrize("family", ["qwen2.5-vl", "opt", "gpt-oss"])
def test_a_head_with_a_replaced_pattern_writes_its_values_by_it(family: str, pattern: str, tmp_path: Path):
    """Fails if a head reads other values than its new pattern says, or uniform attention leaves a layer's window."""
    of = production(family)
    chosen, heads = task(tmp_path, of.view), [(0, 1), (0, 2)]
    encoded = of.prompter(chosen).encode([(e, answer) for e in chosen.episodes for answer in e.candidates])
    length, layer = encoded.inputs["input_ids"].shape[1], of.layers[0]
    seen: dict[str, torch.Tensor] = {}
    layer.projections[2].register_forward_hook(lambda _, __, output: seen.update(values=output))
    layer.output_projection.register_forward_pre_hook(lambda _, arguments: seen.update(outputs=arguments[0]))
    with watchable(of.model):
        with patterns_set(of.model, of.layers, heads, pattern, encoded.readings, length):
            forward(of.model, encoded.to(of.model))
        found, values = seen["outputs"], seen["values"]
    of.model.set_attn_implementation("eager")
    maps = of.model(**encoded.to(of.model), use_cache=False, output_attentions=True).attentions[0]
    changed, window = 0.0, of.model.config.sliding_window if family == "gpt-oss" else 1000
    for row, reading in enumerate(encoded.readings):
        real = int(encoded.inputs["attention_mask"][row].sum())
        kind, exemplar = reading.roles.kind, reading.roles.exemplar
        for head in range(layer.heads):
            columns = slice(head * layer.head_size, (head + 1) * layer.head_size)
            pair = head // (layer.heads // layer.key_value_heads)
            own = values[row, :real, pair * layer.head_size : (pair + 1) * layer.head_size]
            expected = maps[row, head, :real, :real].clone()
            before = expected.clone()
            if head in (1, 2) and pattern == "uniform":
                expected = torch.ones(real, real).tril().triu(1 - window)
                expected /= expected.sum(-1, keepdim=True)
            elif head in (1, 2) and pattern == "previous_token":
                expected = torch.eye(real)[[0, *range(real - 1)]]
            elif head in (1, 2):
                for place in (kind == LABEL).nonzero()[:, 0].tolist():
                    items = ((kind == 0) & (exemplar == exemplar[place])).float()
                    expected[place] = torch.nn.functional.pad(items / items.sum(), (0, real - len(items)))
            torch.testing.assert_close(found[row, :real, columns], expected @ own, atol=1e-5, rtol=1e-4)
            changed = max(changed, float((expected - before).abs().max()))
    assert changed > 0.05


def test_uniform_attention_over_a_sequence_written_by_hand():
    levels = {name: float(of[0, 0]) for name, of in uniform_strengths([by_hand()]).items()}
    # Labels are at places 2, 3 and 6, and see 3, 4 and 7 positions; each has one item. The last of 11 sees all.
    assert levels["label_to_item.image"] == pytest.approx((1 / 3 + 1 / 4 + 1 / 7) / 3)
    assert levels["induction_total"] == pytest.approx(1 / 11 - 2 / 11)
    assert levels["entropy"] == pytest.approx(1)
    assert levels["label_row_entropy"] == pytest.approx(1)


def test_heads_are_named_from_halfway_between_uniform_attention_and_all():
    """Heads 0 and 1 look at their own items, just above and below halfway; 2 is diffuse, 3 is sharp."""
    looks = np.tile([0.61, 0.59, 0.2, 0.1], (30, 1))
    ranks = np.tile([0.1, 0.2, 0.3, 0.4], (30, 1))
    values = {"label_to_item.image": looks, "previous_token_1": ranks,
              "label_row_entropy": np.tile([0.3, 0.3, 0.9, 0.2], (30, 1))}  # fmt: skip
    heads = tuple((2, head) for head in range(4))
    table = HeadTable("m", "t", heads, values, uniform={"label_to_item.image": 0.2})
    found = {one.head[1]: one.pattern for one in table.called({"previous_token_1": "previous token"}, 4)}
    assert found == {0: "previous-token head", 1: "other head", 2: "averaging head", 3: "other head"}
    assert [one.head[1] for one in table.called({"previous_token_1": "previous token"}, 2)] == [3, 2]
    assert HeadTable("m", "t", heads, values).called(PLACES, 4) == ()


def test_kept_intervals_name_heads_as_their_episodes_do_and_a_lone_mean_names_none():
    draws = np.random.default_rng(0)
    values = {"label_to_item.image": np.stack([draws.normal(mean, 0.2, 12) for mean in (0.9, 0.62, 0.1)], 1),
              "induction_total": np.stack([draws.normal(mean, 0.2, 12) for mean in (0.1, 0.52, 0.9)], 1),
              "previous_token_1": np.tile([0.3, 0.2, 0.1], (12, 1)), "induction_all_positions": np.zeros((12, 3)),
              "label_row_entropy": np.full((12, 3), 0.95), "entropy": np.full((12, 3), 0.2)}  # fmt: skip
    heads, uniform = tuple((0, head) for head in range(3)), {"label_to_item.image": 0.2, "induction_total": 0.0}
    table = HeadTable("m", "t", heads, values, uniform=uniform)
    rows = {(row["measure"], row["head"]): row for row in head_rows(table)}
    means = {name: of.mean(0, keepdims=True) for name, of in values.items()}
    kept = {name: [interval_of(rows[name, head]) for head in range(3)] for name in values}
    again = HeadTable("m", "t", heads, means, uniform=uniform, kept=kept).called(PLACES, 3)
    assert [one.as_json() for one in again] == [one.as_json() for one in table.called(PLACES, 3)]
    # The second head's mean is above halfway, but not its whole interval.
    words = {(one.place, one.head[1]): one.pattern for one in again}
    assert [words["previous token", head] for head in range(3)] == ["previous-token head", *["averaging head"] * 2]
    assert [words["induction", head] for head in range(3)] == ["other head", "other head", "induction head"]
    assert {one.pattern for one in HeadTable("m", "t", heads, means, uniform=uniform).called(PLACES, 3)} == {
        "undecided"
    }


def test_the_knockout_of_patterns_says_what_is_needed(capsys, tmp_path: Path):
    folder = make_episodes(tmp_path / "letters", EpisodeOptions(episodes=20, seed=7, template="{item}{answer}\n"))
    common = ["--task", str(folder), "--batch", "18", "--json"]
    assert main(["mllm", "heads", "tiny", *common, "--episodes", "6", "--output", str(tmp_path / "heads"),
                 "--save-attention", str(tmp_path / "maps.safetensors")]) == 0  # fmt: skip
    assert (tmp_path / "maps.safetensors").stat().st_size > 2 * 8 * 17**2 * 4
    said = json.loads(capsys.readouterr().out)
    # The strongest heads by `previous_token_1` have no previous-token pattern.
    words = {(one["place"], one["head"]): one for one in said["called"]}
    assert len(words) == 10
    first = {one["pattern"] for (place, _), one in words.items() if place == "previous token"}
    assert "previous-token head" not in first
    assert words["induction", "1.7"]["pattern"] == "induction head"
    assert 0.1 < said["uniform"]["label_to_item.image"] < 0.3
    requested = [
        "mllm",
        "knockout",
        "tiny",
        *common,
        "--heads",
        str(tmp_path / "heads"),
        "--top",
        "2",
        "--layers",
        "none",
    ]
    assert main([*requested, "--baseline", "uniform", "--output", str(tmp_path / "k")]) == 0
    found = json.loads(capsys.readouterr().out)
    effects = {one["name"]: one for one in found["effects"]}
    assert effects["top 2 previous-token"]["need"] == "needed"
    assert effects["top 2 induction"]["need"] != "needed"
    assert effects["untouched"]["need"] is None
    assert {one["head"] for one in found["called"]} == {
        head for name in ("top 2 previous-token", "top 2 induction") for head in effects[name]["heads"][0]
    }
    assert "called" in (tmp_path / "k" / "knockout.html").read_text()


def test_patterns_are_not_set_while_text_is_written(tmp_path: Path):
    of, chosen = production("llama"), task(tmp_path, "text")
    table = measure_heads(of, chosen)
    with pytest.raises(ConfigError, match="judge"):
        knock_out(of, table, chosen, KnockoutOptions(top=1, baseline="own_item"), benchmark=True)


def test_random_weights_are_the_same_architecture_untrained(capsys, tmp_path: Path):
    folder = make_episodes(tmp_path / "letters", EpisodeOptions(episodes=6, seed=7, template="{item}{answer}\n"))
    trained = load_model("tiny", LoadOptions(device="cpu"))
    before = torch.random.get_rng_state()
    first, again = with_random_weights(trained), with_random_weights(trained)
    assert torch.equal(before, torch.random.get_rng_state())
    shapes = {name: tuple(of.shape) for name, of in trained.model.named_parameters()}
    assert {name: tuple(of.shape) for name, of in first.model.named_parameters()} == shapes
    for name, of in first.model.named_parameters():
        assert torch.equal(of, dict(again.model.named_parameters())[name])
        # The tower of `tiny` was never trained, and norms and biases begin as constants.
        if "language_model" in name and of.dim() > 1:
            assert not torch.equal(of, dict(trained.model.named_parameters())[name])
    assert main(["mllm", "heads", "tiny", "--task", str(folder), "--batch", "6", "--baseline", "random", "--json",
                 "--shown", "0", "--maps", "0", "--output", str(tmp_path / "o")]) == 0  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert not (tmp_path / "o" / "attention.html").exists()
    rows = read_table(tmp_path / "o", "random.parquet").filter(measure="induction")
    assert found["random"]["induction"]["mean"] == pytest.approx(rows["mean"].max())
    assert found["top"]["induction"][0]["low"] > found["random"]["induction"]["high"]
