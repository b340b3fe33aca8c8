"""Extensions of the model, outside the package: chosen by name, trained, analysed, or refused in words."""

from __future__ import annotations

import json
from pathlib import Path

import own_doors
import pytest
import torch
import yaml
from test_cli import called, in_json
from tiny import lively_parameters, tiny_config, tiny_mapping
from tiny_study import planned, study_mapping, tiny_study

from miclab.config import presets
from miclab.config.options import ATTENTION, AttentionOptions, named_fields, option_text
from miclab.config.positions import POSITION_CODES, facts
from miclab.config.registry import Registry
from miclab.config.run import RunConfig
from miclab.config.schema import from_mapping, to_mapping, trajectory_hash
from miclab.errors import ConfigError, MiclabError
from miclab.model.attention.mechanism import Mechanism
from miclab.model.attention.softmax import Softmax
from miclab.model.decoder import Decoder
from miclab.runs.find import open_run
from miclab.studies.study import laid_over
from miclab.worlds.sequences import config_roles
from miclab.worlds.source_facts import resolved

WINDOW = ATTENTION["sliding_window"].Options
SMALL = ("--sequences", "10", "--novel-sets", "2")


# -- choosing a mechanism -----------------------------------------------------------------------------------------
def test_text_and_mappings_choose_the_same_mechanism():
    """Fails if the command line, YAML and Python would give different runs, if a choice is lost on its way to disk, or
    if writing the default out renames old runs."""
    forms = [
        {"name": "sliding_window", "window": 2, "layers": [0]},
        "sliding_window:window=2,layers=[0]",
        "sliding_window:layers=[0],window=2",
        WINDOW(name="sliding_window", window=2, layers=(0,)),
    ]
    configs = [tiny_config(1, decoder={"attention": form}) for form in forms]
    assert all(config == configs[0] for config in configs)
    assert len({trajectory_hash(config) for config in configs}) == 1
    assert from_mapping(RunConfig, json.loads(json.dumps(to_mapping(configs[0])))) == configs[0]
    assert configs[0].variety == "rope-sliding_window"
    attention = configs[0].decoder.attention
    assert AttentionOptions.read(option_text(attention.name, attention), "", None) == attention
    plain = tiny_config(1)
    written_out = tiny_config(1, decoder={"attention": {"name": "softmax", "layers": []}})
    assert trajectory_hash(written_out) == trajectory_hash(plain)
    others = [tiny_config(1, decoder={"attention": form}) for form in ("sliding_window", "sliding_window:window=4")]
    assert len({trajectory_hash(config) for config in (plain, configs[0], *others)}) == 4


def test_a_mapping_changes_only_the_options_that_it_names():
    """Fails if an axis over one option resets the others, or if options of one mechanism are handed to another."""
    base = tiny_config(1, decoder={"attention": {"name": "sliding_window", "window": 2, "layers": [0]}})
    changed = from_mapping(RunConfig, {"decoder": {"attention": {"window": 4}}}, base=base)
    assert changed.decoder.attention == WINDOW(name="sliding_window", window=4, layers=(0,))
    other = from_mapping(RunConfig, {"decoder": {"attention": "softmax"}}, base=base)
    assert other.decoder.attention == AttentionOptions()


def test_options_are_axes_of_a_study(tmp_path):
    """Fails if points of a grid share an option that they differ in, if an axis over one term of the loss drops the
    others, or if a run of a study is not the one that training by hand would make."""
    windows, ends = [1, 2, 3, 4, 5], [3, 4]
    own = {"decoder": {"attention": {"name": "sliding_window", "layers": [0]}}}
    own |= {"objective": {"attention_aid": {"weight": 0.5}, "cross_entropy": {"weight": 2.0}}}
    product = {"decoder.attention.window": windows, "objective.attention_aid.until": ends}
    study = tiny_study(tmp_path, grid=[{"product": product, "config": own}], profiles={"quick": {"seeds": [0]}})
    runs = list(planned(study).runs.values())
    found = [(run.config.decoder.attention.window, run.config.objective["attention_aid"].until) for run in runs]
    assert found == [(window, end) for window in windows for end in ends]
    for run, (window, end) in zip(runs, found, strict=True):
        mapping = laid_over(study_mapping()["config"], own)
        mapping = laid_over(mapping, {"decoder": {"attention": {"name": "sliding_window", "window": window}}})
        mapping = laid_over(mapping, {"objective": {"attention_aid": {"weight": 0.5, "until": end}}})
        config = resolved(from_mapping(RunConfig, mapping, "", presets.run_config("unimodal", "quick")))
        assert (run.config, run.hash) == (config, trajectory_hash(config))


def test_values_of_text_are_read_as_yaml():
    """Fails if a comma inside a list ends a value, or if numbers stay text."""
    assert named_fields("a:b=1,c=[0,1],d=x,e=0.5", "") == ("a", {"b": 1, "c": [0, 1], "d": "x", "e": 0.5})


REFUSED = {
    "a window of 0": ("sliding_window:window=0", "decoder.attention.window", "at least 1"),
    "unknown option": ("sliding_window:windw=3", "decoder.attention.windw", "'window'"),
    "unknown mechanism": ("sliding_windw", "decoder.attention.name", "'sliding_window'", "--plugin"),
    "layer that is not there": ("sliding_window:layers=[2]", "decoder.attention.layers", "0 to 1"),
    "layer twice": ("sliding_window:layers=[1,1]", "decoder.attention.layers", "each once"),
    "another type": ("sliding_window:window=wide", "decoder.attention.window", "int"),
    "another form": ("sliding_window:window", "decoder.attention", "NAME:OPTION=VALUE"),
    "neither text nor mapping": (3, "decoder.attention", "name"),
    "another one's options": (WINDOW(), "decoder.attention", "AttentionOptions"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_field_and_what_is_allowed(name):
    """Fails if a mechanism that cannot work is let through, or the message would not help to mend it."""
    attention, field, *words = REFUSED[name]
    with pytest.raises(ConfigError) as raised:
        from_mapping(RunConfig, tiny_mapping(1, decoder={"attention": attention}))
    assert raised.value.field == field
    assert all(word in str(raised.value) for word in words), str(raised.value)


IGNORED = {
    "decoder.attention_bias": {"attention_bias": "key"},
    "decoder.centre_keys": {"centre_keys": "all"},
    "decoder.positions": {"positions": "t5_bias"},
}


@pytest.mark.parametrize("field", IGNORED)
def test_what_a_mechanism_would_ignore_is_refused(field):
    """Fails if a setting does nothing in silence: a bias, centred keys or a code's bias on scores where there are no
    scores."""
    config = tiny_config(1, decoder={"attention": "linear_example", **IGNORED[field]})
    with pytest.raises(ConfigError, match="linear_example") as raised:
        Decoder(config)
    assert raised.value.field == field
    Decoder(tiny_config(1, decoder={"attention": "dilated", **IGNORED[field]}))


# -- writing one --------------------------------------------------------------------------------------------------
def test_a_variant_of_a_mechanism_never_inherits_a_fast_path_that_is_not_its_own():
    """Fails if a subclass that changes attention at every position would train with the fast path of its parent."""

    class Doubled(Softmax):
        def project(self, parameters, x, gain, layer):
            queries, keys, values = super().project(parameters, x, gain, layer)
            return queries, keys, 2 * values

    class Windowed(Softmax):
        def score_bias(self, parameters, positions, layer):
            return positions.score_bias

    class Own(Doubled):
        last = Softmax.last

    assert Doubled.last is Mechanism.last
    assert Windowed.last is Own.last is Softmax.last
    decoder = Decoder(tiny_config(1))
    parameters = lively_parameters(decoder.config)
    decoder.attention = [Doubled(decoder.config, AttentionOptions())] * 2
    x = torch.randn(3, decoder.config.sequence_length, 8)
    own = {name: parameters[f"decoder.blocks.1.attention.{name}"] for name in decoder.attention[1].shapes(1)}
    given = {"layer": 1, "positions": decoder.positions_of(parameters), "roles": config_roles(decoder.config)}
    every = decoder.attention[1].everywhere(own, x, None, **given, point=lambda name, value: value)
    assert torch.equal(decoder.attention[1].last(own, x, None, **given), every[:, -1:])


def test_a_name_of_the_package_cannot_be_taken():
    """Fails if a file of one's own could put another thing in the place of the package's, loaded or not."""
    names: Registry = Registry("thing", built_in={"ours": "miclab.errors"})
    with pytest.raises(MiclabError, match=r"named 'ours' already \(in .*errors\.py\)"):
        names.register("ours")(test_a_name_of_the_package_cannot_be_taken)
    with pytest.raises(MiclabError, match="'rope' already"):
        POSITION_CODES.register("rope")(own_doors)


def test_buckets_are_those_of_t5():
    """Fails if a distance falls into another range than in T5 itself."""
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    config = tiny_config(1, decoder={"positions": "t5_bias"}, sequence={"context": 200, "burstiness": 1})
    table = torch.arange(32.0)[None]
    found = Decoder(config).positions.bias({"table": table})[0, -1]
    distance = -torch.arange(config.sequence_length - 1, -1, -1)
    wanted = t5.T5Attention._relative_position_bucket(distance, bidirectional=False, num_buckets=32, max_distance=128)
    assert torch.equal(found, wanted.float())
    assert facts("t5_bias").learnt
    assert not facts("t5_bias").slots


# -- trainings ----------------------------------------------------------------------------------------------------
CHOSEN = {
    "t5_bias": ({"positions": "t5_bias", "heads": 2}, "decoder.positions.table", own_doors.T5),
    "dilated": ({"attention": "dilated:stride=3"}, "decoder.blocks.0.attention.query", own_doors.DILATED),
    "linear_example": ({"attention": "linear_example"}, "decoder.blocks.0.attention.output", own_doors.LINEAR),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    """A run of each extension, trained by the command line from a configuration file."""
    root, found = tmp_path_factory.mktemp("extensions"), {}
    request = {"steps": 4, "evaluate_every": 2, "checkpoint_every": 2, "sequences": 4, "novel_sets": 2}
    for name, (decoder, _, _) in CHOSEN.items():
        file = root / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**tiny_mapping(1, decoder=decoder), "request": request}))
        found[name] = Path(in_json("train", "unimodal", "--config", file, "--runs", root / "runs")["run"])
    return found


@pytest.mark.parametrize("name", CHOSEN)
def test_an_extension_trains_and_is_recorded(trained, name):
    """Fails if what is chosen by name is not what is trained: its parameters move, its configuration comes back from
    disk, and the file that it is from can be named."""
    decoder, parameter, plugin = CHOSEN[name]
    run = open_run(trained[name])
    wanted = tiny_config(1, decoder=decoder).decoder
    assert (run.config.decoder.positions, run.config.decoder.attention) == (wanted.positions, wanted.attention)
    assert name in run.path.name
    first, last = (run.parameters(step)[1] for step in (0, 4))
    assert not torch.equal(first[parameter], last[parameter])
    assert run.config.plugins == (plugin.fingerprint,)


def test_options_on_the_command_line_override_the_file(trained, tmp_path):
    """Fails if `--decoder.attention` is not read, or if its help does not name what is registered."""
    file = trained["dilated"].parents[1] / "dilated.yaml"
    chosen = ["--decoder.attention", "sliding_window:window=3,layers=[1]", "--decoder.positions", "t5_bias"]
    chosen += ["--objective", "attention_aid:until=2"]
    done = in_json("train", "unimodal", "--config", file, "--runs", tmp_path, *chosen)
    config = open_run(Path(done["run"])).config
    assert config.decoder.attention == WINDOW(name="sliding_window", window=3, layers=(1,))
    assert config.decoder.positions == "t5_bias"
    assert config.objective["attention_aid"].until == 2
    assert done["row"]["loss.attention_aid"] is None
    status, _, errors = called("train", "unimodal", "--decoder.attention", "sliding_window:windw=3")
    assert status == 2
    assert "window" in errors
    _, help_text, _ = called("train", "unimodal", "--help")
    assert all(name in help_text for name in ("dilated", "sliding_window", "t5_bias", "attention_aid"))


def test_analyses_without_a_pattern_say_so(trained, tmp_path):
    """Fails if a decoder without attention patterns breaks a command, or if a measure of attention is invented for it:
    accuracies and knockouts of single heads are there, the rest is missing in words."""
    run = trained["linear_example"]
    rows = open_run(run).rows()
    assert all(row["measures"] == {} and row["accuracy"]["icl"] is not None for row in rows)
    found = in_json("evaluate", run, *SMALL)
    assert "icl" in json.dumps(found)
    for command in ("circuits", "knockout", "diagnose", "ablate"):
        status, output, errors = called(command, run, *SMALL)
        assert status == 0, (command, errors)
        assert "pattern" in output + errors or command == "ablate", command
    status, _, errors = called("report", run, "--output", tmp_path / "report.html")
    assert status == 0, errors
    page = (tmp_path / "report.html").read_text()
    assert "linear_example has no pattern" in page
    assert "There is no circuit of two heads" in page
