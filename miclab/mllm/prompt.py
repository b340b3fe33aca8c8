"""Episodes as tokens: what a model reads, and where in it items, labels and the answer stand.

Positions are found from character offsets in the text after every image placeholder was replaced. So they hold however
a tokenizer merges a label with its neighbours, and for any number of tokens of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from miclab.mllm.chat import Content, Part, Span, chat
from miclab.mllm.errors import ModelError, TaskError
from miclab.mllm.options import PromptForm
from miclab.mllm.task import Episode, Item, Task
from miclab.worlds.roles import LABEL, OTHER, Roles


@dataclass(frozen=True)
class Reading:
    """One episode as a model reads it, with one answer written behind it.

    Arguments:
        episode: what it is.
        answer: the answer that was written.
        last: the position from which the first token of the answer is predicted.
        answer_positions: positions of the answer's tokens; they end the sequence.
        roles: of the positions 0 to `last`, unbatched; the items' modality is the task's view.
        labels: number of each context label among the episode's candidates, int64 [context].
        target: the number of the right answer.
    """

    episode: Episode
    answer: str
    last: int
    answer_positions: tuple[int, ...]
    roles: Roles
    labels: Tensor
    target: int

    @property
    def length(self) -> int:
        """Number of tokens that stand before the answer."""
        return self.last + 1


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


@dataclass
class Written:
    """A text with the places of its parts, while it is written."""

    parts: list[Part]
    """In their order."""

    def add(self, kind: str, content: str) -> None:
        if content:
            self.parts.append((kind, content))


def placeholder(processor: Any) -> str:
    """The token that stands for an image in a processor's text."""
    found = getattr(processor, "boi_token", None) or getattr(processor, "image_token", None)
    if not found:
        raise ModelError(f"{type(processor).__name__} names no image token, so it reads text alone; use --view text.")
    return str(found)


class Prompter:
    """Writes the episodes of a task for one model.

    Arguments:
        processor: the model's processor, or its tokenizer where it reads text alone.
        task: the task.
        form: `chat`: by the processor's chat template; `plain`: as it stands; `auto`: chat where there is one.
        around: texts before and after every image in the plain form, as (`<|vision_start|>`, `<|vision_end|>`).

    Raises:
        ModelError: the tokenizer gives no character offsets, there is no chat template, or it reads no images.
    """

    def __init__(self, processor: Any, task: Task, form: PromptForm = "auto", around: tuple[str, str] = ("", "")):
        self.processor, self.task, self.around = processor, task, around
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.reads_images = self.tokenizer is not processor
        if not getattr(self.tokenizer, "is_fast", False):
            raise ModelError(
                f"{type(self.tokenizer).__name__} gives no character offsets, by which answers are found among tokens. "
                "Use a model with a tokenizer.json."
            )
        self.image = ""
        if task.view == "image":
            if not self.reads_images:
                raise ModelError("The model reads text alone, and the task shows images. Use --view text.")
            self.image = placeholder(processor)
        template = getattr(processor, "chat_template", None) or getattr(self.tokenizer, "chat_template", None)
        if form == "chat" and not template:
            raise ModelError("The model has no chat template. Use --prompt plain.")
        self.chat = bool(template) if form == "auto" else form == "chat"
        self.chat_template = template
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token or self.tokenizer.convert_ids_to_tokens(0)

    def _write(self, episode: Episode, answer: str) -> Written:
        style, written = self.task.style, Written([])
        written.add("text", style.instruction)
        question = f"{episode.question}\n" if episode.question and not episode.question.endswith("\n") else ""
        question = question or episode.question
        before, rest = style.template.replace("{question}", question).split("{item}")
        between, after = rest.split("{answer}")
        shown = [*((e.item, "label", e.answer) for e in episode.support), (episode.query, "answer", answer)]
        for item, kind, label in shown:
            written.add("text", before)
            self._show(written, item)
            written.add("text", between)
            written.add(kind, label)
            if kind == "label":
                written.add("text", after)
        return written

    def _show(self, written: Written, item: Item) -> None:
        if self.task.view == "text":
            written.add("item", item.text)
        for path in item.images if self.task.view == "image" else ():
            written.add("image", str(path))

    def _plain(self, written: Written) -> tuple[str, list[tuple[str, Span]]]:
        text, places = "", []
        for kind, content in written.parts:
            if kind == "image":
                text += self.around[0]
                content = self.image
            places.append((kind, (len(text), len(text) + len(content))))
            text += content + (self.around[1] if kind == "image" else "")
        return text, places

    def _render(self, content: Content) -> str:
        """A user's turn and the start of the reply, as the chat template writes them."""
        message: Any = content if self.reads_images else "".join(part["text"] for part in content)
        # The tokenizer applies the template: a processor's own method may need its video part, which is not loaded.
        text: Any = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": message}],
            chat_template=self.chat_template,
            add_generation_prompt=True,
            tokenize=False,
        )
        return text

    def _text(self, episode: Episode, answer: str) -> tuple[str, list[tuple[str, Span]]]:
        written = self._write(episode, answer)
        return chat(written.parts, self._render, self.image) if self.chat else self._plain(written)

    def encode(self, wanted: Sequence[tuple[Episode, str]]) -> Encoded:
        """Episodes, each with the answer to write, as one batch.

        Raises:
            TaskError: an answer or a label has no token of its own, or an image cannot be read.
        """
        texts, places = [], []
        for episode, answer in wanted:
            text, found = self._text(episode, answer)
            texts.append(text)
            places.append(found)
        options: dict[str, Any] = {"padding": True, "padding_side": "right", "return_offsets_mapping": True}
        options["return_tensors"] = "pt"
        start = self.tokenizer.bos_token
        if self.chat and start and all(text.startswith(start) for text in texts):
            # The template has written the start token, and the tokenizer would write it again.
            options["add_special_tokens"] = False
        if self.task.view == "image":
            images = [[_opened(path) for item in _items(episode) for path in item.images] for episode, _ in wanted]
            made = self.processor(text=texts, images=images, return_text_replacement_offsets=True, **options)
            replaced = made.pop("text_replacement_offsets", None)
            if replaced is None:
                raise ModelError(
                    f"{type(self.processor).__name__} does not report where images stand in its text. That needs "
                    "transformers 5.23 or newer and a processor of its own."
                )
        else:
            made, replaced = self.tokenizer(texts, **options), [[] for _ in texts]
        offsets = made.pop("offset_mapping").tolist()
        inputs = {name: value for name, value in made.items() if isinstance(value, Tensor)}
        readings = []
        for row, (episode, answer) in enumerate(wanted):
            real = int(inputs["attention_mask"][row].sum())
            moved = [(kind, _moved(span, replaced[row])) for kind, span in places[row]]
            readings.append(self._locate(episode, answer, moved, [tuple(o) for o in offsets[row]][:real]))
        return Encoded(inputs, tuple(readings))

    def _locate(
        self, episode: Episode, answer: str, places: Sequence[tuple[str, Span]], offsets: Sequence[Span]
    ) -> Reading:
        """Positions of the parts of one sequence."""
        context = len(episode.support)
        kind, exemplar = torch.full((len(offsets),), OTHER), torch.full((len(offsets),), -1)
        number, answers = 0, []
        for part, span in places:
            if part == "text":
                continue
            tokens = [i for i, (start, end) in enumerate(offsets) if start < span[1] and end > span[0]]
            if not tokens:
                shown = answer if part == "answer" else episode.support[min(number, context - 1)].answer
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
        roles = Roles((self.task.view,), context, kind[: last + 1], exemplar[: last + 1])
        candidates = episode.candidates
        labels = torch.tensor([candidates.index(example.answer) for example in episode.support])
        return Reading(episode, answer, last, tuple(answers), roles, labels, candidates.index(episode.answer))

    def names(self, encoded: Encoded, row: int) -> list[str]:
        """What to call each position of a sequence, up to its last: the token's text, or the image's number."""
        reading = encoded.readings[row]
        ids = encoded.inputs["input_ids"][row, : reading.length].tolist()
        names = [self.tokenizer.decode([token]).replace("\n", "\\n") or "?" for token in ids]
        for place, (kind, exemplar) in enumerate(
            zip(reading.roles.kind.tolist(), reading.roles.exemplar.tolist(), strict=True)
        ):
            if kind >= 0 and self.task.view == "image":
                names[place] = "image q" if exemplar == reading.roles.context else f"image {exemplar + 1}"
        return names


def _items(episode: Episode) -> list[Item]:
    return [*(example.item for example in episode.support), episode.query]


def _opened(path: Any) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise TaskError(f"Image {path} cannot be read: {error}") from error


def _moved(span: Span, replaced: Sequence[dict[str, Any]]) -> Span:
    """A span of the text as written, in the text where placeholders were replaced."""
    shift = 0
    for one in replaced:
        if tuple(one["span"]) == span:
            return tuple(one["new_span"])
        if one["span"][1] <= span[0]:
            shift = one["new_span"][1] - one["span"][1]
    return span[0] + shift, span[1] + shift
