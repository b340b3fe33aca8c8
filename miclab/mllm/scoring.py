"""Answers of a model to episodes: what it would write, and how likely each answer of the context is.

Every different answer of the context is written behind the prompt and read in one pass. Greedy decoding writes an
answer exactly where each of its tokens has the highest logit given those before it, so nothing needs to be generated.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from miclab.mllm.errors import memory_guard
from miclab.mllm.loading import Production
from miclab.mllm.prompt import Encoded, Prompter
from miclab.mllm.task import Episode

OnProgress = Callable[[int, str], None]
"""Is called with the number of episodes or steps done and a short text."""
MEASURES = ("correct", "choice", "copied", "log_probability")


@dataclass(frozen=True)
class Answers:
    """What was answered to episodes, each array [episode].

    Arguments:
        correct: 1 where greedy decoding writes the right answer (as a prefix: what it writes behind is not looked at).
        choice: 1 where the right answer is the likeliest of the context's, by the sum of its tokens' log-probability;
            chance is one over the number of different answers.
        copied: 1 where greedy decoding writes an answer of the context (CLA).
        log_probability: of the right answer, in nats.
    """

    correct: NDArray[np.floating]
    choice: NDArray[np.floating]
    copied: NDArray[np.floating]
    log_probability: NDArray[np.floating]

    def named(self) -> dict[str, NDArray[np.floating]]:
        """The arrays by name."""
        return {name: getattr(self, name) for name in MEASURES}


def joined(parts: Sequence[Answers]) -> Answers:
    """Answers to several lots of episodes, one behind the other."""
    return Answers(*(np.concatenate([part.named()[name] for part in parts]) for name in MEASURES))


def batches(prompter: Prompter, batch: int) -> Iterator[tuple[tuple[Episode, ...], Encoded]]:
    """The task's episodes, `batch` at a time, each with every candidate answer."""
    episodes = prompter.task.episodes
    for start in range(0, len(episodes), batch):
        some = episodes[start : start + batch]
        yield some, prompter.encode([(episode, answer) for episode in some for answer in episode.candidates])


def forward(model: Any, inputs: dict[str, torch.Tensor], positions: torch.Tensor | None = None) -> torch.Tensor:
    """Logits at some positions [batch, position, vocabulary]; None: at the last alone.

    Where the model can, other positions' logits are not computed: with large vocabularies they are most of the memory.
    """
    keep: dict[str, Any] = {}
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if "logits_to_keep" in inspect.signature(base.forward).parameters:
        keep["logits_to_keep"] = 1 if positions is None else positions
    logits = model(**inputs, use_cache=False, **keep).logits
    return logits if keep or positions is None else logits[:, positions]


@torch.no_grad()
def answers(production: Production, episodes: Sequence[Episode], encoded: Encoded) -> Answers:
    """Answers to a batch that `batches` made.

    Raises:
        OutOfMemoryError: it does not fit.
    """
    needed = sorted({place - 1 for reading in encoded.readings for place in reading.answer_positions})
    column = {place: number for number, place in enumerate(needed)}
    with memory_guard(f"answering {len(episodes)} episodes of {encoded.inputs['input_ids'].shape[1]} tokens"):
        inputs = encoded.to(production.model)
        logits = forward(production.model, inputs, torch.tensor(needed, device=production.model.device))
        scores = torch.log_softmax(logits.float(), -1).cpu()
    written, likely = [], []
    for row, reading in enumerate(encoded.readings):
        ids = encoded.inputs["input_ids"][row, list(reading.answer_positions)]
        own = scores[row, [column[place - 1] for place in reading.answer_positions]]
        written.append(bool((own.argmax(-1) == ids).all()))
        likely.append(float(own.gather(-1, ids[:, None]).sum()))
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    start = 0
    for episode in episodes:
        count = len(episode.candidates)
        right = start + episode.candidates.index(episode.answer)
        shown = {example.answer for example in episode.support}
        best = start + int(np.argmax(likely[start : start + count]))
        found["correct"].append(float(written[right]))
        found["choice"].append(float(best == right))
        of_context = [written[start + i] for i, name in enumerate(episode.candidates) if name in shown]
        found["copied"].append(float(any(of_context)))
        found["log_probability"].append(likely[right])
        start += count
    return Answers(*(np.array(found[name]) for name in MEASURES))
