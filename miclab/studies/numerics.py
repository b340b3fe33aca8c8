"""How the runs of a study are computed, given beside its file: in lanes, on which device, with which sampler and step.

All of it is in the hash of every run. So a command that names them plans, finds and trains other runs than one that
does not.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from miclab.config import schema
from miclab.config.parts import NumericsConfig
from miclab.errors import ConfigError, nearest
from miclab.studies.mode import study_mode
from miclab.studies.study import Fields, Parent, Study, laid_over

if TYPE_CHECKING:
    from miclab.studies.plan import Plan
    from miclab.studies.state import State

Sampler = Literal["study", "host", "device"]
"""Values of the option for the sampler."""
LaneStep = Literal["study", "eager", "compiled"]
"""Values of the option for the step of a group."""
AS_IN_STUDY = "study"
"""The value of an option that keeps what the study's file says."""


@dataclass(frozen=True)
class StudyNumerics:
    """How the runs of a study are computed.

    Arguments:
        lanes: `off`, `auto`, or the number of lanes of a group, for runs whose `numerics.mode` is `auto`.
        device: `numerics.device` of every run; `study`: as in the study's file.
        sampler: `numerics.sampler` of every run; `study`: as in the study's file.
        lane_step: `numerics.lane_step` of every run in lanes; `study`: as in the study's file.
    """

    lanes: str = "off"
    device: str = AS_IN_STUDY
    sampler: str = AS_IN_STUDY
    lane_step: str = AS_IN_STUDY

    @property
    def fields(self) -> dict[str, str]:
        """The fields of `numerics` that every run gets."""
        named = {"device": self.device, "sampler": self.sampler, "lane_step": self.lane_step}
        return {name: value for name, value in named.items() if value != AS_IN_STUDY}

    def check(self) -> None:
        """Raises ConfigError if a value is not possible."""
        study_mode(Path(), self.lanes)
        if self.sampler not in (AS_IN_STUDY, "host", "device"):
            raise ConfigError("sampler", self.sampler, nearest(self.sampler, (AS_IN_STUDY, "host", "device")))
        if self.lane_step not in (AS_IN_STUDY, "eager", "compiled"):
            allowed = nearest(self.lane_step, (AS_IN_STUDY, "eager", "compiled"))
            raise ConfigError("lane_step", self.lane_step, allowed)
        NumericsConfig(**self.fields).check()  # type: ignore[arg-type]

    def mode(self, root: Path) -> Callable[[], str]:
        """What `auto` stands for in `numerics.mode` (see `miclab.studies.mode.study_mode`)."""
        return study_mode(root, self.lanes)

    def of(self, study: Study) -> Study:
        """The study with these numerics in every run, those of stage 1 and of encoders included.

        Raises:
            ConfigError: a value is not possible, or the study varies the field.
        """
        self.check()
        if not self.fields:
            return study
        for axis in study.axes:
            field = axis.removeprefix("parent.")
            for name, value in self.fields.items():
                if field in ("numerics", f"numerics.{name}"):
                    raise ConfigError(name, value, f"{AS_IN_STUDY!r}: {study.file} has {axis} as an axis")
        return replace(
            study,
            config=self._over(study.config, always=True),
            grid=tuple(replace(block, config=self._over(block.config)) for block in study.grid),
            parent=self._parent(study.parent),
            encoder=self._parent(study.encoder),
        )

    def _parent(self, before: Parent) -> Parent:
        return replace(before, config=self._over(before.config))

    def _over(self, config: Fields, always: bool = False) -> Fields:
        """Fields of a configuration with these numerics; where they have none, they inherit them."""
        old = config.get("numerics", {})
        # What is no mapping is refused when the configuration is read.
        if not isinstance(old, Mapping) or not (always or old):
            return config
        fields = dict(self.fields)
        if old.get("mode", "auto") not in ("auto", "lanes"):
            # A step of lanes is no part of a run that the file gives another mode.
            fields.pop("lane_step", None)
        return laid_over(config, {"numerics": fields})

    def warnings(self, plan: Plan) -> list[str]:
        """Sentences about lanes that have no effect on the runs of a plan."""
        if not plan.runs:
            return []
        if self.lanes == "off":
            if self.lane_step == AS_IN_STUDY or any(run.point.numerics.lanes for run in plan.runs.values()):
                return []
            return ["--lane-step has no effect: no run is in lanes. Give --lanes, or leave out --lane-step."]
        alone = [run for run in plan.runs.values() if not run.point.numerics.lanes]
        if alone:
            modes = " and ".join(sorted({run.point.numerics.mode for run in alone}))
            return [
                f"--lanes has no effect on {len(alone)} of {len(plan.runs)} runs: the study's file gives them"
                f" numerics.mode {modes}. Lanes are for `auto`: remove the mode from the file, or leave out --lanes."
            ]
        from miclab.studies.group import Grouping

        grouping = Grouping()
        if max(Counter(grouping.key(run) for run in plan.runs.values()).values()) == 1:
            return [
                f"--lanes saves nothing: each of the {len(plan.runs)} runs has shapes of its own, so every group"
                " has one run. Give more seeds, or leave out --lanes."
            ]
        return []


def replaced_rows(study: Study, plan: Plan) -> list[str]:
    """A sentence if the existing table of a study has runs of other numerics, which a new one will not have."""
    # Only here: tables need polars, and training does not.
    from miclab.studies.rows import table_file
    from miclab.studies.sealed_table import read_rows

    file = table_file(study)
    if not file.exists():
        return []
    found = read_rows(file)
    runs = found.filter(found["status"] == "finished").select("run", "config").unique("run")
    mine = {_named(schema.to_mapping(plan.runs[identity].point)) for identity in plan.members[study.name]}
    count = sum(run not in plan.runs and _named(json.loads(text)) not in mine for run, text in runs.iter_rows())
    if not count or not mine:
        return []
    return [
        f"{file} has {count} runs with other lanes, device, sampler or lane step. The table of this command replaces"
        " them; copy the file first to keep them."
    ]


def _named(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """The numerics of a run that a command can name. An old row may have fewer fields."""
    found = config["numerics"]
    named = {"lanes": 0, "device": "cpu", "sampler": "host", "lane_step": "eager"}
    return tuple(found.get(name, usual) for name, usual in named.items())


def check_devices(plan: Plan, states: Mapping[str, State]) -> None:
    """Makes sure that the runs of a plan can be trained on this machine. Runs that have all their steps may come from
    another one.

    Raises:
        ConfigError: a device is not here, or a step of lanes cannot be compiled on it.
    """
    to_train = (run for identity, run in plan.runs.items() if states[identity].status in ("new", "begun"))
    wanted = {
        (run.point.numerics.device, run.point.numerics.lane_step)
        for run in to_train
        if states[run.hash].step < run.request.steps
    }
    if wanted - {("cpu", "eager")}:
        # Only here: finding devices imports torch, which most plans do without.
        from miclab.training.numerics import check_lane_step, device_here

        for device, lane_step in sorted(wanted):
            found = device_here(device)
            if lane_step == "compiled":
                check_lane_step(found)
