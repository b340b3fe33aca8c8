"""miclab: a laboratory for multimodal in-context learning.

    import miclab

    run = miclab.train("unimodal", heads=4, classes=4096)
    run.metrics()                                    # a frame of polars, a row for each evaluated step
    run.attention(head="1.0").plot()                 # matplotlib axes
    miclab.knock_out(run, heads=["0.0"]).frame()

Every name here is imported when it is first used: `import miclab` alone loads neither torch, polars nor a plot engine.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_NAMES = {
    "train": "training", "resume": "training", "train_lanes": "lanes",
    "Run": "run", "Runs": "runs", "load": "runs", "find": "runs", "list_runs": "runs",
    "Attention": "attention", "Model": "module",
    "evaluate": "analyses", "circuits": "analyses", "knock_out": "analyses", "ablate": "analyses",
    "align": "analyses", "diagnose": "analyses", "Diagnosis": "analyses",
    "patch": "patching", "patch_paths": "patching", "attribute": "patching",
    "find_circuit": "found_circuit", "FoundCircuit": "found_circuit",
    "claims": "claims", "judge": "claims", "Judgement": "claims", "Ledger": "claims",
    "study": "study", "Study": "study", "StudyPlan": "study",
    "report": "report",
    "demo": "reproduce", "reproduce": "reproduce",
    "import_checkpoint": "interop", "weights": "weights", "weight_matrices": "weights",
    "transplant": "refined", "drift": "refined", "circuit_overlap": "refined", "running_mean": "running_mean",
    "check_data": "data", "embed": "data", "DataCheck": "data",
}  # fmt: skip
"""Where each public name lives, in `miclab.api`."""
_extended: list[bool] = []
_ERRORS = ("MiclabError", "ConfigError", "RunError", "DamagedError")
_ROOMS = ("circuits", "claims", "report")
"""Public functions with the name of a package beside this file. These packages are made callable."""

__all__ = [
    "Attention", "ConfigError", "DamagedError", "DataCheck", "Diagnosis", "FoundCircuit", "Judgement", "Ledger",
    "MiclabError", "Model", "Run", "RunError", "Runs", "Study", "StudyPlan", "ablate", "align", "attribute",
    "check_data", "circuit_overlap", "circuits", "claims", "demo", "diagnose", "drift", "embed", "evaluate",
    "find", "find_circuit", "import_checkpoint", "judge", "knock_out", "list_runs", "load", "load_plugin", "patch",
    "patch_paths", "report", "reproduce", "resume", "running_mean", "study", "train", "train_lanes",
    "transplant", "weight_matrices", "weights",
]  # fmt: skip

if TYPE_CHECKING:
    from miclab.api.analyses import Diagnosis, ablate, align, circuits, diagnose, evaluate, knock_out
    from miclab.api.attention import Attention
    from miclab.api.claims import Judgement, Ledger, claims, judge
    from miclab.api.data import DataCheck, check_data, embed
    from miclab.api.found_circuit import FoundCircuit, find_circuit
    from miclab.api.interop import import_checkpoint
    from miclab.api.lanes import train_lanes
    from miclab.api.module import Model
    from miclab.api.patching import attribute, patch, patch_paths
    from miclab.api.refined import circuit_overlap, drift, transplant
    from miclab.api.report import report
    from miclab.api.reproduce import demo, reproduce
    from miclab.api.run import Run
    from miclab.api.running_mean import running_mean
    from miclab.api.runs import Runs, find, list_runs, load
    from miclab.api.study import Study, StudyPlan, study
    from miclab.api.training import resume, train
    from miclab.api.weights import weight_matrices, weights
    from miclab.config.extensions import load_plugin
    from miclab.errors import ConfigError, DamagedError, MiclabError, RunError


def _found(name: str) -> Any:
    from miclab.config.extensions import load_installed

    # Installed extensions may add to every registry, so they are loaded with the first name.
    if not _extended:
        load_installed()
        _extended.append(True)
    return getattr(importlib.import_module(f"miclab.api.{_NAMES[name]}"), name)


class _Room(ModuleType):
    """A package that can be called: `miclab.circuits(run)` beside `miclab.circuits.find`."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return _found(self.__name__.rpartition(".")[2])(*arguments, **options)


class _Face(ModuleType):
    """This module. The import system binds packages to it, under names that functions have too."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _ROOMS and isinstance(value, ModuleType):
            value.__class__ = _Room
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"miclab.{name}")
    if name in _ERRORS:
        return getattr(importlib.import_module("miclab.errors"), name)
    if name == "load_plugin":
        return importlib.import_module("miclab.config.extensions").load_plugin
    if name in _NAMES:
        return _found(name)
    raise AttributeError(f"module 'miclab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
