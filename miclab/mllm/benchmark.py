"""Tasks of VL-ICL Bench (Zong and others 2024, arXiv 2403.13164) on disk: the files and fields that are read. Also how
examples are chosen, and which part of an answer is compared.

    folder                          examples from                 fields                          compared
    open_mi, fast_open_mi           the query's `support`         classes, support.CLASS.images   the text
    matching_mi, fast_matching_mi   support.json, {same, diff}    image (two), answer             yes or no
    clevr                           support.json                  question (the criterion)        the text
    operator_induction,             support.json                  answer (one of + - x) by the    the first number
      operator_induction_interleaved                              query's `operator`
    textocr                         support.json                  question                        the text
    *_text                          as the task without _text     text or caption, else question

Every entry has `image`, `question` and `answer`; paths are relative to the benchmark's root. Examples are drawn by the
query's number, so they are the same for every model; the benchmark's own code draws others. Tasks whose answer is a
picture are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from miclab.mllm.errors import TaskContentError
from miclab.mllm.reader import WORDS, Reader, read_json, shuffled, whole
from miclab.mllm.task import Episode, Rule

OPERATORS = {"+": 0, "-": 1, "x": 2, "*": 2, "×": 2}
"""Index of an operator's answer among the three of an example."""
PICTURES = ("open_t2i_mi", "fast_attr_t2i", "fast_count_t2i", "cobsat")
"""Tasks whose answer is a picture."""
Read = Callable[[int, Mapping[str, Any], int], Episode]
Choose = Callable[[Reader, list[Any], int, Mapping[str, Any], int], Episode]


@dataclass(frozen=True)
class Layout:
    """The reading rules of a task name.

    Arguments:
        rule: the part of an answer that the benchmark compares.
        choose: an episode from support.json's entries and the query's number, entry and N; None: by class, from the
            query's own support.
        in_words: whether it is a text-only variant.
    """

    rule: Rule = "text"
    choose: Choose | None = None
    in_words: bool = False
    path: Path = Path()

    def by_class(self, queries: list[Any]) -> bool:
        """Whether examples are taken from the queries' own support, by class."""
        own = any(isinstance(one, Mapping) and one.get("support") for one in queries)
        return self.choose is _by_class or (self.choose is None and own)

    def reader(self, reader: Reader, shots: int, queries: list[Any]) -> Read:
        """Reads an entry of query.json.

        Raises:
            TaskError: there is no support.json where it is needed.
        """
        choose = self.choose
        if choose is None and not self.by_class(queries):
            choose = _own_questions
        if choose is None:
            return reader.query
        path = self.path / "support.json"
        if choose is _by_class:
            examples: list[Any] = []
        elif path.exists():
            examples = read_json(path)
        elif shots == 0:
            examples = []
        else:
            raise TaskContentError(
                reader.folder / "query.json",
                f"its entries have no `support` by class, and {path} is missing, from which examples would be taken.",
            )
        if not isinstance(examples, list):
            raise TaskContentError(path, "it holds no list of examples.")
        if self.in_words:
            examples = [_said(one) for one in examples]

        def read(number: int, entry: Mapping[str, Any], count: int) -> Episode:
            return choose(reader, examples, number, _said(entry) if self.in_words else entry, count)

        return read


def _said(entry: Any) -> Any:
    """An entry of a text-only variant: where no field describes the item, the question does."""
    if not isinstance(entry, Mapping):
        return entry
    if {"same", "diff"} <= set(entry):
        return {name: _said(one) for name, one in entry.items()}
    if any(entry.get(name) for name in WORDS) or not entry.get("question"):
        return entry
    return {**entry, "text": entry["question"], "question": ""}


def _drawn(reader: Reader, examples: list[Any], number: int, shots: int) -> list[Mapping[str, Any]]:
    """N entries of support.json, by the query's number."""
    if len(examples) < shots:
        raise reader.fail(f"support.json has {len(examples)} examples; take fewer --shots than {shots}.")
    return [reader.mapping(examples[i], "an entry of support.json") for i in shuffled(len(examples), number)[:shots]]


def _own_questions(reader: Reader, examples: list[Any], number: int, entry: Mapping[str, Any], shots: int) -> Episode:
    """N examples, each with its own question."""
    return reader.episode(entry, _drawn(reader, examples, number, shots))


def _matching(reader: Reader, examples: list[Any], number: int, entry: Mapping[str, Any], shots: int) -> Episode:
    """N pairs of examples: one whose two pictures match, one whose do not."""
    support = []
    for pair in _drawn(reader, examples, number, shots):
        if not {"same", "diff"} <= set(pair):
            raise reader.fail("an entry of support.json has no `same` and `diff`.")
        support += [pair["same"], pair["diff"]]
    found = reader.episode(entry, support)
    for answer in found.candidates:
        if answer.lower() not in ("yes", "no"):
            raise reader.fail(f"an answer is {answer!r}; in {reader.folder.name} it has to be yes or no.")
    # One word is written in one way: as in the examples, where it stands there.
    written = {answer.lower(): answer for answer in reversed(found.candidates)}
    written |= {one.answer.lower(): one.answer for one in reversed(found.support)}
    style = str.capitalize if next(iter(written.values()))[0].isupper() else str
    support = tuple(replace(one, answer=written[one.answer.lower()]) for one in found.support)
    choices = tuple(written.get(one, style(one)) for one in ("yes", "no"))
    return replace(found, support=support, answer=written[found.answer.lower()], choices=choices)


def _operator(reader: Reader, examples: list[Any], number: int, entry: Mapping[str, Any], shots: int) -> Episode:
    """N examples, each with its answer for the query's operator."""
    operator = str(entry.get("operator", "")).strip().lower()
    if operator not in OPERATORS:
        raise reader.fail(f"`operator` is {entry.get('operator')!r}; it has to be one of {', '.join(OPERATORS)}.")

    def meant(one: Mapping[str, Any]) -> dict[str, Any]:
        answers = one.get("answer")
        if isinstance(answers, list):
            if len(answers) != 3:
                raise reader.fail(f"`answer` is a list of {len(answers)}; it has to have one for each of + - x.")
            answers = answers[OPERATORS[operator]]
        return {**one, "answer": answers}

    return reader.episode(meant(entry), [meant(one) for one in _drawn(reader, examples, number, shots)])


def _by_class(reader: Reader, examples: list[Any], number: int, entry: Mapping[str, Any], shots: int) -> Episode:
    """`shots` examples of each of `ways` classes in turn, the classes in random order."""
    classes = list(reader.by_class(entry, number, shots).values())
    order = shuffled(len(classes), number)
    support = [{"question": entry.get("question"), **classes[way][i]} for i in range(shots) for way in order]
    return reader.episode(entry, support, () if shots else tuple(reader.by_class(entry, number, 0)))


LAYOUTS: dict[str, tuple[Choose, Rule]] = {
    "open_mi": (_by_class, "text"),
    "matching_mi": (_matching, "yes or no"),
    "clevr": (_own_questions, "text"),
    "operator_induction": (_operator, "number"),
    "operator_induction_interleaved": (_operator, "number"),
    "textocr": (_own_questions, "text"),
}
"""The six supported tasks."""
ALIASES = {
    "open_mi_captioned": "open_mi", "clevr_simple": "clevr", "math_induction": "operator_induction",
    "matching_mi_2": "matching_mi", "math_induction_text_interleaved": "operator_induction_interleaved",
}  # fmt: skip
"""Other names of the same, without `_text`."""


def layout_of(folder: Path, built: bool) -> Layout:
    """The reading rules of the task in a folder, by the folder's name.

    Arguments:
        built: whether its episodes were built before, as N-shot.json, which is then read unchanged.

    Raises:
        TaskError: its answers are pictures.
    """
    name = whole(folder).name
    plain = name.removesuffix("_text").removeprefix("fast_")
    known = ALIASES.get(plain, plain)
    pictures = [one for one in PICTURES if plain == one.removeprefix("fast_")]
    if pictures:
        said = f"{name} is a task whose answer is a picture"
        raise TaskContentError(
            folder,
            f"{said}{' (its words describe pictures)' if name.endswith('_text') else ''}, and miclab measures models "
            f"that answer in words. Those of VL-ICL Bench that are read: {', '.join(LAYOUTS)}.",
        )
    if known not in LAYOUTS:
        return Layout(path=folder)
    choose, rule = LAYOUTS[known]
    in_words = "_text" in name or "captioned" in name
    return Layout("number" if plain == "clevr_simple" else rule, None if built else choose, in_words, folder)
