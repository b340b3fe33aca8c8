"""Checks of prompts: special tokens in an episode's texts, and answers that a tokenizer writes alike or in two ways."""

from __future__ import annotations

import re
from typing import Any

from miclab.mllm.errors import TaskError
from miclab.mllm.reading import Encoded
from miclab.mllm.task import Episode, View

MARKS = ("image_token", "video_token", "audio_token", "boi_token", "eoi_token")
"""A processor's names for the tokens that it replaces by what it reads."""


def special_tokens(processor: Any) -> re.Pattern[str]:
    """Matches the special tokens of a tokenizer, and the marks of its processor."""
    tokenizer = getattr(processor, "tokenizer", processor)
    known = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    known |= {str(token) for token in tokenizer.all_special_tokens}
    known |= {str(getattr(processor, name, None) or "") for name in MARKS}
    found = sorted(known - {""}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, found)) or r"(?!)")


def check_texts(episode: Episode, view: View, special: re.Pattern[str]) -> None:
    """Checks an episode before it is written.

    Arguments:
        view: items in words are checked where they are shown.
        special: matches special tokens.

    Raises:
        TaskError: a text of the episode would be read as a special token.
    """
    shown = [("query", episode.query, episode.answer, episode.question)]
    shown += [
        (f"example {number}", one.item, one.answer, episode.question_of(one))
        for number, one in enumerate(episode.support)
    ]
    for where, item, answer, question in shown:
        text = item.text if view == "text" else ""
        for field, value in (("answer", answer), ("question", question), ("text", text)):
            found = special.search(value)
            if found:
                raise TaskError(
                    f"{episode.name}: `{field}` of the {where} holds {found[0]!r}, which the model reads as a "
                    f"special token and not as text: {value[:60]!r}."
                )


def check_tokens(encoded: Encoded, tokenizer: Any) -> str:
    """Checks the tokens of answers and labels.

    Returns:
        A remark if a label of the context and the same answer are different tokens; else an empty text.

    Raises:
        TaskError: two answers of an episode are the same tokens. A tokenizer may write unknown words, or two forms of
            one letter, alike. Then a model gives both or neither.
    """
    known: dict[tuple[str, str, tuple[int, ...]], str] = {}
    remark = ""

    def check(name: str, kind: str, ids: list[int], text: str) -> None:
        other = known.setdefault((name, kind, tuple(ids)), text)
        if other != text:
            shown = tokenizer.convert_ids_to_tokens(ids)
            raise TaskError(f"{name}: the answers {other!r} and {text!r} are the same tokens {shown} to this model.")

    for row, reading in enumerate(encoded.readings):
        name, own = reading.episode.name, encoded.ids(row, reading.answer_positions)
        check(name, "answer", own, reading.answer)
        for number, example in enumerate(reading.episode.support):
            label = encoded.ids(row, reading.label_positions(number))
            check(name, "label", label, example.answer)
            if example.answer == reading.answer and label != own and not remark:
                shown = [tokenizer.convert_ids_to_tokens(ids) for ids in (label, own)]
                remark = (
                    f"{name}: {reading.answer!r} is {shown[0]} in the context and {shown[1]} as the answer, so copying "
                    "it is another task. --prompt turns or plain writes both alike."
                )
    return remark
