"""Episodes as a model reads them: tokens, and the positions of items, labels, the answer and its end.

Positions are found from character offsets in the text after image placeholders were replaced. So they are right even if
a tokenizer merges a label with its neighbours, and for any number of tokens of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from miclab.mllm.chat import Span
from miclab.mllm.errors import TaskError
from miclab.mllm.task import Episode, View
from miclab.worlds.roles import LABEL, OTHER, Roles


@dataclass(frozen=True)
class Reading:
    """One episode as a model reads it, followed by one answer.

    Arguments:
        episode: the episode.
        answer: the written answer.
        last: the position from which the first token of the answer is predicted.
        answer_positions: positions of the answer's tokens.
        end_positions: positions of the tokens after it that end the answer. Empty if the answer's last token holds the
            end, or the text has no end.
        roles: of the positions 0 to `last`, unbatched; the items' modality is the task's view.
        labels: number of each context label among the episode's candidates, int64 [context].
        target: the number of the right answer.
        questions: positions of the questions, other than those of an item or a label.
    """

    episode: Episode
    answer: str
    last: int
    answer_positions: tuple[int, ...]
    end_positions: tuple[int, ...]
    roles: Roles
    labels: Tensor
    target: int
    questions: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Number of tokens before the answer."""
        return self.last + 1

    @property
    def written(self) -> tuple[int, ...]:
        """Positions of the answer and its end; they end the sequence."""
        return self.answer_positions + self.end_positions

    def label_positions(self, number: int) -> list[int]:
        """Positions of the label of an example."""
        return ((self.roles.kind == LABEL) & (self.roles.exemplar == number)).nonzero()[:, 0].tolist()


@dataclass(frozen=True)
class Encoded:
    """Readings as a batch, padded on the right.

    Arguments:
        inputs: what the model's forward takes, on the CPU.
        readings: one a row.
    """

    inputs: dict[str, Tensor]
    readings: tuple[Reading, ...]

    def to(self, model: Any) -> dict[str, Tensor]:
        """The inputs on the model's device, floating ones in its type."""
        moved = {name: value.to(model.device) for name, value in self.inputs.items()}
        return {name: v.to(model.dtype) if v.is_floating_point() else v for name, v in moved.items()}

    def ids(self, row: int, positions: Sequence[int]) -> list[int]:
        """Numbers of the tokens at some positions."""
        return self.inputs["input_ids"][row, list(positions)].tolist()


def moved(span: Span, replaced: Sequence[dict[str, Any]]) -> Span:
    """A span of the original text, in the text with replaced placeholders."""
    shift = 0
    for one in replaced:
        if tuple(one["span"]) == span:
            return tuple(one["new_span"])
        if one["span"][1] <= span[0]:
            shift = one["new_span"][1] - one["span"][1]
    return span[0] + shift, span[1] + shift


def locate(
    episode: Episode, answer: str, view: View, places: Sequence[tuple[str, Span]], offsets: Sequence[Span]
) -> Reading:
    """Positions of the parts of one sequence.

    Arguments:
        places: of the parts, as spans of the text that was read.
        offsets: of the tokens, as spans of the same text.

    Raises:
        TaskError: a part has no token of its own, or nothing precedes the answer.
    """
    context = len(episode.support)
    kind, exemplar = torch.full((len(offsets),), OTHER), torch.full((len(offsets),), -1)
    number, answers, ends, questions = 0, [], [], []
    for part, span in places:
        if part == "text":
            continue
        tokens = [i for i, (start, end) in enumerate(offsets) if start < span[1] and end > span[0]]
        if part == "question":
            questions += tokens
            continue
        if part == "end":
            ends = [token for token in tokens if token not in answers]
            continue
        if not tokens:
            shown = episode.support[number].answer if part == "label" else answer
            what = "an item" if part in ("image", "item") else f"the answer {shown!r}"
            raise TaskError(f"{episode.name}: {what} has no token of its own: the tokenizer makes nothing of it.")
        if part == "answer":
            answers = tokens
            continue
        kind[tokens] = LABEL if part == "label" else 0
        exemplar[tokens] = number
        number += part == "label"
    last = answers[0] - 1
    if last < 0:
        raise TaskError(f"{episode.name}: nothing stands before the answer {answer!r}.")
    roles = Roles((view,), context, kind[: last + 1], exemplar[: last + 1])
    candidates = episode.candidates
    labels = torch.tensor([candidates.index(example.answer) for example in episode.support], dtype=torch.long)
    found = tuple(place for place in questions if place <= last and kind[place] == OTHER)
    return Reading(episode, answer, last, tuple(answers), tuple(ends), roles, labels,
                   candidates.index(episode.answer), found)  # fmt: skip
