"""An episode as a turn of a chat: what the template writes, and where the episode's parts stand in it.

A template is free to write roles, marks and blanks around a turn, and to cut the space at the ends of its texts. A
rendering with marks in their place shows what the template writes around them. So an item or a label is never sought in
the template's own words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from miclab.mllm.errors import ModelError

Span = tuple[int, int]
Part = tuple[str, str]
"""Kind (`image`, `text`, `item`, `label`, `answer`) and content."""
Content = list[dict[str, str]]
"""A turn as transformers takes it: texts and images."""
CUTS = ((False, False), (False, True), (True, True), (True, False))
"""Whether a template cuts the space before and behind each text."""


def _unusable(what: str) -> ModelError:
    return ModelError(f"The chat template {what}, so an episode's parts cannot be found in it. Use --prompt plain.")


def _frame(content: Content, render: Callable[[Content], str], image: str) -> list[str]:
    """What the template writes before the first text, between texts, and behind the last.

    Raises:
        ModelError: texts or images do not come once each and in their order.
    """
    marks = {number: f"\ue000{number}\ue001" for number, part in enumerate(content) if part["type"] == "text"}
    rest, frame = render([part | {"text": marks[i]} if i in marks else part for i, part in enumerate(content)]), []
    for mark in marks.values():
        if rest.count(mark) != 1:
            raise _unusable("does not write every text once and in order")
        before, rest = rest.split(mark)
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


def chat(
    parts: Sequence[Part], render: Callable[[Content], str], image: str = ""
) -> tuple[str, list[tuple[str, Span]]]:
    """The chat's text up to the reply's beginning, with the answer behind it, and the span of every part.

    Arguments:
        parts: of the episode; all before the answer are the user's turn, neighbouring texts as one text.
        render: writes a turn by the template.
        image: what the template writes for an image.

    Raises:
        ModelError: the template drops, moves or changes a part.
    """
    *turn, (_, answer) = parts
    runs = [(is_image, list(some)) for is_image, some in groupby(turn, lambda part: part[0] == "image")]
    content: Content = []
    for is_image, some in runs:
        content += [{"type": "image"} for _ in some] if is_image else [_text(some)]
    frame, text = _frame(content, render, image), render(content)
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
            # A part that was cut is as long as what is left of it.
            first, last = max(offset, start), min(offset + len(part), end)
            places.append((kind, (begin + first - start, begin + max(first, last) - start)))
            offset += len(part)
        number += 1
    return text + answer, [*places, ("answer", (len(text), len(text) + len(answer)))]


def _text(some: Sequence[Part]) -> dict[str, str]:
    return {"type": "text", "text": "".join(part for _, part in some)}
