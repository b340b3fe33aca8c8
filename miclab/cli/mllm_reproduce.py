"""`miclab mllm reproduce`: the paper's claims P1 to P3 on any models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from miclab.cli.mllm_options import TaskFlags, as_plain, close, remark, save_page
from miclab.cli.terminal import bar, parse, print_json, refuse_ignored
from miclab.errors import MiclabError
from miclab.mllm.options import FinetuneOptions, KnockoutOptions, LoadOptions, at_least, chosen, last_name

if TYPE_CHECKING:
    from miclab.mllm.loading import Production
    from miclab.mllm.results import Results
    from miclab.mllm.task import Task

MODELS = {"P1": (1, 2, "one model, or it and its text backbone"), "P2": (1, 1, "one model"),
          "P3": (2, 10**6, "two models and more")}  # fmt: skip
"""Fewest and most models of a claim, and the same in words."""
MEASURED = {"P1": "heads, rankings beside the paper's, knockouts", "P2": "strengths while it is fine-tuned",
            "P3": "strength of heads beside accuracy, over models"}  # fmt: skip


IGNORED = {"P1": ("steps", "every", "learning_rate"), "P2": ("examples", "answered", "draws", "judge"),
           "P3": ("draws", "steps", "every", "learning_rate", "seed", "judge")}  # fmt: skip
"""Options that are not for a claim. P3 always judges answers both ways."""


@dataclass(frozen=True, kw_only=True)
class ReproduceFlags(LoadOptions, TaskFlags):
    """A claim of the paper on your own models.

    P1: heads on 16 episodes, their rankings beside the paper's, knockouts on 50 others with controls; a second model is
    taken for the text backbone. P2: LoRA, with strengths, accuracy and CLA at a schedule. P3: strength of the top heads
    beside accuracy over sizes and checkpoints (NAME@REVISION), and their correlation."""

    claim: Annotated[tyro.conf.Positional[Literal["P1", "P2", "P3"]], tyro.conf.arg(metavar="{P1,P2,P3}")]
    """Which claim."""
    model: tuple[str, ...]
    """Models: folders, hub ids, `tiny` or `tiny-marks`. P1: one, or it and its text backbone; P2: one; P3: two or
    more."""
    examples: int = 16
    """Episodes that rank heads; they are not among those answered."""
    answered: int = 50
    """Episodes that are answered, of P1 and P3; 0: all the others."""
    top: int = 5
    """Heads of each kind."""
    draws: int = 20
    """Draws of random heads for each control of P1."""
    steps: int = 500
    """Steps of P2's training."""
    every: int = 50
    """Steps from one evaluation of P2 to the next."""
    learning_rate: float = 2e-5
    """AdamW's, of P2."""
    seed: int = 0
    """Seed of controls and of training."""
    output: Path = Path()
    """Folder of the results; default: mllm/CLAIM-MODEL-TASK."""
    json: bool = False
    """Print as JSON."""

    def __post_init__(self) -> None:
        LoadOptions.__post_init__(self)
        TaskFlags.__post_init__(self)
        at_least(self, examples=1, answered=0, top=1)
        fewest, most, words = MODELS[self.claim]
        if not fewest <= len(self.model) <= most:
            raise MiclabError(f"{self.claim} takes {words}, and {len(self.model)} were given: --model PATH ...")

    def production(self, name: str) -> Production:
        """A model."""
        from miclab.mllm.loading import load_model

        return load_model(name, chosen(LoadOptions, self))


def reproduce(arguments: list[str]) -> int:
    """`miclab mllm reproduce`."""
    options = parse(ReproduceFlags, "mllm reproduce", arguments)
    refuse_ignored(arguments, IGNORED[options.claim], f"it is not for {options.claim}")
    from miclab.mllm.errors import require

    require()
    from miclab.mllm.results import Results

    usual = Path("mllm") / f"{options.claim}-{last_name(options.model[0])}-{last_name(str(options.task))}"
    folder = options.output if options.output != Path() else usual
    results = Results(folder, "reproduce", as_plain(options), ("steps",) if options.claim == "P2" else ())
    return {"P1": _p1, "P2": _p2, "P3": _p3}[options.claim](options, arguments, results)


def _page(results: Results, arguments: list[str], options: ReproduceFlags, tables: list[Any], problem: str) -> None:
    """Saves tables as the page of a claim."""
    from miclab.report.models import Page, Part
    from miclab.tables import titled

    parts = [Part(title=one.title, table=titled(one, "", [f"{note}." for note in one.notes])) for one in tables]
    title = f"{options.claim} on {last_name(str(options.task))}: {MEASURED[options.claim]}"
    save_page(results, arguments, title, Page(parts, {}), problem)


def _p1(options: ReproduceFlags, arguments: list[str], results: Results) -> int:
    from miclab.cli.mllm_heads import head_rows
    from miclab.mllm.heads import measure_heads
    from miclab.mllm.knockout import knock_out
    from miclab.mllm.reproduce import beside, divided, papers_knockouts
    from miclab.tables import Number

    backbone = None
    knockouts = KnockoutOptions(top=options.top, draws=options.draws, seed=options.seed, layers="none")
    name, *others = options.model
    if others:
        # The backbone first, so that one model is in memory at a time.
        text = options.production(others[0])
        words, _ = divided(options.load(text.view), options.examples, options.answered)
        backbone = measure_heads(text, words, options.batch).whole()
        del text
    production = options.production(name)
    ranked, rest = divided(options.load(production.view), options.examples, options.answered)
    with results:
        with bar("heads", len(ranked.episodes)) as on_progress:
            heads = measure_heads(production, ranked, options.batch, on_progress).whole()
        results.table("heads.parquet", head_rows(heads))
        rankings = beside(heads, backbone, options.top, 2 * options.top)
        with bar("knockout", len(rest.episodes)) as on_progress:
            found = knock_out(production, heads, rest, knockouts, batch=options.batch, on_progress=on_progress,
                              benchmark=options.judge == "benchmark")  # fmt: skip
        results.table("answers.parquet", found.rows)
        made, *others = found.tables()
        paper = papers_knockouts(options.top)
        rows = [(*row, Number(paper.get(effect.name), 2)) for row, effect in zip(made.rows, found.effects, strict=True)]
        made = replace(made, columns=(*made.columns, "the paper's 3B, top 5"), rows=tuple(rows))
        of_words = backbone.why_partial if backbone else ""
        problem = "; ".join(text for text in (of_words, heads.why_partial, found.problem) if text)
        tables = [*rankings.tables(), made, *others]
        _page(results, arguments, options, tables, problem)
        remark(results, production.remarks)
    return _shown(options, tables, results, problem)


def _p2(options: ReproduceFlags, arguments: list[str], results: Results) -> int:
    from miclab.mllm.batches import lost_text
    from miclab.mllm.errors import DivergedError
    from miclab.mllm.finetune import Finetuning
    from miclab.mllm.options import INDUCTION, PREVIOUS_TOKEN
    from miclab.tables import table

    production = options.production(options.model[0])
    task: Task = options.load(production.view)
    if len(task.episodes) < 4:
        raise MiclabError(f"{task.name} has {len(task.episodes)} episodes; P2 takes 4 and more.")
    cut = 3 * len(task.episodes) // 4
    requested = FinetuneOptions(steps=options.steps, every=options.every, learning_rate=options.learning_rate,
                                top=options.top, seed=options.seed)  # fmt: skip
    work = Finetuning(
        production, task.part(0, cut), task.part(cut), results.folder / "run", requested, options.batch or 1
    )
    with results:
        problem, status = "", 2
        with bar("finetune", requested.steps, work.step) as on_progress:
            try:
                rows = work.run(on_progress)
            except MiclabError as error:
                if not work.rows:
                    raise
                rows, problem, status = work.rows, str(error), 1 if isinstance(error, DivergedError) else 2
        problem = "; ".join(text for text in (problem, lost_text(work.lost, len(task.episodes))) if text)
        cells = [[row["step"], *(row[m]["mean"] for m in ("correct", "choice", "copied")),
                  *(row["strengths"][m]["top_mean"] for m in (PREVIOUS_TOKEN, INDUCTION))] for row in rows]  # fmt: skip
        columns = ["step", "accuracy", "forced choice", "CLA", "previous token, top heads", "induction, top heads"]
        notes = ["the paper: previous-token strength is flat, induction rises with accuracy, CLA stays at 1"]
        title = f"{len(work.held_out.episodes)} held-out episodes; top {options.top} heads at step 0"
        tables = [table(title, columns, cells, notes)]
        _page(results, arguments, options, tables, problem)
        remark(results, production.remarks)
    return _shown(options, tables, results, problem, status)


def _p3(options: ReproduceFlags, arguments: list[str], results: Results) -> int:
    from miclab.mllm.errors import ViewError
    from miclab.mllm.reproduce import strength_and_accuracy
    from miclab.mllm.task import View

    tasks: dict[View, Task] = {}
    views: tuple[View, ...] = ("image", "text")
    for view in views:
        try:
            tasks[view] = options.load(view)
        except ViewError:
            # The view that a model needs is checked once the model is known.
            continue
    with results, bar("models", len(options.model)) as on_progress:
        found = strength_and_accuracy(
            options.model, tasks, chosen(LoadOptions, options), ranked=options.examples, answered=options.answered,
            top=options.top, batch=options.batch, on_progress=on_progress,
        )  # fmt: skip
        rows = [
            {"model": p.size.model, "episode": name} | {m: float(of[i]) for m, of in p.size.values.items()}
            | {"written": p.size.written[i]}
            for p in found.points for i, name in enumerate(p.size.names)
        ]  # fmt: skip
        results.table("answers.parquet", rows)
        tables = list(found.tables())
        _page(results, arguments, options, tables, found.problem)
        remark(results, dict.fromkeys(one for p in found.points for one in p.size.remarks))
    return _shown(options, tables, results, found.problem)


def _shown(options: ReproduceFlags, tables: list[Any], results: Results, problem: str, status: int = 2) -> int:
    if options.json:
        shown = [{"title": one.title, "rows": one.data(), "notes": list(one.notes)} for one in tables]
        print_json({"claim": options.claim, "models": list(options.model), "folder": str(results.folder),
                    "tables": shown})  # fmt: skip
    else:
        for one in tables:
            one.show()
    return close(results, problem, status)
