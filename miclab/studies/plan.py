"""From a study to its runs, in order, each named by its trajectory hash before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from miclab.config import schema
from miclab.config.content import uncollected
from miclab.config.parts import ModalityConfig
from miclab.config.request import Request
from miclab.config.run import RunConfig, with_context
from miclab.errors import ConfigError, ContentError, MiclabError
from miclab.runs.find import directory_name
from miclab.studies.points import PARTS, Mode, points
from miclab.studies.study import Study, value_at


class PlannedAnalysis(NamedTuple):
    """An analysis after training (see `miclab.studies.analyses`).

    Arguments:
        name: its name.
        step: the checkpoint that it looks at.
        sequences: as in the study's request.
        novel_sets: likewise.
    """

    name: str
    step: int
    sequences: int
    novel_sets: int

    @property
    def file(self) -> str:
        """Name under which it is stored beside the run, by its size."""
        return f"{self.name}.{self.sequences}x{self.novel_sets}"


def planned_analyses(study: Study, request: Request) -> tuple[PlannedAnalysis, ...]:
    """The analyses of a run that a study lists, at the end of its own request."""
    return tuple(
        PlannedAnalysis(name, request.steps, request.sequences, request.novel_sets) for name in study.analysis_names
    )


@dataclass(slots=True, kw_only=True)
class PlannedRun:
    """One run of a plan. Runs of one point differ in nothing but seed and parent.

    Arguments:
        hash: trajectory hash.
        name: directory name.
        seed: its seed.
        parent: trajectory hash of the stage-1 run, or empty.
        encoders: trajectory hash of the run that pretrains the encoder, by modality.
        point: configuration of its point, with any seed.
        request: the request of all studies of the plan together.
        probes: the analyses after training that any study lists.
        starts: checkpoints that other runs start from.
    """

    hash: str
    name: str
    seed: int
    parent: str
    point: RunConfig
    request: Request
    analyses: tuple[PlannedAnalysis, ...] = ()
    starts: tuple[int, ...] = ()
    encoders: Mapping[str, str] = field(default_factory=dict)

    @property
    def config(self) -> RunConfig:
        """Its whole configuration."""
        modalities = with_encoders(self.point.modalities, self.encoders)
        parent = replace(self.point.parent, run=self.parent)
        return replace(self.point, seed=self.seed, parent=parent, modalities=modalities)

    @property
    def origins(self) -> tuple[str, ...]:
        """Trajectory hashes of the runs that it starts from."""
        return (self.parent, *self.encoders.values()) if self.parent else tuple(self.encoders.values())


def with_encoders(modalities: dict[str, ModalityConfig], encoders: Mapping[str, str]) -> dict[str, ModalityConfig]:
    """Modalities with the runs that pretrained their encoders."""
    if not encoders:
        return modalities
    return {n: replace(m, encoder_run=encoders[n]) if n in encoders else m for n, m in modalities.items()}


class Plan:
    """The runs of one study or several, in order: those of encoders and stage 1 before the first that needs them.

    Arguments:
        studies: what to plan, all of the same preset.
        mode: numeric mode (`compiled`, `eager` or `lanes:N`) that `auto` stands for, or a function that finds it out,
            called only if an `auto` is met.

    Raises:
        MiclabError: a point's configuration cannot work; the message names the study, the point and the field.
    """

    def __init__(self, studies: Iterable[Study], mode: str | Callable[[], str]):
        self.runs: dict[str, PlannedRun] = {}
        self.members: dict[str, list[str]] = {}
        """For each study the hashes of its points' runs, in grid order, each once; parents are not among them."""
        self.requested: dict[str, dict[str, Request]] = {}
        """For each study its own request of each of these runs, which decides its rows."""
        for study in studies:
            if study.name in self.members:
                raise MiclabError(f"Two studies are named {study.name!r}: the table of one would replace the other's.")
            with uncollected():
                requested: dict[str, Request] = {}
                for identity, request in self._study_runs(study, Mode(mode)):
                    requested[identity] = joined(requested[identity], request) if identity in requested else request
                self.requested[study.name], self.members[study.name] = requested, list(requested)

    def _study_runs(self, study: Study, mode: Mode) -> Iterator[tuple[str, Request]]:
        own, first = _Texts(), _Texts()
        refused: dict[int, str] = dict.fromkeys(study.probe_contexts, "")
        for point in points(study, mode):
            refused = {n: why for n in refused if (why := _why_no_context(point.config, n))}
            texts = own.of(point.config)
            before = first.of(point.parent) if point.parent is not None else {}
            for seed in study.seeds:
                encoders = {name: self._encoder(encoder, seed) for name, encoder in point.encoders.items()}
                parent = ""
                if point.parent is not None and point.parent_request is not None:
                    starts = (point.parent_request.steps,)
                    hosts = {n: run for n, run in encoders.items() if n in point.parent.modalities}
                    parent = self._add(point.parent, before, point.parent_request, seed, starts=starts, encoders=hosts)
                analyses = planned_analyses(study, point.request)
                run = self._add(point.config, texts, point.request, seed, parent, analyses=analyses, encoders=encoders)
                yield run, point.request
        for context, why in refused.items():
            raise ContentError(study.file, f"probe_contexts = {context} is possible at no point of the study: {why}")

    def _encoder(self, encoder: tuple[RunConfig, Request], seed: int) -> str:
        config, request = encoder
        texts = {name: schema.field_text(RunConfig, name, getattr(config, name)) for name in PARTS}
        return self._add(config, texts, request, seed, starts=(request.steps,))

    def _add(
        self,
        point: RunConfig,
        texts: dict[str, str],
        request: Request,
        seed: int,
        parent: str = "",
        *,
        analyses: tuple[PlannedAnalysis, ...] = (),
        starts: tuple[int, ...] = (),
        encoders: Mapping[str, str] | None = None,
    ) -> str:
        own = {"seed": schema.field_text(RunConfig, "seed", seed)}
        if parent:
            own["parent"] = schema.field_text(RunConfig, "parent", replace(point.parent, run=parent))
        if encoders:
            own["modalities"] = schema.field_text(RunConfig, "modalities", with_encoders(point.modalities, encoders))
        identity = schema.hash_of_texts(texts | own)
        old = self.runs.get(identity)
        if old is None:
            stage = "multimodal" if parent and len(point.modalities) > 1 else point.stage
            self.runs[identity] = PlannedRun(
                hash=identity, name=directory_name(stage, point.variety, identity), seed=seed,
                parent=parent, point=point, request=request, analyses=analyses, starts=starts, encoders=encoders or {},
            )  # fmt: skip
        else:
            old.request = joined(old.request, request)
            old.analyses = tuple(dict.fromkeys((*old.analyses, *analyses)))
            old.starts = tuple(dict.fromkeys((*old.starts, *starts)))
        return identity

    def only(self, runs: Mapping[str, PlannedRun]) -> Plan:
        """The same plan with some of its runs alone, by hash, perhaps with other requests."""
        members = {name: [i for i in members if i in runs] for name, members in self.members.items()}
        kept = {identity: runs[identity] for identity in self.runs if identity in runs}
        return Plan.of(kept, members, self.requested)

    @classmethod
    def of(
        cls,
        runs: dict[str, PlannedRun],
        members: dict[str, list[str]],
        requested: dict[str, dict[str, Request]] | None = None,
    ) -> Plan:
        """A plan of runs that are known, each before those that start from it; the arguments are its attributes."""
        found = object.__new__(cls)
        found.runs, found.members, found.requested = runs, members, requested or {}
        return found

    def children(self) -> dict[str, list[str]]:
        """For each run that others start from, these."""
        found: dict[str, list[str]] = {}
        for run in self.runs.values():
            for before in run.origins:
                found.setdefault(before, []).append(run.hash)
        return found


def _why_no_context(config: RunConfig, context: int) -> str:
    """Why a run cannot be evaluated with so many examples; empty where it can."""
    try:
        with_context(config, context)
    except ConfigError as error:
        return str(error)
    return ""


class _Texts:
    """What the fields of points, but for seed and parent, add to the hashes of their runs."""

    def __init__(self):
        self._last: dict[str, Any] = {}
        self._texts: dict[str, str] = {}

    def of(self, config: RunConfig) -> dict[str, str]:
        """The texts of a point by field."""
        values, last = config.__dict__, self._last
        for name in PARTS:
            # Most parts of a point are those of the point before it.
            if values[name] is not last.get(name, _Texts):
                last[name] = values[name]
                self._texts[name] = schema.field_text(RunConfig, name, values[name])
        return self._texts.copy()


def joined(first: Request, second: Request) -> Request:
    """One request that serves both: the longer one, with the shorter one's end kept as a checkpoint."""
    steps = max(first.steps, second.steps)
    kept = {*first.checkpoint_at, *second.checkpoint_at, first.steps, second.steps} - {0, steps}
    return first if first == second else replace(first, steps=steps, checkpoint_at=tuple(sorted(kept)))


def axis_value(run: PlannedRun, parent: PlannedRun | None, axis: str) -> Any:
    """The value of an axis for a run, from its configuration or request; None where it has no such field."""
    owner, _, rest = axis.partition(".")
    if owner == "request":
        return value_at(run.request, rest)
    if owner != "parent":
        return value_at(run.point, axis)
    if rest == "steps":
        return run.point.parent.step
    return None if parent is None else value_at(parent.point, rest)
