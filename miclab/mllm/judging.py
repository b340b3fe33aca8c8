"""Answers as VL-ICL Bench judges them: written text is cut and compared by the rule of the task.

The text is cut at its first line break, or else at its first full stop. Case is ignored. The whole text must equal the
answer. In operator induction only its first number must. In matching it must hold `yes` where the answer is yes, and
must not where the answer is no.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from miclab.mllm.errors import memory_guard
from miclab.mllm.loading import Production
from miclab.mllm.prompt import Prompter
from miclab.mllm.task import Episode, Rule

MOST_TOKENS = 15
"""Most tokens that a model writes, the benchmark's own limit."""
ALONG = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""Inputs with one entry for each position."""


def cut(text: str) -> str:
    """The part of a text that is judged."""
    text = text.strip()
    for end in ("\n", "."):
        place = text.find(end)
        if place > 0:
            return text[:place]
    return text


def is_right(text: str, answer: str, rule: Rule) -> bool:
    """Whether a text is right by a rule of the benchmark."""
    said, meant = cut(text).lower(), answer.strip().lower()
    if rule == "yes or no":
        return ("yes" in said) == (meant == "yes")
    if rule == "number":
        number = re.search(r"\d+", said)
        said = number[0] if number else ""
    return said == meant


class _Ended(StoppingCriteria):
    """Stops once the written text holds its end."""

    def __init__(self, tokenizer: Any, length: int, end: str):
        self.tokenizer, self.length, self.end = tokenizer, length, end

    def __call__(self, input_ids: Any, scores: Any, **more: Any) -> Any:
        done = [self.end in self.tokenizer.decode(row[self.length :]) for row in input_ids]
        return torch.tensor(done, device=input_ids.device)


def _forget(model: Any) -> None:
    """Drops the offset of positions that Qwen's models keep of the last text. It would count in the next pass that goes
    on from a prefix."""
    for module in model.modules():
        if getattr(module, "rope_deltas", None) is not None:
            module.rope_deltas = None


class Judge:
    """Lets a model write, and judges it by the rule of the prompter's task.

    Arguments:
        prompter: writes the episodes.
    """

    def __init__(self, prompter: Prompter):
        self.prompter = prompter
        self.rule: Rule = prompter.task.rule

    @torch.no_grad()
    def written(self, production: Production, episode: Episode) -> str:
        """The text of greedy decoding, up to the answer's end, the end token, or 15 tokens.

        Raises:
            OutOfMemoryError: it does not fit.
        """
        encoded = self.prompter.encode([(episode, episode.answer)])
        length, tokenizer, end = encoded.readings[0].length, self.prompter.tokenizer, self.prompter.ending
        inputs = {name: value[:, :length] if name in ALONG else value
                  for name, value in encoded.to(production.model).items()}  # fmt: skip
        more = {"stopping_criteria": StoppingCriteriaList([_Ended(tokenizer, length, end)])} if end else {}
        with memory_guard("writing an answer"):
            made = production.model.generate(
                **inputs, do_sample=False, max_new_tokens=MOST_TOKENS, pad_token_id=tokenizer.pad_token_id, **more
            )
        _forget(production.model)
        text = str(tokenizer.decode(made[0, length:]))
        text = text.split(end)[0] if end else text
        return str(tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids, skip_special_tokens=True))

    def is_right(self, text: str, answer: str) -> bool:
        """Whether a text is right by the task's rule."""
        return is_right(text, answer, self.rule)
