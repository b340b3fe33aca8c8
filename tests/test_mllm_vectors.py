"""Function vectors: what heads write on average, where it is added, and what the tiny model answers with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tiny_mllm import production, task

from miclab.cli import main
from miclab.mllm.episodes import make_episodes
from miclab.mllm.errors import ModelError
from miclab.mllm.heads import measure_heads
from miclab.mllm.knockout import mean_outputs
from miclab.mllm.loading import load_model
from miclab.mllm.options import EpisodeOptions, VectorOptions
from miclab.mllm.passes import forward
from miclab.mllm.readout import readout_of
from miclab.mllm.results import read_table
from miclab.mllm.task import Item
from miclab.mllm.task_folder import load_task
from miclab.mllm.vectors import add_vectors, function_vector, vector_added, without_examples


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "qwen2.5-vl"])
def test_the_vector_is_what_heads_write_at_the_last_position(family: str, tmp_path: Path):
    of = production(family)
    chosen, heads = task(tmp_path, of.view), [(0, 1), (1, 3), (1, 0)]
    prompter = of.prompter(chosen)
    vector = function_vector(of, mean_outputs(of, chosen, 2, lambda reading: [reading.last]), heads)
    expected, projections = torch.zeros_like(vector), [cast("Any", layer.output_projection) for layer in of.layers]
    weights = [projection.weight for projection in projections]
    for episode in chosen.episodes:
        encoded = prompter.encode([(episode, episode.answer)])
        outputs: dict[int, torch.Tensor] = {}

        def keep(index: int, into: dict[int, torch.Tensor] = outputs):
            return lambda _, arguments: into.update({index: arguments[0]})

        handles = [one.output_projection.register_forward_pre_hook(keep(one.index)) for one in of.layers]
        forward(of.model, encoded.to(of.model))
        for handle in handles:
            handle.remove()
        for layer, head in heads:
            size, weight = of.layers[layer].head_size, weights[layer]
            columns = slice(head * size, (head + 1) * size)
            # GPT-2's maps are the other way round.
            weight = weight[columns].T if family == "gpt2" else weight[:, columns]
            expected += weight @ outputs[layer][0, encoded.readings[0].last, columns] / len(chosen.episodes)
    torch.testing.assert_close(vector, expected, atol=1e-5, rtol=1e-4)
    # It is added at the last position alone: after the last layer, no other logits change.
    readout, bare = readout_of(of), without_examples(chosen)
    encoded = of.prompter(bare).encode([(episode, episode.answer) for episode in bare.episodes])
    positions = torch.arange(encoded.inputs["input_ids"].shape[1])
    plain = forward(of.model, encoded.to(of.model), positions)
    with vector_added(readout.blocks[1], vector, encoded):
        found = forward(of.model, encoded.to(of.model), positions)
    changed = (plain - found).abs().amax(-1) > 1e-4
    for row, reading in enumerate(encoded.readings):
        assert changed[row].nonzero().squeeze(-1).tolist() == [reading.last]
    torch.testing.assert_close(forward(of.model, encoded.to(of.model), positions), plain)


def test_queries_without_examples_keep_their_candidates(tmp_path: Path):
    chosen = task(tmp_path, "text")
    for before, after in zip(chosen.episodes, without_examples(chosen).episodes, strict=True):
        assert (after.support, after.candidates, after.query) == ((), before.candidates, before.query)


def test_the_vector_of_one_answer_raises_it_in_the_tiny_model(capsys, tmp_path: Path):
    folder = make_episodes(tmp_path / "letters", EpisodeOptions(episodes=20, seed=7, template="{item}{answer}\n"))
    of, chosen = load_model("tiny"), load_task(folder, shots=2)
    # The answer is the same in every episode, so that the vector can carry it.
    names = [{one.answer: "mipo"} | {e.answer: "wano" for e in one.support if e.answer != one.answer}
             for one in chosen.episodes]  # fmt: skip
    same = replace(chosen, episodes=tuple(
        replace(one, answer="mipo", support=tuple(replace(e, answer=name[e.answer]) for e in one.support))
        for one, name in zip(chosen.episodes, names, strict=True)
    ))  # fmt: skip
    ranked = same.part(0, 8)
    table = measure_heads(of, ranked, 8)
    found = add_vectors(of, table, same.part(8), ranked, VectorOptions(top=4), batch=12)
    assert found.few_shot.interval("correct").mean > 0.7
    assert found.effects[1].change("log_probability").low > 1
    assert found.zero_shot.interval("probability").mean < 0.01
    with pytest.raises(ModelError, match="no layer 2 of attention: the model has 0, 1"):
        add_vectors(of, table, same, ranked, VectorOptions(layers=(2,)))

    requested = ["mllm", "vectors", "tiny", "--task", str(folder), "--batch", "12", "--rank", "8", "--layers", "1"]
    assert main([*requested, "--top", "2", "--json", "--output", str(tmp_path / "o")]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["episodes"], len(said["heads"]), list(said["layers"])) == (12, 2, ["1"])
    assert len(said["layers"]["1"]["draws"]) == 20
    # Names are new in every episode, so that no vector can hold them.
    assert said["layers"]["1"]["correct"]["mean"] == 0
    assert len(read_table(tmp_path / "o", "answers.parquet")) == 12 * (1 + 21)
    assert "function vector" in (tmp_path / "o" / "vectors.html").read_text()


def test_all_rows_of_vectors_are_over_the_same_episodes(tmp_path: Path):
    of = production("qwen2.5-vl")
    chosen = task(tmp_path, names=("perpo", "dax"))
    first, second, third = chosen.episodes
    # An example of the second cannot be read, nor can the query of the first.
    lost = [Item((tmp_path / f"{name}.png",)) for name in ("one", "two")]
    second = replace(second, support=(replace(second.support[0], item=lost[0]), *second.support[1:]))
    both = replace(chosen, episodes=(replace(first, query=lost[1]), second, third, replace(third, name="fourth")))
    table = measure_heads(of, replace(chosen, episodes=(third,)))
    options = VectorOptions(top=1, draws=20, layers=(1,))
    found = add_vectors(of, table, both, replace(chosen, episodes=(third,)), options)
    assert (found.episodes, found.unpaired) == (2, 1)
    effect = found.effects[1]
    for values in (found.few_shot.values, effect.values, effect.before, effect.control or {}):
        assert {len(of_measure) for of_measure in values.values()} == {2}
    assert {row["episode"] for row in found.rows} == {third.name, "fourth"}
    assert "Left out: 1 episodes" in found.tables()[0].notes[-1]
