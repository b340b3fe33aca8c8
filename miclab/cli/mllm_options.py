"""Options of `miclab mllm`, and the results of its commands: a page, a manifest, and the exit status."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from miclab.config.extensions import as_options
from miclab.errors import ConfigError, MiclabError, visible
from miclab.mllm.options import (
    EpisodeOptions,
    FinetuneOptions,
    Judging,
    KnockoutOptions,
    LoadOptions,
    at_least,
    chosen,
    last_name,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from miclab.mllm.loading import Production
    from miclab.mllm.results import Results
    from miclab.mllm.task import Task
    from miclab.report.models import Page


SHOWN, MANIFEST = 3, "manifest.json"
"""Number of printed remarks, and the file with all of them."""


def as_plain(options: DataclassInstance) -> dict[str, Any]:
    """Options as plain data, for a manifest."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()}


def only_exact(options: TaskFlags, why: str) -> None:
    """Refuses `--judge benchmark` where it has no effect.

    Raises:
        ConfigError: it was given.
    """
    if options.judge != "exact":
        raise ConfigError("judge", options.judge, f"exact: {why}")


@dataclass(frozen=True, kw_only=True)
class TaskFlags:
    """Which episodes are answered, and how they are written."""

    task: Path
    """Folder with N-shot.json or query.json. Tasks of VL-ICL Bench are read as published (VL-ICL/open_mi)."""
    shots: int = 2
    """N of N-shot: examples; of each class where an entry lists classes, and pairs in matching_mi. 0: none."""
    ways: int = 0
    """Classes of an episode where its entry lists more, as open_mi does; 0: as the task was made, else 2."""
    episodes: int = 0
    """How many of the first episodes; 0: all."""
    view: Literal["auto", "image", "text"] = "auto"
    """Items as pictures or in words; auto: as pictures if the model reads them and the task has them."""
    template: str = ""
    """How an example is written, with {item}, {question} and {answer}; empty: as task.json says."""
    judge: Judging = "exact"
    """exact: an answer is right if it is written to its end; benchmark: also by the rules of VL-ICL Bench."""
    batch: int = 0
    """Episodes at a time; 0: as many of similar length as have 2,048 tokens together (finetune and P2: one)."""

    def __post_init__(self) -> None:
        at_least(self, shots=0, ways=0, episodes=0, batch=0)

    def load(self, view: Any) -> Task:
        """The task for a model that sees `view`."""
        from miclab.mllm.errors import ViewError
        from miclab.mllm.task_folder import load_task

        def load(view: Any) -> Task:
            return load_task(self.task, shots=self.shots, view=view, episodes=self.episodes, ways=self.ways,
                             template=self.template.replace("\\n", "\n"))  # fmt: skip

        if self.view != "auto":
            return load(self.view)
        try:
            return load(view)
        except ViewError as error:
            # A model that reads pictures can also read a task in words, but not the other way round.
            if view == "text":
                raise
            try:
                return load("text")
            except ViewError:
                raise error from None


@dataclass(frozen=True, kw_only=True)
class ModelFlags(LoadOptions, TaskFlags):
    """A command on one model and one task."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[MODEL]")] = ""
    """MODEL: folder, hub id, or `tiny` or `tiny-marks`, which come with miclab."""
    model: str = ""
    """The same as an option: --model PATH."""
    output: Path = Path()
    """Folder of the results; default: mllm/COMMAND-MODEL-TASK."""
    json: bool = False
    """Print as JSON."""

    def __post_init__(self) -> None:
        LoadOptions.__post_init__(self)
        TaskFlags.__post_init__(self)

    @property
    def model_name(self) -> str:
        """The model, given as an argument or an option.

        Raises:
            MiclabError: none was given, or two.
        """
        if self.model and self.name:
            raise MiclabError(f"MODEL {self.name} and --model {self.model}: give one of them.")
        chosen = self.model or self.name
        if not chosen:
            from miclab.mllm.shipped import HERE

            raise MiclabError(f"Name a MODEL: a folder, a hub id, or {HERE}, which come with miclab.")
        return chosen

    def production(self) -> Production:
        """The model."""
        from miclab.mllm.loading import load_model

        return load_model(self.model_name, chosen(LoadOptions, self))

    def results(self, command: str, extends: tuple[str, ...] = ()) -> Results:
        """The folder of results; `extends` names the options that may differ from those of finished results."""
        from miclab.mllm.results import Results

        usual = Path("mllm") / f"{command}-{last_name(self.model_name)}-{last_name(str(self.task))}"
        given = as_plain(self) | {"model": self.model_name}
        return Results(usual if self.output == Path() else self.output, command, given, extends)


@dataclass(frozen=True, kw_only=True)
class HeadsFlags(ModelFlags):
    """Strength of every head over the episodes of a task, with intervals over episodes. Writes heads.parquet,
    heads.html and attention.html."""

    top: int = 5
    """Heads listed of each measure."""
    maps: int = 2
    """Of the strongest previous-token and induction heads, how many are drawn over the tokens of one episode."""
    baseline: Literal["uniform", "random"] = "uniform"
    """What strengths stand beside: uniform attention; random: also the same architecture with random weights."""
    shown: int = 2
    """Episodes in attention.html: maps of the ten strongest heads laid over the pictures. 0: no such page."""
    save_attention: Path = Path()
    """New file (safetensors) for the attention maps of all heads, with tokens and roles as metadata; default: none."""
    save_episodes: int = 1
    """Episodes whose maps are saved: the first whose answer is in the context."""
    save_limit: int = 256
    """Largest size of the maps, in MiB. It is computed before the model reads anything."""

    def __post_init__(self) -> None:
        ModelFlags.__post_init__(self)
        at_least(self, top=1, maps=0, shown=0, save_episodes=1, save_limit=1)
        only_exact(self, "no answers are judged")


@dataclass(frozen=True, kw_only=True)
class RankedFlags(ModelFlags):
    """A command on heads that were ranked on other episodes."""

    heads: Path = Path()
    """Folder that `mllm heads` wrote, to rank heads by; default: the first --rank episodes of this task rank them."""
    rank: int = 16
    """Episodes that rank heads (and give the vector, in `vectors`); they are not among those answered."""


@dataclass(frozen=True, kw_only=True)
class KnockoutFlags(KnockoutOptions, RankedFlags):
    """Accuracy, forced choice, CLA and log-probability of the answer without the top heads. Controls are at least 20
    draws of random heads of the same layers, and whole layers."""

    def __post_init__(self) -> None:
        ModelFlags.__post_init__(self)
        KnockoutOptions.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class FinetuneFlags(FinetuneOptions, ModelFlags):
    """LoRA on the first three quarters of a task, evaluated on the last. A killed run can be resumed."""

    def __post_init__(self) -> None:
        ModelFlags.__post_init__(self)
        FinetuneOptions.__post_init__(self)
        only_exact(self, "nothing is written while it is trained")


@dataclass(frozen=True, kw_only=True)
class CompareFlags:
    """Top heads that two models share, against chance (hypergeometric), and the correlation of ranks."""

    a: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="A")]
    """Folder that `mllm heads` wrote, or paper:qwen2.5-vl-3b, paper:qwen2.5-3b."""
    b: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="B")]
    """The same of another model."""
    top: int = 5
    """Number of top heads of A."""
    among: int = 10
    """Number of top heads of B among which they are sought."""
    measures: tuple[str, ...] = ()
    """Measures; default: all that both have."""
    json: bool = False
    """Print as JSON."""


@dataclass(frozen=True, kw_only=True)
class ScaleFlags(LoadOptions, TaskFlags):
    """One task over several models, with differences paired over episodes."""

    models: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="MODEL MODEL ...", help_behavior_hint="(two or more)"),
    ]
    """MODEL..., the smallest first."""
    output: Path = Path("mllm/scale")
    """Folder of the results."""
    json: bool = False
    """Print as JSON."""

    def __post_init__(self) -> None:
        LoadOptions.__post_init__(self)
        TaskFlags.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class EpisodesFlags(EpisodeOptions):
    """Episodes of open-ended minimal induction: classes of pictures with invented names, as VL-ICL Bench's files."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """DIR to make."""
    json: bool = False
    """Print as JSON."""


@dataclass(frozen=True, kw_only=True)
class MemoryFlags:
    """Memory for weights and one pass, from a configuration alone."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """qwen2.5-vl-3b, qwen2.5-vl-7b (published numbers), or a folder or hub id with a config.json."""
    tokens: int = 2000
    """Length of a sequence, pictures included."""
    json: bool = False
    """Print as JSON."""


def save_page(results: Results, arguments: Sequence[str], title: str, page: Page, problem: str = "") -> None:
    """Writes the page of a command, which names the command, among its results.

    Arguments:
        results: of the command.
        arguments: what it was given.
        title: of the page.
        page: what it shows.
        problem: why the results are partial.
    """
    from miclab.report.models import page_bytes

    results.file(f"{results.body['command']}.html", page_bytes(title, made_by(results, arguments), page, problem))


def made_by(results: Results, arguments: Sequence[str]) -> str:
    """The command that makes some results."""
    return shlex.join(["miclab", "mllm", results.body["command"], *arguments, *as_options()])


def remark(results: Results, remarks: Iterable[str]) -> None:
    """Records remarks on a model's input, and prints the first of them."""
    found = list(remarks)
    if not found:
        return
    results.note(remarks=found)
    more = f"; {len(found) - SHOWN} more in {MANIFEST}" if len(found) > SHOWN else ""
    print(visible(f"miclab: {' '.join(found[:SHOWN])}{more}"), file=sys.stderr)


def close(results: Results, problem: str = "", status: int = 2) -> int:
    """Marks results as complete or partial, prints their place, and gives 0, or `status` after a problem."""
    results.finish(problem)
    if problem:
        print(visible(f"miclab: {problem}\nmiclab: partial results are kept in {results.folder}"), file=sys.stderr)
        return status
    print(visible(f"wrote {results.folder}"), file=sys.stderr)
    return 0
