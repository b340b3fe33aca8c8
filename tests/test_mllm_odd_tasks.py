"""Tasks as people write them: odd fields, options that cannot have an effect, answers of the same tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_mllm import production

from miclab.cli.mllm_options import HeadsFlags
from miclab.mllm.batches import batches
from miclab.mllm.errors import TaskError
from miclab.mllm.judging import Judge
from miclab.mllm.passes import Passes
from miclab.mllm.prompt import Prompter
from miclab.mllm.scoring import answers
from miclab.mllm.task import Episode, Example, Item, Style
from miclab.mllm.task_folder import load_task


def entry(answer: Any = "a", **more: Any) -> dict[str, Any]:
    """An entry in words."""
    return {"text": "a thing", "answer": answer, **more}


def write(folder: Path, query: list[Any], support: list[Any] | None = None, **said: Any) -> Path:
    """A task in words."""
    folder.mkdir(parents=True)
    (folder / "query.json").write_text(json.dumps(query))
    (folder / "support.json").write_text(json.dumps(support or [entry("a"), entry("b")]))
    if said:
        (folder / "task.json").write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize(
    ("query", "said", "message"),
    [
        (entry(question=["What?"]), {}, r"query\.json: episode 0: `question` is no text: \"\['What\?'\]\""),
        (entry([["a"]]), {}, r"episode 0: `answer` is no text"),
        (entry(float("nan")), {}, r"episode 0: `answer` is no text: 'nan'"),
        (entry(), {"instruction": ["Look."]}, r"task\.json: instruction: it is no text"),
        (entry(), {"template": 5}, r"task\.json: template: it is no text"),
        (entry(), {"template": "{item}{answer}{question}"}, "a question stands before its answer"),
    ],
)
def test_a_field_that_is_no_text_is_never_shown_as_pythons(query: Any, said: Any, message: str, tmp_path: Path):
    with pytest.raises(TaskError, match=message):
        load_task(write(tmp_path / "task", [query], **said), shots=2, view="text")


def test_an_instruction_of_null_is_none(tmp_path: Path):
    found = load_task(write(tmp_path / "task", [entry(5)], instruction=None, template=None), shots=2, view="text")
    assert (found.style, found.episodes[0].answer) == (Style(), "5")


def by_class(names: str, **more: Any) -> dict[str, Any]:
    """An entry with its own support."""
    return entry(support={name: {"texts": ["one", "two"]} for name in names}, **more)


def test_ways_are_as_many_as_requested_or_refused(tmp_path: Path):
    listed = write(tmp_path / "listed", [by_class("abcde", classes=["a", "c"])])
    for episodes in (
        (load_task(listed, shots=2, view="text")).episodes,
        load_task(listed, shots=2, view="text", ways=2).episodes,
    ):
        assert {one.answer for one in episodes[0].support} == {"a", "c"}
    with pytest.raises(TaskError, match="it has 2 classes; take fewer --ways than 3"):
        load_task(listed, shots=2, view="text", ways=3)
    with pytest.raises(TaskError, match="`support` has no class 'z', which `classes` lists"):
        load_task(write(tmp_path / "absent", [by_class("ab", classes=["a", "z"])]), shots=2, view="text")
    with pytest.raises(TaskError, match=r"ways = 3 does nothing in .*its entries list no classes"):
        load_task(write(tmp_path / "clevr", [entry()]), shots=2, view="text", ways=3)
    (listed / "2-shot.json").write_text(json.dumps([{"query": entry(), "support": {"2-shot": [entry("b")]}}]))
    with pytest.raises(TaskError, match=r"ways = 2 does nothing in .*2-shot\.json are built already"):
        load_task(listed, shots=2, view="text", ways=2)


def test_matching_is_answered_by_yes_and_no_as_the_data_write_them(tmp_path: Path):
    pair = {"same": entry("Yes"), "diff": entry("No")}
    folder = write(tmp_path / "matching_mi", [entry("Yes"), entry("No.")], [pair])
    assert load_task(folder, shots=0, view="text", episodes=1).episodes[0].candidates == ("Yes", "No")
    assert load_task(folder, shots=1, view="text", episodes=1).episodes[0].candidates == ("Yes", "No")
    mixed = write(tmp_path / "mixed/matching_mi", [entry("yes")], [pair])
    found = load_task(mixed, shots=1, view="text").episodes[0]
    assert (found.answer, found.candidates, found.in_context) == ("Yes", ("Yes", "No"), True)
    with pytest.raises(TaskError, match=r"episode 1: an answer is 'No\.'; in matching_mi it has to be yes or no"):
        load_task(folder, shots=1, view="text")


def test_a_task_has_its_folders_name_from_inside_too(tmp_path: Path, monkeypatch):
    folder = write(tmp_path / "matching_mi", [entry("yes")], [{"same": entry("yes"), "diff": entry("no")}])
    (folder / "images").mkdir()
    for inside, named in ((folder, "."), (folder / "images", "..")):
        monkeypatch.chdir(inside)
        found = load_task(Path(named), shots=1, view="text")
        assert (found.name, found.rule, len(found.episodes[0].support)) == ("matching_mi", "yes or no", 2)
        flags = HeadsFlags(name="tiny", task=Path(named))
        assert flags.results("heads").folder == Path("mllm/heads-tiny-matching_mi")


def test_answers_of_the_same_tokens_cost_their_episode():
    of = production("qwen2.5")
    # Its tokenizer knows every byte; a normaliser makes two ways to write one letter the same.
    from tokenizers import normalizers

    of.processor.backend_tokenizer.normalizer = normalizers.NFC()
    pair = ("\u00e9", "e\u0301")
    support = tuple(Example(Item(text=f"a {n}"), name) for n, name in enumerate(pair))
    chosen = replace(task_in_words(), episodes=(Episode("one", support, Item(text="a"), pair[0]),))
    lost: dict[str, str] = {}
    assert not list(batches(of.prompter(chosen), 1, lost))
    assert "are the same tokens" in lost["one"]


def task_in_words() -> Any:
    """A task without pictures."""
    support = (Example(Item(text="a red thing"), "perpo"), Example(Item(text="a blue one"), "dax"))
    episodes = tuple(Episode(f"{n}", support, Item(text="a" * n), "dax", "What is it?") for n in (2, 9))
    from miclab.mllm.task import Task

    return Task(name="words", shots=1, episodes=episodes, view="text")


def test_questions_that_a_template_leaves_out_are_said():
    of = production("qwen2.5")
    chosen = task_in_words()
    for template, said in (("{item}{question}{answer}\n", False), ("{item}{answer}\n", True)):
        remarks: dict[str, None] = {}
        Prompter(of.processor, replace(chosen, style=Style(template=template)), remarks=remarks)
        assert any("no {question}" in one for one in remarks) == said


def test_a_written_answer_does_not_move_the_next_shared_prompt():
    of = production("qwen2.5-vl")
    prompter = of.prompter(task_in_words())
    passes, judge = Passes(of, least=0), Judge(prompter)
    for episodes, encoded in batches(prompter, 1):
        whole = answers(of, episodes, encoded)
        found = answers(of, episodes, encoded, judge, passes)
        assert found.log_probability == pytest.approx(whole.log_probability, abs=1e-4)
    assert passes.shares is True
