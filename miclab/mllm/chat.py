"""An episode as a chat: the template's text, and the positions of the episode's parts in it.

A template may write roles, marks and blanks around a turn, and cut space at the ends of its texts. A rendering with
marks in place of texts shows what it writes around them. So an item or a label is never sought in the template's own
words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import jinja2

from miclab.mllm.errors import ModelError

Span = tuple[int, int]
Part = tuple[str, str]
"""Kind (`image`, `text`, `item`, `label`, `answer`, `end`) and content."""
Turn = tuple[str, Sequence[Part]]
"""Role (`system`, `user`, `assistant`) and parts."""
Message = dict[str, Any]
"""A turn in the form of transformers: `role`, and `content`, a list of texts and images."""
Render = Callable[[list[Message]], str]
RAISED = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What a template raises, by itself or by its expressions."""
CUTS = ((False, False), (False, True), (True, True), (True, False))
"""Whether a template cuts the space before and behind each text."""


def mark(number: int) -> str:
    """A text that no episode holds, to find the place where a template writes a text."""
    return f"\ue000{number}\ue001"


def _unusable(what: str) -> ModelError:
    return ModelError(f"The chat template {what}, so an episode's parts cannot be found in it. Use --prompt plain.")


def _messages(turns: Sequence[tuple[str, int]], content: Sequence[dict[str, str]]) -> list[Message]:
    """Contents as messages, each with its role and its number of contents."""
    found, start = [], 0
    for role, count in turns:
        found.append({"role": role, "content": list(content[start : start + count])})
        start += count
    return found


def _frame(turns: Sequence[tuple[str, int]], content: list[dict[str, str]], render: Render, image: str) -> list[str]:
    """The text of the template before the first text, between texts, and after the last.

    Raises:
        ModelError: texts or images do not come once each and in their order.
    """
    marks = {number: mark(number) for number, part in enumerate(content) if part["type"] == "text"}
    marked = [part | {"text": marks[i]} if i in marks else part for i, part in enumerate(content)]
    rest, frame = render(_messages(turns, marked)), []
    for one in marks.values():
        if rest.count(one) != 1:
            raise _unusable("does not write every text once and in order")
        before, rest = rest.split(one)
        frame.append(before)
    frame.append(rest)
    images = [0]
    for number, part in enumerate(content):
        if number in marks:
            images.append(0)
        images[-1] += part["type"] == "image"
    if any(images) and [piece.count(image) for piece in frame] != images:
        raise _unusable("does not write every image where it stands")
    return frame


def chat(turns: Sequence[Turn], render: Render, image: str = "") -> tuple[str, list[tuple[str, Span]]]:
    """The chat's text up to the reply's beginning, and the span of every part.

    Arguments:
        turns: in their order; neighbouring texts of a turn are one text.
        render: writes messages by the template, up to the beginning of the reply.
        image: the template's text for an image.

    Raises:
        ModelError: the template drops, moves or changes a part.
    """
    runs: list[tuple[bool, list[Part]]] = []
    counts: list[tuple[str, int]] = []
    content: list[dict[str, str]] = []
    for role, parts in turns:
        before = len(content)
        for is_image, some in groupby(parts, lambda part: part[0] == "image"):
            run = list(some)
            runs.append((is_image, run))
            content += [{"type": "image"} for _ in run] if is_image else [_text(run)]
        counts.append((role, len(content) - before))
    frame, text = _frame(counts, content, render, image), render(_messages(counts, content))
    whole = [part["text"] for part in content if part["type"] == "text"]
    for left, right in CUTS:
        kept = [
            (len(one) - len(one.lstrip()) if left else 0, len(one.rstrip()) if right else len(one)) for one in whole
        ]
        shown = [one[start:end] for one, (start, end) in zip(whole, kept, strict=True)]
        if "".join(before + one for before, one in zip(frame, [*shown, ""], strict=True)) == text:
            break
    else:
        raise _unusable("changes texts")
    places: list[tuple[str, Span]] = []
    at, number = 0, 0
    for is_image, some in runs:
        if is_image:
            for kind, _ in some:
                at = text.index(image, at) + len(image)
                places.append((kind, (at - len(image), at)))
            continue
        begin = sum(map(len, frame[: number + 1])) + sum(map(len, shown[:number]))
        start, end = kept[number]
        at, offset = begin + len(shown[number]), 0
        for kind, part in some:
            # A part that was cut has the length of its rest.
            first, last = max(offset, start), min(offset + len(part), end)
            places.append((kind, (begin + first - start, begin + max(first, last) - start)))
            offset += len(part)
        number += 1
    return text, places


def _text(some: Sequence[Part]) -> dict[str, str]:
    return {"type": "text", "text": "".join(part for _, part in some)}
