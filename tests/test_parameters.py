"""Parameters of study files: what is refused, where values go; own embeddings from their files to a verdict."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_study import REQUEST, Here, carry_out, write_study

from miclab.cli import main
from miclab.data import load
from miclab.data.check import common_shares
from miclab.errors import ConfigError, MiclabError
from miclab.studies.files import load_studies
from miclab.studies.parameters import assignments
from miclab.studies.plan import Plan
from miclab.studies.shipped import studies_directory
from miclab.studies.study import laid_over, load_study

CLASSES, EACH, DIMENSION = 20, 5, 6
VALUES = {"labels": {"words": "labels", "default": 4}, "noise": {"words": "noise", "default": 0.25},
          "optimiser": {"words": "an optimiser"}}  # fmt: skip


def with_parameters(folder: Path, parameters=VALUES, name: str = "tiny", **changes) -> Path:
    """A tiny study whose labels, noise and optimiser are parameters."""
    used = {"modalities": {"m1": {"labels": "$labels", "noise": "$noise"}}, "optimiser": {"name": "$optimiser"}}
    return write_study(folder, name=name, parameters=parameters, **laid_over({"config": used}, changes))


def configuration(study):
    return next(iter(Plan([study], "eager").runs.values())).config


def test_a_value_is_in_the_configuration_as_if_it_were_written_there(tmp_path):
    """Fails if a value is lost, has another type, or names other runs than the same value in the file."""
    given = {"optimiser": "adam", "labels": "2"}
    filled = load_study(with_parameters(tmp_path), "quick", given)
    plain = {"modalities": {"m1": {"labels": 2, "noise": 0.25}}, "optimiser": {"name": "adam"}}
    written = load_study(write_study(tmp_path, name="plain", config=plain), "quick")
    assert configuration(filled) == configuration(written)
    assert list(Plan([filled], "eager").runs) == list(Plan([written], "eager").runs)
    other = load_study(filled.file, "quick", given | {"labels": "4"})
    assert not set(Plan([other], "eager").runs) & set(Plan([filled], "eager").runs)
    assert filled.parameters == given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "tiny.yaml: the parameter optimiser is missing: give --parameter optimiser=VALUE (an optimiser)"),
        ({"optimiser": ""}, "parameter optimiser = '' is not possible. Allowed: a text"),
        (
            {"optimiser": "adam", "lables": "2"},
            "lables = '2' is not possible. Allowed: did you mean 'labels'?",
        ),
        ({"optimiser": "adam", "labels": "2.5"}, "parameter labels = '2.5' is not possible. Allowed: a whole number"),
        ({"optimiser": "adam", "noise": "much"}, "parameter noise = 'much' is not possible. Allowed: a number"),
    ],
)
def test_values_that_are_missing_unknown_or_of_another_type_are_refused(tmp_path, given, message):
    with pytest.raises(MiclabError) as error:
        load_study(with_parameters(tmp_path), "quick", given)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "none, since the study file has no `parameters`"),
        (["m1"], "a mapping of names"),
        ({**VALUES, "more": {"words": "more", "default": "x"}}, "one that stands in the file as $more"),
        ({**VALUES, "More": {"words": "more"}}, "names of small letters"),
        ({**VALUES, "labels": 4}, "a mapping with `words`"),
        ({**VALUES, "labels": {"default": 4}}, "a text that says what to give"),
        ({**VALUES, "labels": {"words": "labels", "defualt": 4}}, "did you mean 'default'?"),
        ({**VALUES, "labels": {"words": "labels", "default": [4]}}, "a whole number, a number or a text"),
        ({**VALUES, "labels": {"words": "labels", "default": True}}, "a whole number, a number or a text"),
        ({n: part for n, part in VALUES.items() if n != "noise"}, "a parameter of this file: "),
    ],
)
def test_declarations_that_cannot_be_used_are_refused(tmp_path, parameters, message):
    with pytest.raises(MiclabError) as error:
        Plan([load_study(with_parameters(tmp_path, parameters), "quick", {"optimiser": "adam"})], "eager")
    assert message in str(error.value)


def test_several_studies_take_what_is_theirs(tmp_path):
    first = with_parameters(tmp_path)
    second = write_study(tmp_path, name="plain")
    with_value, plain = load_studies([first, second], "quick", {"optimiser": "adam"})
    assert with_value.parameters == {"optimiser": "adam"}
    assert not plain.parameters
    with pytest.raises(ConfigError, match="did you mean 'optimiser'"):
        load_studies([first, second], "quick", {"optimizer": "adam"})
    with pytest.raises(ConfigError, match="none, since the study file has no `parameters`"):
        load_studies([second], "quick", {"optimiser": "adam"})


def test_assignments():
    assert assignments(["a=vectors:x=1.npz", "b="]) == {"a": "vectors:x=1.npz", "b": ""}
    for texts, message in ((["a"], "NAME=VALUE"), (["=b"], "NAME=VALUE"), (["a=b", "a=c"], "a is 'b' already")):
        with pytest.raises(ConfigError, match=message):
            assignments(texts)


def embeddings(folder: Path, name: str, seed: int) -> str:
    """Vectors around one mean a class that share a direction, as a source."""
    generator = np.random.default_rng(seed)
    means = generator.normal(size=(CLASSES, 1, DIMENSION)) + 3 * np.eye(DIMENSION)[seed]
    rows = means + 0.3 * generator.normal(size=(CLASSES, EACH, DIMENSION))
    labels = [f"thing {number}" for number in range(CLASSES) for _ in range(EACH)]
    np.savez(folder / f"{name}.npz", vectors=rows.reshape(-1, DIMENSION).astype(np.float32), labels=labels)
    return f"vectors:{folder / name}.npz"


def own_study(folder: Path) -> Path:
    """The shipped study of own embeddings with few steps."""
    data = yaml.safe_load((studies_directory() / "own_embeddings.yaml").read_text())
    steps = {"modalities": {"m1": {"encoder_step": 2}, "m2": {"encoder_step": 2}}, "numerics": {"mode": "eager"}}
    request = REQUEST | {"evaluate_every": 4, "sequences": 20}
    preset = {"seeds": [0], "config": steps | {"optimiser": {"batch_size": 8}}, "request": request,
              "parent": {"steps": 4, "request": request}}  # fmt: skip
    data = laid_over(data, {"profiles": {"quick": preset}, "encoder": {"request": {"sequences": 4, "novel_sets": 2}}})
    for block in data["profiles"]["quick"]["grid"]:
        if "zip" in block:
            block["zip"]["request.steps"] = [8]
    file = folder / "own_embeddings.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    return file


def test_own_embeddings_are_trained_and_judged_as_d1_to_d3(tmp_path, capsys):
    """From two files of vectors to the verdict: the paths reach every task, the rows, and the claim."""
    given = {"m1": embeddings(tmp_path, "one", 1), "m2": embeddings(tmp_path, "two", 2), "labels1": "4",
             "labels2": "4", "few": "4"}  # fmt: skip
    for source in (given["m1"], given["m2"]):
        shares = common_shares(load(source))
        assert shares["off"]["training"] > 0.3 > 0.05 > shares["training"]["training"]
    study = load_study(own_study(tmp_path), "quick", given)
    plan, root = Plan([study], "eager"), tmp_path / "runs"
    sources: set[tuple[str, ...]] = set()

    class Watching(Here):
        """Whatever launches a run hands its whole configuration over."""

        def submit(self, paths):
            for path in paths:
                modalities = json.loads(Path(path).read_text())["config"]["modalities"]
                sources.add(tuple(one["source"] for one in modalities.values()))
            super().submit(paths)

    tally = carry_out(plan, root, Watching())
    assert {one.status for one in tally.states.values()} == {"done"}
    assert sources == {(given["m1"],), (given["m2"],), (given["m1"], given["m2"])}

    options = [f"--parameter={name}={value}" for name, value in given.items()]
    # Every run is done: the command finds them by the values, and writes the table.
    assert main(["study", "run", str(study.file), "--runs", str(root), *options]) == 0
    assert "own_embeddings: 6 runs: 6 done" in capsys.readouterr().out
    assert main(["claims", "OwnD", "--studies", str(tmp_path), "--explain", *options]) == 0
    assert "all 6 runs are there" in capsys.readouterr().out
    where = ["--studies", str(tmp_path), "--json"]
    assert main(["claims", "OwnD", *where, *options]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["runs"] == 6
    assert not found["missing"]
    assert len(found["conditions"]) == 4
    assert all(one["measured"] for one in found["conditions"])
    assert "ICL on held-out concepts at K2 = 16" in found["conditions"][0]["quantity"]
    # Without the values no run can be found; with others these are other runs.
    assert main(["claims", "OwnD", *where]) == 2
    assert "the parameter m1 is missing: give --parameter m1=VALUE" in capsys.readouterr().err
    assert main(["claims", "OwnD", *where, *options, "--parameter=m3=x"]) == 2
    assert "parameter m3 = 'x' is not possible" in capsys.readouterr().err
    assert main(["claims", "OwnD", *where, *options, f"--parameter=m2={given['m1']}"]) == 2
    assert "each name once" in capsys.readouterr().err
    swapped = [f"--parameter={n}={given.get({'m1': 'm2', 'm2': 'm1'}.get(n, n))}" for n in given]
    assert main(["claims", "OwnD", *where, *swapped]) == 0
    assert json.loads(capsys.readouterr().out)[0]["runs"] == 0
    assert main(["study", "rows", str(study.file), "--runs", str(root), "--json", *options]) == 0
    assert {row["status"] for row in json.loads(capsys.readouterr().out)} == {"finished"}
