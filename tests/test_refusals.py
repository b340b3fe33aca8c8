"""Options that would do nothing are refused, and what a YAML file says is taken as it was meant or refused."""

from __future__ import annotations

import json

import pytest
import yaml
from tiny import tiny_config, tiny_mapping

from miclab.cli import main
from miclab.config.run import RunConfig
from miclab.config.schema import from_mapping, to_mapping, trajectory_hash
from miclab.errors import ConfigError
from miclab.runs.find import list_runs, open_run

IGNORED = {
    "threshold": (("report", "RUN", "--threshold", "0.3"), "--study"),
    "preset": (("report", "RUN", "--profile=paper"), "--study"),
    "at": (("report", "RUN", "--at", "last"), "--study"),
    "figures": (("claims", "--figures", "f"), "--markdown page"),
    "explain": (("claims", "U1", "--markdown", "table", "--explain"), "--markdown"),
    "json": (("claims", "--markdown", "page", "--no-json"), "--markdown"),
    "tagged": (("runs", "--rename", "a", "b", "--tagged", "x"), "another label"),
    "step": (("align", "RUN", "--over-training", "--step", "5"), "--over-training"),
    "ray-address": (("study", "run", "s.yaml", "--ray_address", "x"), "--launcher ray"),
    "stage-one": (("train", "unimodal", "--stage-one", "none"), "it names a run"),
    "slurm": (("study", "run", "s.yaml", "--slurm", "mem=4GB"), "--launcher slurm"),
    "array-limit": (("study", "run", "s.yaml", "--launcher", "ray", "--array-limit", "9"), "--launcher slurm"),
}


@pytest.mark.parametrize("option", IGNORED)
def test_an_option_without_effect_is_refused(option, capsys):
    """Fails if a command took an option that it does not use, or does not say what the option is for."""
    arguments, why = IGNORED[option]
    assert main(list(arguments)) == 2
    message = capsys.readouterr().err
    assert f"--{option} has no effect here" in message
    assert why in message


@pytest.mark.parametrize("option", ["--preset", "--profile"])
def test_a_preset_goes_by_its_older_name_too(option, capsys):
    """Fails if `--profile` is not what `--preset` is, where it is parsed and where other defaults depend on it."""
    for given in ([option, "paper"], [f"{option}=paper"], ["--preset", "quick", option, "paper"]):
        assert main(["claims", "X15", *given, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)[0]["profile"] == "paper"
        with pytest.raises(SystemExit):
            main(["train", "unimodal", *given, "--help"])
        shown = capsys.readouterr().out
        assert "(default: 300000)" in shown
        assert "--profile" not in shown
    assert main(["train", "unimodal", option, "fast"]) == 2
    assert "preset = 'fast'" in capsys.readouterr().err


def test_rows_go_to_a_file_or_are_printed(capsys):
    assert main(["study", "rows", "s.yaml", "--output", "o.csv", "--json"]) == 2
    assert "--json has no effect here" in capsys.readouterr().err


SWITCHES = ("decoder.mlp_bias", "decoder.output_projection", "decoder.centre_keys", "sequence.distinct_labels")


@pytest.mark.parametrize("field", SWITCHES)
@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "true", "false"])
def test_on_and_off_of_a_yaml_file_are_the_choice_of_that_name(field, word):
    """YAML 1.1 reads these words as true and false. Fails if `off` is refused where it is a choice, if a choice that is
    not there is made up, or if the hash depends on how it was written."""
    part, name = field.split(".")
    config = tiny_config(1)
    switched = "on" if word in ("on", "yes", "true") else "off"
    data = yaml.safe_load(f"{part}: {{{name}: {word}}}")
    try:
        wanted = from_mapping(RunConfig, {part: {name: switched}}, "", config)
    except ConfigError:
        with pytest.raises(ConfigError):
            from_mapping(RunConfig, data, "", config)
        return
    found = from_mapping(RunConfig, data, "", config)
    assert found == wanted
    assert trajectory_hash(found) == trajectory_hash(wanted)
    assert to_mapping(found)[part][name] == switched


def test_true_is_no_choice_where_neither_on_nor_yes_is(tmp_path):
    with pytest.raises(ConfigError, match=r"decoder.norm = True"):
        from_mapping(RunConfig, {**tiny_mapping(1), "decoder": {"norm": True}})


def test_request_is_among_the_names_of_a_file():
    with pytest.raises(ConfigError, match="did you mean 'request'"):
        from_mapping(RunConfig, {"requst": {}}, also=("request",))


FEW = ("--request.steps", "2", "--request.sequences", "2", "--request.novel-sets", "2", "--numerics.mode", "eager")


def test_everything_is_checked_before_stage_one_is_trained(tmp_path, capsys):
    """Fails if minutes of stage 1 were spent before a name that is wrong, or a label that is none, is refused."""
    wrong = {
        "no data set": ("--modalities.m2.source", "nosuch"),
        "frozen": ("--frozen", "bridge.m9"),
        "name": ("--name", "a/b"),
    }
    for message, options in wrong.items():
        arguments = ("train", "multimodal", *FEW, "--stage-one-steps", "2", "--runs", str(tmp_path), *options)
        assert main(list(arguments)) == 2, message
        assert message in capsys.readouterr().err
    assert list(tmp_path.glob("*/manifest.json")) == []


def test_a_modality_that_the_preset_lacks_is_named_or_refused(tmp_path, capsys):
    """Fails if a misspelt modality is trained without a word."""
    file = tmp_path / "a.yaml"
    file.write_text("modalities: {m1x: {classes: 64, dimension: 8}}\ndecoder: {output_projection: off}\n")
    common = (*FEW, "--runs", str(tmp_path / "runs"), "--config", str(file))
    assert main(["train", "unimodal", *common]) == 0
    message = capsys.readouterr().err
    assert "m1x: no modality of the preset, which has m1" in message
    assert "m1 is left out" in message
    assert main(["train", "multimodal", "--stage-one", "none", *common]) == 2
    assert "two or more, for the stage `multimodal`" in capsys.readouterr().err
    file.write_text("requst: {steps: 3}\n")
    assert main(["train", "unimodal", *common]) == 2
    assert "did you mean 'request'" in capsys.readouterr().err


def test_the_last_run_of_a_plan_has_the_label(tmp_path, capsys):
    small = ("--modalities.m1.classes", "64", "--modalities.m2.classes", "64")
    arguments = ("train", "multimodal", *FEW, "--stage-one-steps", "2", "--runs", str(tmp_path), *small)
    assert main([*arguments, "--name", "joined", "--tags", "a"]) == 0
    labels = {run.config.stage: run.label.name for run in map(open_run, list_runs(tmp_path))}
    assert labels == {"unimodal": "", "multimodal": "joined"}
