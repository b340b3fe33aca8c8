"""VL-ICL Bench as it lies on disk: folders in its layouts, with pictures and questions made here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from tiny_mllm import production, task

from miclab.cli import main
from miclab.mllm.batches import batches
from miclab.mllm.errors import TaskError, ViewError
from miclab.mllm.judging import Judge, cut, is_right
from miclab.mllm.prompt import Prompter
from miclab.mllm.results import read_manifest
from miclab.mllm.scoring import answers
from miclab.mllm.task import Episode, Example, Item, Style, Task
from miclab.mllm.task_folder import load_task


class Bench:
    """A benchmark's root: its tasks' folders side by side, and paths that are relative to the root.

    Arguments:
        root: the folder.
    """

    def __init__(self, root: Path):
        self.root, self.count = root, 0

    def picture(self, task: str) -> str:
        """The path of a picture of its own colour."""
        path = self.root / task / "images" / f"{self.count}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (28, 28), (self.count % 256, self.count // 256, 7)).save(path)
        self.count += 1
        return str(path.relative_to(self.root))

    def entry(self, task: str, answer: Any, question: str = "", images: int = 1, **more: Any) -> dict[str, Any]:
        """An entry with pictures."""
        return {"id": self.count, "image": [self.picture(task) for _ in range(images)], "question": question,
                "answer": answer, **more}  # fmt: skip

    def write(self, task: str, query: list[Any], support: list[Any] | None = None) -> Path:
        """A task's files."""
        (self.root / task).mkdir(parents=True, exist_ok=True)
        (self.root / task / "query.json").write_text(json.dumps(query))
        if support is not None:
            (self.root / task / "support.json").write_text(json.dumps(support))
        return self.root / task


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """An empty benchmark."""
    return Bench(tmp_path / "VL-ICL")


CLASSES = ["dax", "blicket", "perpo", "wug", "toma"]


def shown(bench: Bench, episode: Episode) -> list[list[str]]:
    """Paths of each example's pictures, relative to the root."""
    return [[str(path.relative_to(bench.root)) for path in one.item.images] for one in episode.support]


@pytest.mark.parametrize("name", ["open_mi", "fast_open_mi"])
def test_open_mi_shows_the_answers_class_and_others_in_turn(bench: Bench, name: str):
    queries = [
        bench.entry(name, CLASSES[i % 5], "This is a", classes=CLASSES,
                    support={c: {"images": [bench.picture(name) for _ in range(3)]} for c in CLASSES})
        for i in range(10)
    ]  # fmt: skip
    folder = bench.write(name, queries, [])
    for ways, shots in ((2, 2), (3, 1), (5, 3)):
        found = load_task(folder, shots=shots, ways=ways)
        assert found.rule == "text"
        orders = set()
        for query, episode in zip(queries, found.episodes, strict=True):
            labels = [one.answer for one in episode.support]
            assert len(set(labels)) == ways
            assert labels == labels[:ways] * shots
            assert query["answer"] in labels
            assert shown(bench, episode) == [
                [query["support"][label]["images"][i // ways]] for i, label in enumerate(labels)
            ]
            assert all(episode.question_of(one) == "This is a" for one in episode.support)
            orders.add(labels.index(query["answer"]))
        assert len(orders) > 1
    assert len(load_task(folder, shots=2).episodes[0].support) == 4
    none = load_task(folder, shots=0).episodes[0]
    assert none.support == ()
    assert len(none.candidates) == 2
    assert not none.in_context


def test_matching_shows_pairs_of_pairs(bench: Bench):
    name = "matching_mi"
    pairs = [{"same": bench.entry(name, "yes", "Do they match?", 2), "diff": bench.entry(name, "no", "Or not?", 2)}
             for _ in range(4)]  # fmt: skip
    folder = bench.write(name, [bench.entry(name, "no", "Do they match?", 2) for _ in range(3)], pairs)
    for episode in load_task(folder, shots=3).episodes:
        assert [one.answer for one in episode.support] == ["yes", "no"] * 3
        assert [episode.question_of(one) for one in episode.support] == ["Do they match?", "Or not?"] * 3
        same = shown(bench, episode)[::2]
        assert all(images in [pair["same"]["image"] for pair in pairs] for images in same)
        assert len({tuple(images) for images in same}) == 3
        assert len(episode.query.images) == 2
    assert load_task(folder, shots=0).episodes[0].candidates == ("yes", "no")
    assert load_task(folder, shots=1).rule == "yes or no"
    with pytest.raises(TaskError, match="has 4 examples; take fewer --shots"):
        load_task(folder, shots=5)


@pytest.mark.parametrize("name", ["operator_induction", "operator_induction_interleaved"])
def test_the_operator_picks_the_answer(bench: Bench, name: str):
    images = 2 if name.endswith("interleaved") else 1
    support = [bench.entry(name, [i + 3, i - 3, i * 3], "What is it?", images) for i in range(6)]
    answer = {"+": 0, "-": 1, "x": 2}
    queries = [bench.entry(name, 40 + i, "What is it?", images, operator="+-x"[i % 3]) for i in range(6)]
    found = load_task(bench.write(name, queries, support), shots=4)
    by_image = {tuple(one["image"]): one["answer"] for one in support}
    for query, episode in zip(queries, found.episodes, strict=True):
        for one, paths in zip(episode.support, shown(bench, episode), strict=True):
            assert one.answer == str(by_image[tuple(paths)][answer[query["operator"]]])
        assert episode.answer == str(query["answer"])
    assert found.rule == "number"
    del queries[1]["operator"]
    with pytest.raises(TaskError, match=r"query\.json: episode 1: `operator` is None"):
        load_task(bench.write(name, queries, support), shots=2)


@pytest.mark.parametrize("name", ["clevr", "textocr", "own_task"])
def test_each_example_has_its_own_question(bench: Bench, name: str):
    criteria = [f"color: {colour}" for colour in ("red", "blue", "grey", "cyan")]
    support = [bench.entry(name, number, criterion) for number, criterion in enumerate(criteria)]
    folder = bench.write(name, [bench.entry(name, 5, "shape: cube")], support)
    (episode,) = load_task(folder, shots=3).episodes
    assert all(episode.question_of(one) == criteria[int(one.answer)] for one in episode.support)
    of = production("qwen2.5-vl")
    text = Prompter(of.processor, load_task(folder, shots=3), "plain").write(episode, "5")[0]
    for one in (*episode.support, Example(episode.query, episode.answer)):
        assert text.count(f"<|image_pad|>\n{episode.question_of(one)}\nAnswer: {one.answer}\n\n") == 1
    (folder / "support.json").unlink()
    with pytest.raises(TaskError, match=r"support\.json is missing"):
        load_task(folder, shots=1)
    assert load_task(folder, shots=0).episodes[0].support == ()


def test_an_answer_that_is_one_of_several_is_not_guessed(bench: Bench):
    folder = bench.write("own_task", [bench.entry("own_task", [1, 2, 3])], [bench.entry("own_task", "4")])
    with pytest.raises(TaskError, match="nothing says which of them is right"):
        load_task(folder, shots=1)


@pytest.mark.parametrize("name", ["open_t2i_mi", "fast_attr_t2i", "fast_count_t2i", "cobsat", "cobsat_text"])
def test_tasks_that_are_answered_by_a_picture_are_refused_by_name(bench: Bench, name: str):
    with pytest.raises(TaskError, match=rf"{name} is a task whose answer is a picture.*open_mi"):
        load_task(bench.write(name, [bench.entry(name, "x")], []), shots=1)


def test_variants_in_words_are_read_without_pictures(bench: Bench):
    said = [{"question": f"There are {n} cubes. shape: cube", "answer": n} for n in range(5)]
    found = load_task(bench.write("clevr_simple_text", said[:2], said), shots=2, view="text")
    assert found.rule == "number"
    assert found.episodes[1].query.text == "There are 1 cubes. shape: cube"
    assert found.episodes[1].question == ""
    pairs = [{one: {"text": [f"a {n}", f"a {m}"], "question": "Match?", "answer": answer}
              for one, answer, m in (("same", "yes", n), ("diff", "no", n + 1))} for n in range(3)]  # fmt: skip
    (episode,) = load_task(bench.write("matching_mi_text", [pairs[0]["same"]], pairs), shots=1, view="text").episodes
    assert episode.query.text == "a 0\na 0"
    assert [one.question for one in episode.support] == ["Match?", "Match?"]
    with pytest.raises(ViewError, match="no `image`"):
        load_task(bench.root / "clevr_simple_text", shots=2)


def test_episodes_that_were_built_before_are_read_as_they_stand(bench: Bench):
    support = [bench.entry("open_mi", name) for name in ("dax", "wug")]
    built = [{"query": bench.entry("open_mi", "wug"), "support": {"1-shot": support}}]
    folder = bench.write("open_mi", [])
    (folder / "1-shot.json").write_text(json.dumps(built))
    (episode,) = load_task(folder, shots=1).episodes
    assert [one.answer for one in episode.support] == ["dax", "wug"]


def test_paths_may_begin_at_the_folder_that_holds_the_benchmark(bench: Bench):
    built = [{"query": bench.entry("open_mi", "wug"), "support": {"1-shot": [bench.entry("open_mi", "wug")]}}]
    for one in (built[0]["query"], built[0]["support"]["1-shot"][0]):
        one["image"] = [f"{bench.root.name}/{path}" for path in one["image"]]
    folder = bench.write("open_mi", [])
    (folder / "1-shot.json").write_text(json.dumps(built))
    (episode,) = load_task(folder, shots=1).episodes
    assert episode.query.images == (bench.root / "open_mi" / "images" / "0.png",)
    (bench.root.parent / "secret.png").write_bytes(b"")
    built[0]["query"]["image"] = ["secret.png"]
    (folder / "1-shot.json").write_text(json.dumps(built))
    with pytest.raises(TaskError, match="it lies outside"):
        load_task(folder, shots=1)


def test_a_path_out_of_the_benchmark_is_refused(bench: Bench):
    (bench.root.parent / "secret.png").write_bytes(b"")
    entry = bench.entry("textocr", "x") | {"image": ["../secret.png"]}
    with pytest.raises(TaskError, match=r"query\.json: episode 0: image '\.\./secret\.png': it leads out"):
        load_task(bench.write("textocr", [entry], []), shots=0)


@pytest.mark.parametrize(
    ("text", "answer", "rule", "right"),
    [
        (" Dax\nAnswer: wug", "dax", "text", True),
        ("dax. It is", "dax", "text", True),
        ("daxes", "dax", "text", False),
        ("The result is 12, since", "12", "number", True),
        ("12", "1", "number", False),
        ("none", "1", "number", False),
        ("Yes, they do.", "yes", "yes or no", True),
        ("maybe", "no", "yes or no", True),
        ("no\nyes", "yes", "yes or no", False),
    ],
)  # fmt: skip
def test_the_benchmarks_own_judgement(text: str, answer: str, rule: Any, right: bool):
    assert is_right(text, answer, rule) == right
    assert "\n" not in cut(text)


class Parrot(torch.nn.Module):
    """Writes the same text behind every prompt, whatever it was shown, and then the end token.

    Arguments:
        of: whose tokens it writes.
        text: what it writes.
    """

    def __init__(self, of: Any, text: str):
        super().__init__()
        self.of, self.tokens = of, [*of.processor(text, add_special_tokens=False).input_ids, 0]
        self.prompt = 0

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.of.model, name)

    def forward(self, input_ids: torch.Tensor, logits_to_keep: Any = None, **more: Any) -> Any:
        logits = torch.zeros(*input_ids.shape, len(self.of.processor))
        for place in range(input_ids.shape[1]):
            written = place + 1 - self.prompt
            following = self.tokens[min(written, len(self.tokens) - 1)] if written >= 0 else 0
            logits[:, place, following] = 20
        return type("Output", (), {"logits": logits if logits_to_keep is None else logits[:, logits_to_keep]})()


def numbers(style: Style) -> Task:
    """An episode with the labels 1 and 12, whose answer is 1 or 12; the template ends a label by a line break."""
    support = tuple(Example(Item(text=f"a {n}"), n) for n in ("1", "12"))
    episodes = tuple(Episode(f"{n}", support, Item(text="a"), n) for n in ("1", "12"))
    return Task(name="numbers", shots=1, episodes=episodes, style=style, view="text")


@pytest.mark.parametrize("template", ["{item}: {answer}\n", "{item}: {answer}"])
def test_answers_are_judged_to_their_end(template: str):
    of = production("qwen2.5")
    for said in ("1", "12"):
        found = {}
        for episode in (chosen := numbers(Style(template=template))).episodes:
            parrot = Parrot(of, said + template.split("{answer}")[1])
            prompter = of.prompter(chosen)
            encoded = prompter.encode([(episode, name) for name in episode.candidates])
            parrot.prompt = encoded.readings[0].length
            of_parrot = type(of)(of.name, parrot, of.processor, of.layers, of.options)
            found[episode.answer] = answers(of_parrot, [episode], encoded)
        other = "12" if said == "1" else "1"
        for name in ("correct", "choice", "choice_per_token"):
            assert found[said].values[name] == 1, (said, name)
            assert found[other].values[name] == 0, (said, name)
        assert found[said].values["copied"] == 1
        total, mean = (found[other].values[name] for name in ("log_probability", "log_probability_per_token"))
        assert total < mean < 0


@pytest.mark.parametrize("chat", [False, True])
def test_what_is_written_is_what_the_scores_say(chat: bool, tmp_path: Path):
    of = production("qwen2.5", chat)
    chosen = task(tmp_path, "text")
    prompter = of.prompter(chosen)
    judge = Judge(prompter)
    found = answers(of, *next(batches(prompter, 3)), judge)
    for number, episode in enumerate(chosen.episodes):
        assert found.written[number] == judge.written(of, episode)
        assert found.values["correct"][number] == (found.written[number].strip() == episode.answer)
        assert found.values["benchmark"][number] == is_right(found.written[number], episode.answer, "text")
    assert np.isfinite(found.values["log_probability"]).all()


def test_a_task_of_the_benchmark_is_answered_by_a_command(bench: Bench, capsys):
    queries = [
        bench.entry("open_mi", CLASSES[i], "This is a", classes=CLASSES,
                    support={c: {"images": [bench.picture("open_mi") for _ in range(2)]} for c in CLASSES})
        for i in range(3)
    ]  # fmt: skip
    folder, output = bench.write("open_mi", queries, []), bench.root.parent / "out"
    requested = ["mllm", "scale", "tiny", "tiny", "--task", str(folder), "--batch", "3", "--output", str(output)]
    assert main([*requested, "--judge", "benchmark", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert second["gain"]["mean"] == 0
    assert {"benchmark", "correct", "choice_per_token", "log_probability_per_token"} <= set(first)
    rows = pl.read_parquet(output / "answers.parquet")
    assert len(rows) == 6
    assert all(rows["written"].str.len_chars() > 0)
    # Without examples there is nothing to induce from, and answers all the same.
    none = ["--task", str(folder), "--shots", "0", "--output"]
    assert main(["mllm", "scale", "tiny", "tiny", *none, str(output.with_name("none")), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["copied"]["mean"] == 0
    assert main(["mllm", "heads", "tiny", *none, str(output.with_name("heads"))]) == 2
    assert "nothing to induce from" in capsys.readouterr().err


def test_a_bad_picture_costs_its_own_episode_and_is_named(bench: Bench, capsys):
    folder, output = bench.root / "own", bench.root.parent / "out"
    built = []
    for _ in range(6):
        support = [bench.entry("own", name) for name in ("dax", "wug")]
        built.append({"query": bench.entry("own", "dax"), "support": {"1-shot": support}})
    (folder / "1-shot.json").write_text(json.dumps(built))

    def path(episode: int) -> Path:
        return bench.root / built[episode]["query"]["image"][0]

    path(1).write_bytes(path(1).read_bytes()[:40])
    path(2).write_bytes(b"<svg/>")
    Image.new("RGB", (401, 2)).save(path(4))
    frames = [Image.new("RGB", (28, 28), colour) for colour in ("red", "blue")]
    frames[0].save(path(5), save_all=True, append_images=frames[1:])
    assert main(["mllm", "heads", "tiny", "--task", str(folder), "--shots", "1", "--batch", "4", "--output",
                 str(output)]) == 2  # fmt: skip
    manifest = read_manifest(output)
    assert (manifest["status"], manifest["episodes"]) == ("partial", 3)
    for number, why in ((1, "truncated|damaged"), (2, "vector drawing"), (4, "over 200 times")):
        assert re.search(rf"1-shot\.json, episode {number}: [^;]*({why})", manifest["reason"])
    assert any("episode 5: " in remark and "first of 2 frames" in remark for remark in manifest["remarks"])
    assert manifest["reason"] in capsys.readouterr().err
