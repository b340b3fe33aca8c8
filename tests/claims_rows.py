"""Rows of studies made by a formula, so that a test knows what a claim must come to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from miclab.claims.evidence import Evidence
from miclab.studies import sealed_table

STUDIES = Path(__file__).parent.parent / "studies"
SETS = 8
Formula = Callable[[Mapping[str, Any], int], Mapping[str, Any]]
"""From configuration and step to columns; a score is spread over seeds and sets around its value."""
SPREAD = 0.01


def studies_directory(folder: Path) -> Path:
    """A copy of the study files, without rows."""
    target = folder / "studies"
    target.mkdir()
    for file in STUDIES.glob("*.yaml"):
        shutil.copy(file, target)
    return target


def make_rows(
    directory: Path,
    study: str,
    formula: Formula,
    *,
    profile: str = "quick",
    steps: tuple[int, ...] = (1500,),
    keep: Callable[[Mapping[str, Any], int], bool] = lambda config, seed: True,
    spread: float = SPREAD,
) -> Path:
    """Writes a study's table: a finished run for every planned one that `keep` accepts, with a row at each step.

    Scores `icl` and `probe.*` get a value for each set of novel classes; every value is moved by a number that depends
    on seed and set alone.
    """
    rows: list[dict[str, Any]] = []
    for config, seed, name in Evidence(directory, profile).plan(study):
        if not keep(config, seed):
            continue
        noise = np.random.default_rng(seed).normal(0, spread, SETS + 1)
        for step in steps:
            row: dict[str, Any] = {
                "study": study, "profile": profile, "run": name, "parent": "", "stage": "", "seed": seed,
                "status": "finished", "reason": "all steps done", "step": step, "last": step == steps[-1], "loss": 0.1,
                "config": json.dumps(config, sort_keys=True),
            } | dict.fromkeys(("icl", "swapped", "iwl", "train", "cla.icl"), 0.5)  # fmt: skip
            for column, value in formula(config, step).items():
                row[column] = value if column.startswith("measure.") else value + noise[-1]
                if column == "icl" or column.startswith("probe."):
                    row["icl_sets" if column == "icl" else f"{column}.sets"] = [value + e for e in noise[:SETS]]
            rows.append(row)
    path = directory / "rows" / profile / f"{study}.parquet"
    sealed_table.write(pl.DataFrame(rows, infer_schema_length=None), path)
    return path
