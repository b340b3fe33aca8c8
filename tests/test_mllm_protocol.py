"""The protocol on production models: tasks on disk, knockouts with controls, fine-tuning, comparison, commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_mllm import production, task

from miclab.cli import main
from miclab.errors import ConfigError, DamagedError, RunError
from miclab.mllm import errors
from miclab.mllm.compare import overlap, published, rankings
from miclab.mllm.episodes import make_episodes
from miclab.mllm.errors import ModelError, OutOfMemoryError, TaskError, memory_guard
from miclab.mllm.heads import measure_heads
from miclab.mllm.knockout import conditions, control_of, knock_out, matched_draws
from miclab.mllm.loading import load_model
from miclab.mllm.memory import memory
from miclab.mllm.options import EpisodeOptions, KnockoutOptions
from miclab.mllm.results import Results, read_manifest, read_table
from miclab.mllm.task import Style, Task
from miclab.mllm.task_folder import load_task
from miclab.mllm.words import distinct_words, is_held_out
from miclab.report.html import packed_plotly
from miclab.report.models import heads_page, knockout_page, page_bytes
from miclab.seeds import stream
from miclab.storage import sealed


@pytest.fixture(scope="module")
def episodes(tmp_path_factory) -> Path:
    """Episodes of shipped pictures that can be said in words too."""
    folder = tmp_path_factory.mktemp("task") / "concepts"
    return make_episodes(folder, EpisodeOptions(data="small:concepts.pictures", episodes=8, seed=1))


def test_made_episodes_are_what_they_say(episodes: Path):
    found = load_task(episodes, shots=2)
    again = load_task(episodes, shots=1)
    assert len(found.episodes) == 8
    for episode in found.episodes:
        assert len(episode.support) == 4
        assert len(episode.candidates) == 2
        assert episode.in_context
        assert all(is_held_out(name) for name in episode.candidates)
        shown = [example.item.images for example in episode.support] + [episode.query.images]
        assert len(set(shown)) == 5
    # From query.json, as there is no 1-shot.json: one example of each class.
    assert [sorted({e.answer for e in episode.support}) for episode in again.episodes] == [
        sorted(episode.candidates) for episode in found.episodes
    ]
    words = load_task(episodes, shots=2, view="text")
    assert all(example.item.text for episode in words.episodes for example in episode.support)


def test_making_episodes_again_gives_the_same_files(tmp_path: Path):
    options = EpisodeOptions(episodes=3, seed=5, data="small:glyphs", shots=1)
    one, two = (make_episodes(tmp_path / name, options) for name in "ab")
    for path in sorted(p for p in one.rglob("*") if p.is_file()):
        assert path.read_bytes() == (two / path.relative_to(one)).read_bytes()
    with pytest.raises(TaskError, match="not empty"):
        make_episodes(one, options)


def test_pictures_of_one_colour_are_reported(tmp_path: Path, capsys):
    for number in range(10):
        (tmp_path / "data" / f"class{number}").mkdir(parents=True)
        for i in range(3):
            image = Image.effect_noise((9, 9), 99) if number % 2 else Image.new("RGB", (9, 9), (number, i, 0))
            image.save(tmp_path / "data" / f"class{number}" / f"{i}.png")
    made = ["mllm", "make-episodes", str(tmp_path / "task"), "--data", f"folder:{tmp_path / 'data'}", "--part", "all"]
    assert main([*made, "--episodes", "4", "--shots", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["one_colour"]
    blank = {
        path.name for path in (tmp_path / "task" / "images").iterdir() if np.ptp(np.asarray(Image.open(path))) < 10
    }
    assert {Path(name).name for name in found} == blank
    assert blank


def test_names_of_an_episode_differ_in_their_first_syllable():
    found = distinct_words(20, "held-out", stream(0, "names"))
    assert len({word[:2] for word in found}) == 20
    assert all(map(is_held_out, found))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entry: entry["query"].pop("answer"), "no `answer`"),
        (lambda entry: entry["support"].clear(), "support"),
        (lambda entry: entry["query"].update(image=["images/none.png"]), "none.png: it is missing"),
        (lambda entry: entry["query"].pop("image"), "--view text"),
    ],
)
def test_a_damaged_task_is_named(change, message: str, episodes: Path, tmp_path: Path):
    entries = json.loads((episodes / "2-shot.json").read_text())
    change(entries[3])
    shutil.copytree(episodes, tmp_path, dirs_exist_ok=True)
    (tmp_path / "2-shot.json").write_text(json.dumps(entries))
    with pytest.raises(TaskError, match=message) as caught:
        load_task(tmp_path, shots=2)
    assert "episode 3" in str(caught.value)


def test_templates_are_checked():
    with pytest.raises(TaskError, match="the item once and before the answer"):
        Style(template="{answer} {item}")
    with pytest.raises(TaskError, match="is no folder"):
        load_task(Path("nowhere"), shots=2)


def test_controls_are_matched_in_layers_and_leave_top_heads_alone():
    heads = [(layer, head) for layer in range(3) for head in range(8)]
    draws, note = matched_draws([(0, 1), (2, 3), (2, 4)], [(0, 1), (2, 3), (2, 4), (1, 0)], heads, 20, seed=0)
    assert len(draws) == 20
    for drawn in draws:
        assert [layer for layer, _ in drawn] == [0, 2, 2]
        assert not set(drawn) & {(0, 1), (2, 3), (2, 4), (1, 0)}
    assert "different" in note or len(set(draws)) == 20
    # Layer 0 has nothing left, so a head of another layer stands in, and it is said.
    few, note = matched_draws([(0, 0), (0, 1)], [(0, 0), (0, 1)], [(0, 0), (0, 1), (1, 0), (1, 1)], 20, seed=0)
    assert all(drawn == ((1, 0), (1, 1)) for drawn in few)
    assert "other layers" in note
    with pytest.raises(ConfigError, match="20 and more"):
        KnockoutOptions(draws=19)


def test_a_set_that_leaves_too_few_heads_has_no_control(tmp_path: Path):
    of = production("qwen2.5")
    chosen = task(tmp_path, "text")
    # Four of eight heads of each kind: fewer are left than both kinds together have.
    found = knock_out(of, measure_heads(of, chosen), chosen, KnockoutOptions(top=4, layers="none"), batch=3)
    both = found.named("both top 4")
    assert len(both.heads[0]) > 4
    assert both.beyond_control("correct") is None
    assert found.notes[control_of("both top 4")] == "too few other heads for a control"
    sizes = {len(heads) for effect in found.effects if effect.draws for heads in effect.heads}
    assert sizes <= {4}
    knockout_page(found)


@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_knockouts_are_paired_with_the_untouched_model(baseline: str, tmp_path: Path):
    of = production("qwen2.5")
    chosen = task(tmp_path, "text")
    table = measure_heads(of, chosen)
    found = knock_out(of, table, chosen, KnockoutOptions(top=1, baseline=baseline), batch=3)
    names = [effect.name for effect in found.effects]
    assert names[:3] == ["untouched", "top 1 previous-token", control_of("top 1 previous-token")]
    assert np.array_equal(found.effects[0].values["log_probability"], found.effects[0].before["log_probability"])
    assert len(found.rows) == found.episodes * len(conditions(table, KnockoutOptions(top=1))[0])
    top = found.named("top 1 induction")
    assert top.beyond_control("log_probability") is not None
    assert abs(top.change("log_probability").mean) > 0
    control = found.named(control_of("top 1 induction"))
    assert len(control.draws) == 20
    page = page_bytes("t <b>", "miclab", knockout_page(found), "stopped").decode()
    assert "t &lt;b&gt;" in page
    assert "Partial results" in page
    assert "://" not in page.replace(packed_plotly(), "")


def test_memory_that_runs_out_keeps_what_was_done(tmp_path: Path, monkeypatch):
    of = production("qwen2.5")
    chosen = task(tmp_path, "text")
    calls = []
    whole = of.model.forward

    def forward(*arguments, **more):
        calls.append(1)
        if len(calls) > 2:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has 9 GiB of which 1.00 GiB is free."
            )
        return whole(*arguments, **more)

    monkeypatch.setattr(of.model, "forward", forward)
    table = measure_heads(of, chosen, batch=1)
    assert table.episodes == 2
    assert "1.50 GiB more were needed, 1.00 GiB were free" in table.problem
    assert "--batch 1" in table.problem
    with pytest.raises(OutOfMemoryError):
        measure_heads(of, chosen, batch=1)
    with pytest.raises(RuntimeError, match="shape"), memory_guard("testing"):
        raise RuntimeError("shape mismatch")


def test_a_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ModelError, match=r"pip install '\.\[mllm\]'"):
        errors.require()
    assert main(["mllm", "memory", "qwen2.5-vl-3b"]) == 2
    assert "extra `mllm`" in capsys.readouterr().err


def test_the_papers_rankings_give_the_papers_overlaps():
    visual, text = published()["paper:qwen2.5-vl-3b"], published()["paper:qwen2.5-3b"]
    previous = overlap(visual["previous_token_1"], text["previous_token_1"], 5, 10)
    induction = overlap(visual["induction_all_positions"], text["induction_all_positions"], 5, 10)
    assert (len(previous.shared), len(induction.shared)) == (4, 3)
    # 4 of 5 drawn among 10 marked of 576, by counting.
    from math import comb

    by_hand = sum(comb(10, k) * comb(566, 5 - k) for k in (4, 5)) / comb(576, 5)
    assert previous.chance == pytest.approx(by_hand)
    assert previous.correlation is None
    with pytest.raises(ModelError, match="paper gives"):
        rankings("paper:gpt")


def test_memory_of_the_published_models_is_that_of_their_parameters():
    found = memory("qwen2.5-vl-3b", tokens=2000)
    assert found.parameters == 3_754_622_976
    assert (found.layers, found.heads, found.key_value_heads, found.head_size) == (36, 16, 2, 128)
    assert found.needs["bfloat16"].weights == 2 * found.parameters
    assert found.needs["4-bit"].weights < found.needs["bfloat16"].weights / 2
    assert found.needs["bfloat16"].measured < found.needs["bfloat16"].plain


def test_results_are_partial_until_they_are_finished(tmp_path: Path):
    with Results(tmp_path / "r", "heads", {"model": "m"}) as made:
        assert read_manifest(tmp_path / "r")["status"] == "partial"
        made.table("heads.parquet", [{"a": 1}])
        with pytest.raises(TaskError, match="partial results"):
            read_table(tmp_path / "r", "heads.parquet")
        made.finish()
    assert read_manifest(tmp_path / "r")["status"] == "complete"
    assert read_table(tmp_path / "r", "heads.parquet")["a"].to_list() == [1]
    (tmp_path / "r" / "heads.parquet").write_bytes(b"else")
    with pytest.raises(DamagedError):
        read_table(tmp_path / "r", "heads.parquet")
    with pytest.raises(TaskError, match="no results"):
        read_manifest(tmp_path)
    with pytest.raises(RunError, match="is a file"):
        Results(tmp_path / "r" / "heads.parquet", "heads", {})
    (tmp_path / "r" / "manifest.json").write_bytes(b"{}")
    with pytest.raises(DamagedError, match=r"manifest.json.*Give another --output"):
        Results(tmp_path / "r", "heads", {"model": "m"})
    # The manifest of a training, for example.
    (tmp_path / "r" / "manifest.json").write_bytes(sealed({"status": "finished", "reason": "all steps done"}))
    with pytest.raises(TaskError, match="it is not that of results"):
        Results(tmp_path / "r", "heads", {"model": "m"})


def test_the_manifest_says_why_it_stopped(episodes: Path, tmp_path: Path, capsys, monkeypatch):
    of = production("qwen2.5")
    of.model.save_pretrained(tmp_path / "model")
    of.processor.save_pretrained(tmp_path / "model")

    def full(*arguments, **more):
        raise torch.OutOfMemoryError("Tried to allocate 1.50 GiB")

    monkeypatch.setattr(type(of.model), "forward", full)
    chosen = ["mllm", "heads", str(tmp_path / "model"), "--task", str(episodes), "--output", str(tmp_path / "o")]
    assert main(chosen) == 2
    assert "1.50 GiB more were needed" in capsys.readouterr().err
    found = read_manifest(tmp_path / "o")
    assert found["status"] == "partial"
    assert "1.50 GiB more were needed" in found["reason"]


def test_a_model_that_is_not_there_is_named(capsys, episodes: Path, tmp_path: Path):
    assert main(["mllm", "heads", "./nowhere", "--task", str(episodes), "--output", str(tmp_path / "o")]) == 2
    assert "is no folder" in capsys.readouterr().err
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "odd"}))
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(str(tmp_path))


def test_usage_and_wrong_commands(capsys):
    assert main(["mllm", "--help"]) == 0
    assert "make-episodes" in capsys.readouterr().out
    assert main(["mllm", "haeds"]) == 2
    assert "'heads'" in capsys.readouterr().err
    page = heads_page(measure_heads(production("llama"), task_in_words()), 2)
    assert "counted from 0" in page.parts[0].note


def task_in_words() -> Task:
    """A task that needs no pictures."""
    from miclab.mllm.task import Episode, Example, Item

    support = tuple(Example(Item(text=f"thing {name}"), name) for name in ("dax", "wug"))
    return Task(name="t", shots=1, episodes=(Episode("e", support, Item(text="thing dax"), "dax"),), view="text")
