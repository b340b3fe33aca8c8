"""The folder of a task: `load_task` reads its episodes.

    N-shot.json   [{"query": {"image": [PATH], "answer": A}, "support": {"N-shot": [{"image": [PATH], "answer": A}, ...]}}]
    query.json    [{"image": [PATH], "question": Q, "answer": A, "classes": [...],
                    "support": {CLASS: {"images": [PATH, ...]}}}]
    support.json  [{"image": [PATH], "question": Q, "answer": A}, ...]: where the queries have no support of their own
    task.json     {"instruction": ..., "template": ...}: how it is written, if there is such a file (ours)

`text` beside or in the place of `image` describes an item in words: the text-only variant of a task. Tasks of VL-ICL
Bench have layouts of their own: `miclab/mllm/benchmark.py`.
"""  # noqa: E501

from __future__ import annotations

from pathlib import Path

from miclab.mllm.benchmark import layout_of
from miclab.mllm.errors import TaskContentError, TaskError
from miclab.mllm.reader import Reader, read_json, read_mapping, whole
from miclab.mllm.task import TEMPLATE, Style, Task, View


def load_task(
    folder: Path,
    *,
    shots: int,
    view: View = "image",
    episodes: int = 0,
    template: str = "",
    instruction: str | None = None,
    ways: int = 0,
) -> Task:
    """The task in a folder. Every image's presence is checked before anything is computed.

    Arguments:
        folder: as the module's text says, or a task of VL-ICL Bench.
        shots: N; 0: no examples.
        view: whether items are shown as images or as text.
        episodes: how many of the first to take; 0: all.
        template: overrides task.json's.
        instruction: overrides task.json's; None: does not.
        ways: classes of an episode where its entry lists more; 0: as many as task.json says it was made with, else 2.

    Raises:
        ViewError: an entry has nothing that the view shows.
        TaskError: there is no such folder or file, an entry lacks something else, an image is missing or lies
            elsewhere, or the task's answers are pictures. Or `ways` is given where no entry lists classes.
    """
    if not folder.is_dir():
        raise TaskContentError(folder, "it is no folder. `miclab mllm make-episodes` makes one.")
    if shots < 0 or episodes < 0 or ways < 0 or ways == 1:
        raise TaskError(
            f"shots = {shots}, episodes = {episodes}, ways = {ways} is not possible. Allowed: 0 and more; 0 and more; "
            "0, or 2 and more."
        )
    said = read_mapping(folder / "task.json", "object with `instruction` and `template`")
    for name in ("instruction", "template"):
        if not isinstance(said.get(name) or "", str):
            raise TaskContentError(folder / "task.json", f"it is no text: {str(said[name])[:60]!r}.", name)
    words = said.get("instruction") or "" if instruction is None else instruction
    try:
        style = Style(instruction=words, template=template or said.get("template") or TEMPLATE)
    except TaskError as error:
        if template:
            raise
        raise TaskContentError(folder / "task.json", str(error), "template") from error
    named = folder / f"{shots}-shot.json"
    layout = layout_of(folder, named.exists())
    path = named if named.exists() else folder / "query.json"
    if not path.exists():
        there = sorted(p.name for p in folder.glob("*-shot.json"))
        raise TaskContentError(
            folder, f"it has neither {named.name} nor query.json; it has {', '.join(there) or 'no task'}."
        )
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise TaskContentError(path, "it holds no list of episodes.")
    by_class = path != named and layout.by_class(entries)
    if ways and not by_class:
        why = f"the episodes of {named.name} are built already" if path == named else "its entries list no classes"
        raise TaskError(f"ways = {ways} does nothing in {folder}: {why}. Leave --ways out.")
    reader = Reader(folder, view, least=ways)
    reader.file = path
    for number, entry in enumerate(entries):
        reader.place = f"episode {number}"
        reader.mapping(entry, "it")
    made = said.get("made")
    made_ways = made.get("ways") if isinstance(made, dict) else None
    reader.ways = ways or (made_ways if isinstance(made_ways, int) else 2)
    read = reader.shot if path == named else layout.reader(reader, shots, entries)
    found = []
    for number, entry in enumerate(entries[: episodes or None]):
        reader.place = f"episode {number}"
        found.append(read(number, entry, shots))
    return Task(name=whole(folder).name, shots=shots, episodes=tuple(found), style=style, view=view, rule=layout.rule)
