"""Answers of a model to episodes: the text of greedy decoding, and the probability of each answer of the context.

Every candidate answer is written behind the prompt with its end (`Prompter.ending`) and read in one pass. Greedy
decoding writes an answer and ends it exactly if each of these tokens has the highest logit given those before it. So
nothing needs to be generated. An answer is judged to its end: `12` is not `1`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from miclab.mllm.errors import memory_guard
from miclab.mllm.judging import Judge
from miclab.mllm.loading import Production
from miclab.mllm.passes import UNTOUCHED, Intervention, Passes
from miclab.mllm.reading import Encoded
from miclab.mllm.task import Episode

OnProgress = Callable[[int, str], None]
"""Called with the number of episodes or steps done and a short text."""
MEASURES = ("correct", "choice", "choice_per_token", "copied", "log_probability", "log_probability_per_token")
BENCHMARK = "benchmark"
"""Further measures if answers are also judged as the benchmark does."""


@dataclass(frozen=True)
class Answers:
    """The answers to episodes.

    Arguments:
        values: by name, each [episode].
            correct: 1 where greedy decoding writes the right answer and ends.
            choice: 1 where the right answer is the likeliest by the sum over tokens and end; chance is 1 / candidates.
            choice_per_token: the same by the mean over these tokens, which does not favour short answers.
            copied: 1 where greedy decoding writes an answer of the context and ends (CLA).
            log_probability: of the right answer and its end, in nats.
            log_probability_per_token: the same, the mean over these tokens.
            benchmark: 1 where VL-ICL Bench would call it right, if that was requested.
        written: the text for each episode; empty if not requested.
    """

    values: Mapping[str, NDArray[np.floating]]
    written: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> NDArray[np.floating]:
        if name in self.__dict__.get("values", {}):
            return self.values[name]
        raise AttributeError(name)

    def of(self, rows: Sequence[int]) -> Answers:
        """The answers to some of the episodes, by their numbers."""
        written = tuple(self.written[row] for row in rows) if self.written else ()
        return Answers({name: of[list(rows)] for name, of in self.values.items()}, written)

    def named(self) -> dict[str, NDArray[np.floating]]:
        """The arrays by name."""
        return dict(self.values)


def joined(parts: Sequence[Answers]) -> Answers:
    """Answers to several groups of episodes, concatenated."""
    values = {name: np.concatenate([part.values[name] for part in parts]) for name in parts[0].values}
    return Answers(values, tuple(text for part in parts for text in part.written))


@torch.no_grad()
def answers(
    production: Production, episodes: Sequence[Episode], encoded: Encoded, judge: Judge | None = None,
    passes: Passes | None = None, intervention: Intervention = UNTOUCHED,
) -> Answers:  # fmt: skip
    """Answers to a batch that `batches` made.

    Arguments:
        passes: over all batches; None: this batch alone is read.
        intervention: under which it is answered.
        judge: also judges them as the benchmark does, and returns the text; None: nothing is generated.

    Raises:
        OutOfMemoryError: it does not fit.
    """
    needed = sorted({place - 1 for reading in encoded.readings for place in reading.written})
    column = {place: number for number, place in enumerate(needed)}
    passes = passes or Passes(production, [intervention], shares=False)
    with memory_guard(f"answering {len(episodes)} episodes of {encoded.inputs['input_ids'].shape[1]} tokens"):
        logits = passes.logits(encoded, needed, intervention)
        scores = torch.log_softmax(logits.float(), -1).cpu()
    is_written, likely, length = [], [], []
    for row, reading in enumerate(encoded.readings):
        ids = torch.tensor(encoded.ids(row, reading.written))
        own = scores[row, [column[place - 1] for place in reading.written]]
        is_written.append(bool((own.argmax(-1) == ids).all()))
        likely.append(float(own.gather(-1, ids[:, None]).sum()))
        length.append(len(ids))
    per_token = [total / count for total, count in zip(likely, length, strict=True)]
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    texts, start = [], 0
    for episode in episodes:
        count = len(episode.candidates)
        right = start + episode.candidates.index(episode.answer)
        shown = {example.answer for example in episode.support}
        found["correct"].append(float(is_written[right]))
        for name, by in (("choice", likely), ("choice_per_token", per_token)):
            found[name].append(float(start + int(np.argmax(by[start : start + count])) == right))
        mine = [name for i, name in enumerate(episode.candidates) if is_written[start + i]]
        found["copied"].append(float(any(name in shown for name in mine)))
        found["log_probability"].append(likely[right])
        found["log_probability_per_token"].append(per_token[right])
        if judge:
            # Without an end, the text may continue after the answer.
            with intervention.context(encoded):
                texts.append(mine[0] if mine and judge.prompter.ending else judge.written(production, episode))
            found.setdefault(BENCHMARK, []).append(float(judge.is_right(texts[-1], episode.answer)))
        start += count
    return Answers({name: np.array(of) for name, of in found.items()}, tuple(texts))
