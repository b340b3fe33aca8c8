"""Examples as turns of a chat: the paper's prompt, labels and answers in the same surroundings, and what a template or
an episode may hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_mllm import CHAT, OTHERS, VISUAL, production, task, tokenizer

from miclab.mllm.errors import ModelError, TaskError
from miclab.mllm.heads import measure_heads
from miclab.mllm.loading import load_model
from miclab.mllm.passes import forward
from miclab.mllm.prompt import QUESTION, SYSTEM, Prompter
from miclab.mllm.task import Episode, Example, Item, Style, Task

IM = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}"
    "{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Turns as Qwen's template marks them."""


def chatting(template: Any = IM, view: str = "image") -> Any:
    """A model with a chat template and the marks of its turns."""
    of = production("qwen2.5-vl" if view == "image" else "qwen2.5")
    core = getattr(of.processor, "tokenizer", of.processor)
    core.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    of.processor.chat_template = template
    return of


def test_the_papers_prompt(tmp_path: Path):
    of = chatting()
    chosen = replace(task(tmp_path), style=Style())
    chosen = replace(chosen, episodes=(replace(chosen.episodes[0], question=""),))
    prompter = of.prompter(chosen)
    assert prompter.form == "turns"
    text, _ = prompter.write(chosen.episodes[0], "perpo")
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    expected = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
    for answer in ("perpo", "zibbelwock") * 2:
        expected += f"<|im_start|>user\n{picture}{QUESTION}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
    expected += f"<|im_start|>user\n{picture}{QUESTION}<|im_end|>\n<|im_start|>assistant\nperpo<|im_end|>"
    assert text == expected


@pytest.mark.parametrize("form", ["turns", "chat", "plain"])
@pytest.mark.parametrize("view", ["image", "text"])
def test_labels_and_answers_are_the_same_tokens_or_it_is_said(form: Any, view: str, tmp_path: Path):
    of = chatting(view=view)
    chosen = task(tmp_path, view)
    if form == "chat":
        # Behind a space in the context, at the reply's beginning as an answer: other tokens.
        chosen = replace(chosen, style=Style(template="{item} is {answer} .\n"))
    of = replace(of, options=replace(of.options, prompt=form))
    prompter = of.prompter(chosen)
    batch = prompter.encode([(e, name) for e in chosen.episodes for name in e.candidates])
    alike = [
        batch.ids(row, reading.label_positions(number)) == batch.ids(row, reading.answer_positions)
        for row, reading in enumerate(batch.readings)
        for number, example in enumerate(reading.episode.support)
        if example.answer == reading.answer
    ]
    assert len(alike) == 12
    if form == "chat":
        assert not all(alike)
        assert any("copying it is another task" in remark for remark in of.remarks)
    else:
        assert all(alike)
        assert not of.remarks
    for row, reading in enumerate(batch.readings):
        end = prompter.tokenizer.decode(batch.ids(row, reading.end_positions))
        assert end == ("\n\n" if form == "plain" else "<|im_end|>")


def test_a_template_without_system_texts_says_it_in_the_first_turn(tmp_path: Path):
    refused = "{% if messages[0].role == 'system' %}{{ raise_exception('No system here.') }}{% endif %}" + IM
    dropped = IM.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
    for template in (refused, dropped):
        of = chatting(template)
        chosen = task(tmp_path)
        text, _ = of.prompter(chosen).write(chosen.episodes[0], "perpo")
        assert text.startswith("<|im_start|>user\nLook.\n<|vision_start|>")
        assert text.count("Look.") == 1


def test_the_form_is_the_templates(tmp_path: Path):
    forms = {"": "plain", IM: "turns", CHAT.replace("IMAGE", "<|image_pad|>"): "turns"}
    for template, form in forms.items():
        assert chatting(template or None).prompter(task(tmp_path)).form == form
    tiny = load_model("tiny")
    prompter = tiny.prompter(task(tmp_path))
    assert (prompter.form, prompter.ending) == ("chat", "")
    assert any("writes nothing after a reply" in remark for remark in tiny.remarks)


def test_of_several_named_templates_the_default_is_taken(tmp_path: Path):
    chosen = task(tmp_path, "text")
    assert chatting({"rag": "{{ 1 }}", "default": IM}, "text").prompter(chosen).template == IM
    with pytest.raises(ModelError, match=r"\(rag, tools\), and none is `default`"):
        chatting({"rag": IM, "tools": IM}, "text").prompter(chosen)


@pytest.mark.parametrize(
    ("template", "said"),
    [("{{ raise_exception('Roles must alternate!') }}", "Roles must alternate!"), ("{% for %}", "Expected"),
     ("{{ messages.none.none }}", "none"), ("{{ messages[0].content + 3 }}", "refuses"),
     ("{{ 1 // 0 }}", "by zero"), ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion")],
)  # fmt: skip
def test_a_templates_own_error_is_shown(template: str, said: str, tmp_path: Path):
    of = chatting(template)
    of = replace(of, options=replace(of.options, prompt="turns"))
    chosen = task(tmp_path)
    with pytest.raises(ModelError, match=f"(?i)refuses the episode: .*{said}|{said}.*--prompt plain"):
        of.prompter(chosen).write(chosen.episodes[0], "perpo")


TRICKY = [
    "{answer}",
    "{item} {question}",
    '{"a": {"b": 1}}',
    r"$\frac{1}{2}$ {0}",
    "100 % {{ x }} {% if %}",
    "\\n\t§ 漢",
]


@pytest.mark.parametrize("form", ["turns", "chat", "plain"])
@pytest.mark.parametrize("text", TRICKY)
def test_braces_are_text(form: Any, text: str, tmp_path: Path):
    of = chatting(view="text")
    support = (Example(Item(text=f"a {text}"), "dax"), Example(Item(text="b"), text))
    episode = Episode("e", support, Item(text="c"), text, text)
    style = Style(template="{item} {a} {question}Answer: {answer}\n\n")
    chosen = Task(name="t", shots=1, episodes=(episode,), view="text", style=style)
    prompter = Prompter(of.processor, chosen, form)
    batch = prompter.encode([(episode, episode.answer)])
    decoded = prompter.tokenizer.decode(batch.inputs["input_ids"][0])
    assert decoded.count(f"{{a}} {text}") == 3
    assert prompter.tokenizer.decode(batch.ids(0, batch.readings[0].answer_positions)).strip() == text
    assert prompter.tokenizer.decode(batch.ids(0, batch.readings[0].label_positions(1))).strip() == text


@pytest.mark.parametrize("token", ["<|image_pad|>", "<image>", "<|endoftext|>", "<|im_end|>"])
@pytest.mark.parametrize("field", ["answer", "question", "text"])
def test_words_that_are_special_tokens_are_refused_by_episode_and_field(token: str, field: str, tmp_path: Path):
    of = chatting(view="text")
    said = {"answer": "dax", "question": "what?", "text": "a thing"} | {field: f"see {token}"}
    example = Example(Item(text=said["text"]), said["answer"], said["question"])
    good = Episode("good", (Example(Item(text="b"), "dax"),), Item(text="c"), "dax")
    bad = Episode("bad", (good.support[0], example), Item(text="c"), "dax")
    prompter = of.prompter(Task(name="t", shots=1, episodes=(good, bad), view="text"))
    with pytest.raises(TaskError) as caught:
        prompter.encode([(bad, "dax")])
    assert f"bad: `{field}` of the example 1 holds {token!r}" in str(caught.value)


def test_a_template_of_the_task_that_marks_images_is_refused(tmp_path: Path):
    chosen = replace(task(tmp_path), style=Style(template="<|image_pad|>{item}{answer}"))
    with pytest.raises(TaskError, match=r"template = .*marks an image"):
        chatting().prompter(chosen)


def test_two_pictures_an_example_belong_to_it(tmp_path: Path):
    of = chatting()
    chosen = task(tmp_path)
    episodes = tuple(
        replace(e, support=tuple(replace(one, item=Item(one.item.images * 2)) for one in e.support))
        for e in chosen.episodes
    )
    for form in ("turns", "chat", "plain"):
        prompter = Prompter(of.processor, replace(chosen, episodes=episodes), form)
        batch = prompter.encode([(e, e.answer) for e in episodes])
        number = of.model.config.image_token_id
        for row, reading in enumerate(batch.readings):
            ids = batch.inputs["input_ids"][row, : reading.length]
            for example in range(4):
                assert int(((ids == number) & (reading.roles.exemplar == example)).sum()) == 2


@torch.no_grad()
@pytest.mark.parametrize("family", VISUAL)
@pytest.mark.parametrize("form", ["turns", "chat", "plain"])
def test_pictures_side_by_side_are_read_as_several(family: str, form: Any, tmp_path: Path):
    of, chosen = production(family, chat=True), task(tmp_path)
    first = chosen.episodes[0]
    support = tuple(Example(Item(one.item.images * 2), one.answer) for one in first.support)
    episode = replace(first, query=Item(first.query.images * 2), support=support)
    # Neither the template nor anything else marks a picture's borders.
    prompter = Prompter(of.processor, chosen, form)
    encoded = prompter.encode([(episode, answer) for answer in episode.candidates])
    logits = forward(of.model, encoded.to(of.model))
    assert torch.isfinite(logits).all()
    assert prompter.merges is family.startswith("qwen")
    assert prompter.write(episode, "a")[0].count(f"{prompter.image}\n{prompter.image}") == 5 * prompter.merges
    # Marks, of the template or around each picture, are border enough.
    if family.startswith("qwen"):
        marked = Prompter(of.processor, chosen, "plain", ("<|vision_start|>", "<|vision_end|>"))
        of.processor.chat_template = IM
        assert not marked.merges
        assert not Prompter(of.processor, chosen, "turns").merges


@pytest.mark.parametrize("family", ["qwen2.5-vl", "llama", *OTHERS])
def test_a_prompt_longer_than_the_learnt_positions_costs_its_episode(family: str, tmp_path: Path):
    of = production(family)
    chosen = task(tmp_path, of.view)
    episodes = (chosen.episodes[0], replace(chosen.episodes[1], question="zq" * 100), chosen.episodes[2])
    table = measure_heads(of, replace(chosen, episodes=episodes))
    learnt = family in ("gpt2", "opt")
    assert list(table.lost) == ([episodes[1].name] if learnt else [])
    assert not learnt or "the model has learnt 512 positions" in table.why_partial


def test_a_tokenizer_without_marks_of_turns_is_read(tmp_path: Path):
    core = tokenizer()
    core.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    chosen = task(tmp_path, "text")
    assert Prompter(core, chosen).form == "chat"
