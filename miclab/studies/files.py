"""Several study files that are used together, and the parameters that they have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from miclab.studies.parameters import Parameter, Values, check_given, read_parameters
from miclab.studies.study import Study, load_study, read_study_file


def parameters_of(file: Path | str) -> dict[str, Parameter]:
    """The parameters that a study file declares.

    Raises:
        ConfigError: the file cannot be read, or they cannot be used.
    """
    data = read_study_file(Path(file))
    return read_parameters(data.get("parameters", {})) if isinstance(data, Mapping) else {}


def own_values(file: Path | str, given: Values) -> dict[str, str]:
    """Those of some values whose parameters a study file has."""
    known = parameters_of(file) if given else {}
    return {name: value for name, value in given.items() if name in known}


def check_known(files: Iterable[Path | str], given: Values) -> None:
    """Refuses values of parameters that none of the study files has.

    Raises:
        ConfigError: a name is unknown.
    """
    if given:
        check_given(given, [parameters_of(file) for file in files])


def load_studies(files: Iterable[Path | str], profile: str, given: Values) -> list[Study]:
    """Study files with one of their presets. Each is given the values of its own parameters.

    Raises:
        ConfigError: as `load_study` does, or no study has a given parameter.
    """
    files = list(files)
    check_known(files, given)
    return [load_study(file, profile, own_values(file, given)) for file in files]
