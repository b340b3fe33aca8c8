"""Episodes in chats: parts are found where they stand, whatever the template writes around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment
from tiny_mllm import production, task, tokenizer
from tokenizers import processors

from miclab.mllm.chat import chat
from miclab.mllm.errors import ModelError
from miclab.mllm.prompt import Prompter

IM = "<|im_start|>user\n{% for c in content %}{% if c.type == 'image' %}<image>{% else %}{{ TEXT }}{% endif %}"
IM += "{% endfor %}<|im_end|>\n<|im_start|>assistant\n"
PLAIN = IM.replace("TEXT", "c.text")
TRIMMED = IM.replace("TEXT", "c.text | trim")


def shown(template: str, parts: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """What stands at the spans of a chat's parts."""
    text, places = written(template, parts)
    return [(kind, text[start:end]) for kind, (start, end) in places]


def written(template: str, parts: list[tuple[str, str]]) -> tuple[str, list]:
    """A user's turn by a template, and the spans of its parts."""
    render: Any = Environment().from_string(template).render
    return chat([("user", parts)], lambda messages: render(content=messages[0]["content"]), "<image>")


@pytest.mark.parametrize(("first", "second"), [("star", "user"), ("use", "im"), ("e", "s")])
@pytest.mark.parametrize("template", [PLAIN, TRIMMED])
def test_items_that_are_in_the_templates_words_are_found_in_the_turn(template: str, first: str, second: str):
    parts = [("item", first), ("text", ": "), ("label", second), ("text", "\n"), ("item", second), ("text", ": ")]
    found = shown(template, parts)
    assert [text for kind, text in found if kind != "text"] == [first, second, second]
    text, places = written(template, parts)
    # The first stands at the turn's own beginning.
    assert places[0][1][0] == len("<|im_start|>user\n")
    assert text.endswith("assistant")


def test_a_label_is_not_found_in_text_that_a_template_cut():
    parts = [("image", ""), ("text", "\nAnswer: "), ("label", "A"), ("text", "\n\n"), ("image", ""),
             ("text", "\nAnswer: ")]  # fmt: skip
    text, places = written(TRIMMED, parts)
    (label,) = [span for kind, span in places if kind == "label"]
    assert text[: label[1]].endswith("Answer: A")
    assert [text[slice(*span)] for kind, span in places if kind == "image"] == ["<image>"] * 2
    assert [text[slice(*span)].strip() for kind, span in places if kind == "text"] == ["Answer:", "", "Answer:"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (PLAIN.replace("<image>", ""), "every image"),
        (PLAIN.replace("{{ c.text }}", ""), "every text once"),
        (IM.replace("TEXT", "c.text | upper"), "changes texts"),
        ("{% for c in content if c.type == 'image' %}<image>{% endfor %}"
         "{% for c in content if c.type == 'text' %}{{ c.text }}{% endfor %}", "every image where it stands"),
    ],
)  # fmt: skip
def test_a_template_that_drops_moves_or_changes_parts_is_refused(template: str, message: str):
    parts = [("image", ""), ("label", "dax"), ("image", ""), ("text", "Answer: ")]
    with pytest.raises(ModelError, match=rf"{message}.*--prompt plain"):
        shown(template, parts)


@pytest.mark.parametrize("begins", [True, False])
def test_the_start_token_is_written_once(begins: bool, tmp_path: Path):
    core = tokenizer()
    core.add_special_tokens({"bos_token": "<|begin|>"})
    number = core.convert_tokens_to_ids("<|begin|>")
    core.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", pair="<|begin|> $A $B", special_tokens=[("<|begin|>", number)]
    )
    core.chat_template = ("{{ bos_token }}" if begins else "") + "{% for m in messages %}{{ m.content }}{% endfor %}"
    chosen = task(tmp_path, "text")
    episode = chosen.episodes[0]
    for form in ("chat", "plain"):
        ids = Prompter(core, chosen, form).encode([(episode, episode.answer)]).inputs["input_ids"][0].tolist()
        assert ids[0] == number
        assert ids.count(number) == 1


def test_the_start_token_is_written_once_before_pictures_too(tmp_path: Path):
    of = production("gemma3", chat=True)
    core = of.processor.tokenizer
    core.bos_token = "<|endoftext|>"
    core.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", pair="<|endoftext|> $A $B", special_tokens=[("<|endoftext|>", 0)]
    )
    of.processor.chat_template = "{{ bos_token }}" + of.processor.chat_template
    chosen = task(tmp_path)
    batch = of.prompter(chosen).encode([(chosen.episodes[0], chosen.episodes[0].answer)])
    assert batch.inputs["input_ids"][0].tolist().count(0) == 1
