"""Prompts of episodes: plain text, one turn of a chat, or several turns of a chat.

    plain   instruction, then each example by the style's template, then the query up to its answer
    chat    the same as one user's turn; the answer is the reply
    turns   the instruction as system text, a user's and an assistant's turn for each example, then the query

In `plain` and `turns` a label of the context and the answer have the same surroundings, so they are the same tokens. If
they are not, a remark says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from miclab.data.pictures import PictureError, open_picture
from miclab.errors import is_out_of_memory
from miclab.mllm.chat import RAISED, Message, Part, Span, Turn, chat, mark
from miclab.mllm.errors import ModelError, TaskContentError, TaskError
from miclab.mllm.options import PromptForm
from miclab.mllm.processors import chat_template, placeholder
from miclab.mllm.prompt_checks import check_texts, check_tokens, special_tokens
from miclab.mllm.reading import Encoded, locate, moved
from miclab.mllm.task import TEMPLATE, Episode, Item, Task

SYSTEM = "Answer the question with a single word or phase."
"""The paper's system text (its spelling), used if the task has no instruction."""
QUESTION = "This is a "
"""The paper's question, used if an example has none."""


class Prompter:
    """Writes the episodes of a task for one model.

    Arguments:
        processor: the model's processor, or the tokenizer of a model of text alone.
        task: the task.
        form: `turns`, `chat` or `plain`, as the module's text says. `auto` is turns if the model's chat template marks
            them, chat with any other template, else plain.
        around: texts before and after every image in the plain form, as (`<|vision_start|>`, `<|vision_end|>`).
        background: colour that transparent parts of pictures show.
        remarks: a collection that gets remarks on the prompts.
        most: tokens that a text may have, since the model has learnt so many positions; 0: no limit.

    Raises:
        ModelError: the tokenizer gives no character offsets, there is no chat template, or it reads no images.
        TaskError: the task's own words hold the mark of an image.
    """

    def __init__(
        self,
        processor: Any,
        task: Task,
        form: PromptForm = "auto",
        around: tuple[str, str] = ("", ""),
        background: str = "white",
        remarks: dict[str, None] | None = None,
        most: int = 0,
    ):
        self.processor, self.task, self.around, self.background = processor, task, around, background
        self.remarks = {} if remarks is None else remarks
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
        self.template = chat_template(processor) if form != "plain" else ""
        if form in ("chat", "turns") and not self.template:
            raise ModelError("The model has no chat template. Use --prompt plain.")
        if form == "auto":
            form = "plain" if not self.template else "turns" if self._marks_turns() else "chat"
        self.form = form
        self.takes_system = True
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token or self.tokenizer.convert_ids_to_tokens(0)
        self.marks = special_tokens(processor)
        self.shared, self.most = True, most
        has_questions = any(one.question or any(example.question for example in one.support) for one in task.episodes)
        if has_questions and "{question}" not in task.style.template:
            self.remarks["The template has no {question}, so the questions of the task are not shown."] = None
        for field, text in (("instruction", task.style.instruction), ("template", task.style.template)):
            if self.image and self.image in text:
                raise TaskError(f"{field} = {text!r} holds {self.image!r}, by which the model marks an image.")

    def _shown(self, item: Item, question: str) -> list[Part]:
        """An item with its question, up to its answer."""
        pieces, _ = self.task.style.pieces
        if self.form == "turns" and self.task.style.template == TEMPLATE:
            pieces = ["{item}", "\n" if self.task.view == "text" else "", "{question}"]
            question = question or QUESTION
        elif question and not question.endswith("\n"):
            question = f"{question}\n"
        parts: list[Part] = []
        for piece in pieces:
            if piece == "{item}" and self.task.view == "text":
                parts.append(("item", item.text))
            elif piece == "{item}":
                for number, path in enumerate(item.images):
                    parts += [("text", "\n")] if number and self.merges else []
                    parts.append(("image", str(path)))
            else:
                parts.append(("question", question) if piece == "{question}" else ("text", piece))
        return [part for part in parts if part[1]]

    @cached_property
    def merges(self) -> bool:
        """Whether the model would take two pictures side by side for one, as nothing is written between them. Models
        that find grids of pictures by rows of tokens do. Then a line break stands there."""
        if not hasattr(getattr(self.processor, "image_processor", None), "merge_size"):
            return False
        if self.form == "plain":
            return not any(self.around)
        two = {"role": "user", "content": [{"type": "image"}, {"type": "image"}]}
        if self.image * 2 not in self._render([two]):
            return False
        self.remarks["A line break stands between pictures side by side, since the chat template writes nothing there "
                     "and the model would take them for one."] = None  # fmt: skip
        return True

    def _one_text(self, episode: Episode) -> list[Part]:
        """Everything before the answer as one text."""
        parts: list[Part] = [("text", self.task.style.instruction)]
        for one in episode.support:
            parts += [*self._shown(one.item, episode.question_of(one)), ("label", one.answer)]
            parts.append(("text", self.task.style.pieces[1]))
        parts += self._shown(episode.query, episode.question)
        return [part for part in parts if part[1]]

    def _turns(self, episode: Episode) -> list[Turn]:
        """The episode as turns up to the reply."""
        said: Part = ("text", self.task.style.instruction.strip() or SYSTEM)
        found: list[Turn] = [("system", [said])] if self.takes_system else []
        for one in episode.support:
            found += [("user", self._shown(one.item, episode.question_of(one))), ("assistant", [("label", one.answer)])]
        found.append(("user", self._shown(episode.query, episode.question)))
        if not self.takes_system:
            role, parts = found[0]
            found[0] = (role, [(said[0], f"{said[1]}\n"), *parts])
        return found

    def _plain(self, parts: Sequence[Part]) -> tuple[str, list[tuple[str, Span]]]:
        text, places = "", []
        for kind, content in parts:
            if kind == "image":
                text += self.around[0]
                content = self.image
            places.append((kind, (len(text), len(text) + len(content))))
            text += content + (self.around[1] if kind == "image" else "")
        return text, places

    def _render(self, messages: list[Message], reply: bool = True) -> str:
        """Messages as the chat template writes them, with the reply's beginning."""
        if not self.reads_images:
            messages = [m | {"content": "".join(part["text"] for part in m["content"])} for m in messages]
        try:
            # The tokenizer applies the template: a processor's own method may need its video part, which is not loaded.
            text: Any = self.tokenizer.apply_chat_template(
                messages, chat_template=self.template, add_generation_prompt=reply, tokenize=False
            )
        except RAISED as error:
            said = " ".join(str(error).split())[:200].rstrip(".")
            raise ModelError(f"The chat template refuses the episode: {said}. Use --prompt plain.") from error
        return text

    def _marks_turns(self) -> bool:
        """Whether the template writes anything between a user's turn and an assistant's."""
        messages = [{"role": role, "content": [{"type": "text", "text": mark(number)}]}
                    for number, role in enumerate(("user", "assistant", "user"))]  # fmt: skip
        try:
            text = self._render(messages)
        except ModelError:
            return False
        user, assistant = text.find(mark(0)), text.find(mark(1))
        return 0 <= user < assistant and bool(text[user + len(mark(0)) : assistant].strip())

    def _chatted(self, episode: Episode) -> tuple[str, list[tuple[str, Span]]]:
        if self.form == "chat":
            return chat([("user", self._one_text(episode))], self._render, self.image)
        try:
            return chat(self._turns(episode), self._render, self.image)
        except ModelError:
            if not self.takes_system:
                raise
        # Some templates refuse or drop a system text; then the first user's turn holds it.
        self.takes_system = False
        try:
            return chat(self._turns(episode), self._render, self.image)
        except ModelError:
            self.takes_system = True
            raise

    @cached_property
    def ending(self) -> str:
        """The end of an answer. In a chat it is the template's text after a reply, up to its first special token. In
        plain text it is the style's text after an answer, else the end token. If a template writes nothing after a
        reply, it is empty, with a remark. Then nothing marks the end, and the answer's beginning is judged."""
        if self.form == "plain":
            return self.task.style.pieces[1] or str(self.tokenizer.eos_token or "")
        messages = [{"role": role, "content": [{"type": "text", "text": mark(number)}]}
                    for number, role in enumerate(("user", "assistant"))]  # fmt: skip
        behind = self._render(messages, reply=False).partition(mark(1))[2]
        found = self.marks.search(behind)
        end = behind[: found.end()] if found else behind
        if not end.strip():
            self.remarks["The chat template writes nothing after a reply, so an answer counts as written whatever "
                         "follows it."] = None  # fmt: skip
        return end if end.strip() else ""

    def write(self, episode: Episode, answer: str) -> tuple[str, list[tuple[str, Span]]]:
        """The text of an episode with an answer and its end, and the span of every part.

        Raises:
            TaskError: a text of the episode would be read as a special token.
            ModelError: the chat template refuses the episode, or drops, moves or changes a part.
        """
        check_texts(episode, self.task.view, self.marks)
        text, places = self._plain(self._one_text(episode)) if self.form == "plain" else self._chatted(episode)
        for kind, content in (("answer", answer), ("end", self.ending)):
            places += [(kind, (len(text), len(text) + len(content)))] if content or kind == "answer" else []
            text += content
        return text, places

    def encode(self, wanted: Sequence[tuple[Episode, str]]) -> Encoded:
        """Episodes, each with the answer to write, as one batch.

        Raises:
            TaskError: an answer or a label has no token of its own, or an image cannot be read.
            ModelError: the chat template cannot be used.
        """
        texts, places = [], []
        for episode, answer in wanted:
            text, found = self.write(episode, answer)
            texts.append(text)
            places.append(found)
        options: dict[str, Any] = {"padding": True, "padding_side": "right", "return_offsets_mapping": True}
        options["return_tensors"] = "pt"
        start = self.tokenizer.bos_token
        if self.form != "plain" and start and all(text.startswith(start) for text in texts):
            # The template has written the start token, and the tokenizer would write it again.
            options["add_special_tokens"] = False
        try:
            made, replaced = self._processed(wanted, texts, options)
        except (ValueError, TypeError, IndexError, KeyError, RuntimeError, ZeroDivisionError) as error:
            if is_out_of_memory(error):
                raise
            names = ", ".join(dict.fromkeys(episode.name for episode, _ in wanted))
            said = " ".join(str(error).split())[:200]
            raise TaskError(f"{names}: {type(self.processor).__name__} refuses it: {said}") from error
        offsets = made.pop("offset_mapping").tolist()
        inputs = {name: value for name, value in made.items() if isinstance(value, Tensor)}
        readings = []
        for row, (episode, answer) in enumerate(wanted):
            real = int(inputs["attention_mask"][row].sum())
            spans = [(kind, moved(span, replaced[row])) for kind, span in places[row]]
            own = [tuple(o) for o in offsets[row]][:real]
            if self.most and real > self.most:
                said = f"it has {real} tokens, and the model has learnt {self.most} positions. Take fewer --shots."
                raise TaskError(f"{episode.name}: {said}")
            readings.append(locate(episode, answer, self.task.view, spans, own))
        encoded = Encoded(inputs, tuple(readings))
        differing = check_tokens(encoded, self.tokenizer)
        if differing and self.shared:
            self.shared = False
            self.remarks[differing] = None
        return encoded

    def _processed(self, wanted: Sequence[tuple[Episode, str]], texts: list[str], options: dict[str, Any]) -> Any:
        """The encoding of texts by the processor or the tokenizer, and the places of images in them."""
        if self.task.view != "image":
            return self.tokenizer(texts, **options), [[] for _ in texts]
        opened: dict[Path, Image.Image] = {}
        images = [[self._opened(path, episode, opened) for path in _pictures(episode)] for episode, _ in wanted]
        made = self.processor(text=texts, images=images, return_text_replacement_offsets=True, **options)
        replaced = made.pop("text_replacement_offsets", None)
        if replaced is None:
            raise ModelError(
                f"{type(self.processor).__name__} does not report where images stand in its text. That needs "
                "transformers 5.23 or newer and a processor of its own."
            )
        return made, replaced

    def _opened(self, path: Path, episode: Episode, opened: dict[Path, Image.Image]) -> Image.Image:
        if path not in opened:
            try:
                opened[path], remarks = open_picture(path, self.background)
            except PictureError as error:
                raise TaskContentError(episode.name, str(error)) from error
            for remark in remarks:
                self.remarks[f"{episode.name}: {path.name}: {remark}."] = None
        return opened[path]

    def names(self, encoded: Encoded, row: int) -> list[str]:
        """A name for each position of a sequence, up to its last: the token's text, or the image's number."""
        reading = encoded.readings[row]
        ids = encoded.inputs["input_ids"][row, : reading.length].tolist()
        names = [self.tokenizer.decode([token]).replace("\n", "\\n") or "?" for token in ids]
        for place, (kind, exemplar) in enumerate(
            zip(reading.roles.kind.tolist(), reading.roles.exemplar.tolist(), strict=True)
        ):
            if kind >= 0 and self.task.view == "image":
                names[place] = "image q" if exemplar == reading.roles.context else f"image {exemplar + 1}"
        return names


def _pictures(episode: Episode) -> list[Path]:
    return [path for item in (*(one.item for one in episode.support), episode.query) for path in item.images]
