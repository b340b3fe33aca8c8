"""The Python API: what its functions give is what the commands print, or what is computed here by other means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from claims_rows import make_rows, studies_directory
from tiny import tiny_mapping
from tiny_study import Here, write_study

import miclab
from miclab.api import analyses, fields
from miclab.cli import main
from miclab.config import presets
from miclab.errors import ConfigError, MiclabError, RunError
from miclab.model.decoder import Decoder
from miclab.runs.find import open_run
from miclab.tables import Tabled
from miclab.training.lineage import Lineage

REQUEST = {"evaluate_every": 2, "checkpoint_every": 2, "sequences": 4, "novel_sets": 2}
SIZES = {"sequences": 20, "novel_sets": 2}
SMALL = ("--sequences", "20", "--novel-sets", "2")


def dotted(mapping: dict[str, Any], owner: str = "") -> dict[str, Any]:
    """A nested mapping by dotted names."""
    found: dict[str, Any] = {}
    for name, value in mapping.items():
        found |= dotted(value, f"{owner}{name}.") if isinstance(value, dict) else {f"{owner}{name}": value}
    return found


def tiny_fields(count: int = 1, **parts: Any) -> dict[str, Any]:
    """Fields of a tiny run, for `fields=`."""
    return dotted({**tiny_mapping(count, **parts), "request": REQUEST})


def trained(root: Path, stage: str = "unimodal", steps: int = 4, **options: Any) -> Any:
    """A tiny run."""
    count = 1 if stage == "unimodal" else 2
    return miclab.train(stage, steps=steps, runs=root, fields=tiny_fields(count, decoder={"heads": 2}), **options)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A directory with a run of each of two seeds, and one of two modalities."""
    root = tmp_path_factory.mktemp("api")
    for seed in (0, 1):
        trained(root, seed=seed)
    trained(root, "multimodal", stage_one_steps=2)
    return root


@pytest.fixture(scope="module")
def run(root) -> Any:
    """The run of seed 0."""
    return trained(root, seed=0)


@pytest.fixture(scope="module")
def second(root) -> Any:
    """The run of two modalities."""
    return trained(root, "multimodal", stage_one_steps=2)


def printed(capsys, *arguments: object) -> Any:
    """What a command prints as JSON."""
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def plain(result: Any) -> Any:
    """A result as JSON would carry it."""
    return json.loads(json.dumps(result.as_json()))


def test_importing_miclab_imports_nothing_heavy_and_every_name_is_there(run_python):
    """Fails if a name of `__all__` cannot be had, or the face loads what only some of them need."""
    found = run_python(
        "import json, sys, miclab\n"
        "loaded = {m.split('.')[0] for m in sys.modules}\n"
        "heavy = sorted(loaded & {'torch', 'polars', 'plotly', 'numpy', 'matplotlib'})\n"
        "import miclab.circuits.find, miclab.report.html\n"
        "called = all(callable(getattr(miclab, name)) for name in miclab.__all__)\n"
        "print(json.dumps([heavy, called, miclab.circuits.find.head_name((1, 0)), 'train' in dir(miclab)]))"
    )
    assert found == [[], True, "1.0", True]
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        miclab.trian  # noqa: B018


@pytest.mark.filterwarnings("ignore:.*it adds nothing")
def test_installed_extensions_are_loaded_with_the_first_name(run_python, tmp_path):
    """Fails if what an installed package adds is unknown to Python though the command line knows it."""
    package = tmp_path / "extra-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[miclab.extensions]\nextra = extra\n")
    (tmp_path / "extra.py").write_text(
        "from miclab.config.options import LOSS_TERMS, LossOptions\n"
        "@LOSS_TERMS.register('extra')\n"
        "class Extra:\n    'A term.'\n    Options = LossOptions\n"
    )
    found = run_python(
        "import json, sys; sys.path.insert(0, sys.argv[1])\n"
        "import miclab\n"
        "from miclab.config.extensions import loaded\n"
        "before = len(loaded()); miclab.find\n"
        "from miclab.config.options import LOSS_TERMS\n"
        "print(json.dumps([before, [p.name for p in loaded()], 'extra' in LOSS_TERMS]))",
        tmp_path,
    )
    assert found == [0, ["extra"], True]
    (tmp_path / "mine.py").write_text("ADDED = 1\n")
    assert miclab.load_plugin(tmp_path / "mine.py").name == "mine"


def test_a_run_is_that_of_the_command(root, run, second, capsys, tmp_path):
    """Fails if a function trains another configuration than the command of the same options, or stage 1 differs."""
    options = [f"--{name}={value}" for name, value in tiny_fields(decoder={"heads": 2}).items()]
    assert printed(capsys, "train", "unimodal", "--runs", tmp_path, *options, "--request.steps=4")["step"] == 4
    assert [path.name for path in tmp_path.iterdir()] == [run.name]
    found = printed(capsys, "train", "multimodal", "--runs", root, *options,
                    *(f"--{n}={v}" for n, v in tiny_fields(2).items() if n.startswith("modalities.m2")),
                    "--request.steps=4", "--stage-one-steps=2")  # fmt: skip
    assert Path(found["run"]) == second.path
    assert found["trained_steps"] == found["stage_one"]["trained_steps"] == 0
    assert second.parent.step == found["stage_one"]["step"] == second.config.parent.step == 2


def test_progress_names_each_training_and_every_step(tmp_path):
    """Fails if a step or the stage that it belongs to is not reported."""
    seen: list[tuple[str, int, int]] = []
    trained(tmp_path, "multimodal", steps=3, stage_one_steps=2, on_progress=lambda *p: seen.append(p[:3]))
    assert seen == [("stage 1", 1, 2), ("stage 1", 2, 2), ("stage 2", 1, 3), ("stage 2", 2, 3), ("stage 2", 3, 3)]
    run = miclab.resume(next(r for r in miclab.list_runs(tmp_path) if r.config.parent.run), 4)
    assert (run.step, run.status) == (4, "finished")


def test_metrics_hold_every_number_of_the_rows(run, second, capsys):
    """Fails if a number of a metric row is lost or stands under another name."""
    for one in (run, second):
        frame, rows = one.metrics(), printed(capsys, "show", one.path)["rows"]
        assert frame["step"].to_list() == [row["step"] for row in rows] == [0, 1, 2, 4]
        for split in ("train", "icl", "swapped", "iwl"):
            assert frame[split].to_list() == [row["accuracy"][split] for row in rows]
            assert frame[f"in_context.{split}"].to_list() == [row["context_label_accuracy"][split] for row in rows]
        for name in rows[-1]["measures"]:
            for layer, head in ((0, 1), (1, 0)):
                assert frame[f"{name}@{layer}.{head}"].to_list() == [r["measures"][name][layer][head] for r in rows]
        assert frame["icl_sets"].to_list() == [row["icl_sets"] for row in rows]
    assert second.metrics()["alignment.m2.cka"][-1] == rows[-1]["alignment"]["m2"]["cka"]


def test_attention_is_that_of_the_decoder_and_its_positions_have_names(second):
    """Fails if another head, sequence or checkpoint is given, or the names are not those of the sequence."""
    batch = second.batch("icl", 5)
    weights = Decoder(second.config).trace(second.parameters(2), batch, capture=("blocks.*",)).activations
    for head in second.heads:
        layer, place = map(int, head.split("."))
        expected = weights[f"blocks.{layer}.attention.pattern"][:, place].numpy()
        one, all_of_them = (second.attention(2, head, which, sequences=5) for which in (3, None))
        assert np.allclose(one.weights, expected[3], atol=1e-6)
        assert np.allclose(all_of_them, expected, atol=1e-6)
        assert np.allclose(second.attention(2, head, [4, 0], sequences=5), expected[[4, 0]], atol=1e-6)
    one, length = second.attention(2, "1.1", 3, sequences=5), second.config.sequence_length
    assert one.shape == (length, length)
    assert one.roles == ("x1", "x'1", "l1", "x2", "x'2", "l2", "x3", "x'3", "l3", "x4", "x'4", "l4", "xq", "x'q")
    assert (one.labels.tolist(), int(one.target)) == (batch.labels[3].tolist(), int(batch.target[3]))
    lower = one.frame().filter(pl.col("query") == "l1")
    assert lower["key"].to_list() == ["x1", "x'1", "l1"]
    assert lower["weight"].sum() == pytest.approx(1, abs=1e-5)
    assert "<svg" in one._repr_html_()


def test_the_module_is_the_decoder_and_can_be_trained(second):
    """Fails if names or values of parameters change on the way into a module, or gradients do not reach them."""
    parameters, batch = second.parameters(2), second.batch("train", 6)
    model = second.model(2)
    assert {n: v.shape for n, v in model.state_dict().items()} == {n: v.shape for n, v in parameters.items()}
    assert all(torch.equal(v, parameters[n]) for n, v in model.state_dict().items())
    logits = model(batch)
    assert torch.allclose(logits, Decoder(second.config).logits(parameters, batch), atol=1e-6)
    torch.nn.functional.cross_entropy(logits, batch.target).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    assert [len(t.label_of) for t in second.world().tables.values()] == [32, 16]


@pytest.mark.parametrize("several", [False, True])
def test_analyses_are_what_the_commands_print(root, run, several, capsys):
    """Fails if a function looks at other sequences, runs or checkpoints than the command of the same name."""
    runs = [r for r in miclab.list_runs(root) if r.config.stage == "unimodal" and r.step == 4] if several else [run]
    assert len(runs) == 1 + several
    paths, given = [one.path for one in runs], runs if several else run
    assert plain(miclab.evaluate(given, **SIZES)) == printed(capsys, "evaluate", *paths, *SMALL)
    assert plain(miclab.circuits(given, 2, **SIZES)) == printed(capsys, "circuits", *paths, *SMALL, "--step", "2")
    assert plain(miclab.ablate(given, **SIZES)) == printed(capsys, "ablate", *paths, *SMALL)
    command = printed(capsys, "knockout", *paths, *SMALL, "--split", "train", "--baseline", "mean")
    assert plain(miclab.knock_out(given, split="train", baseline="mean", **SIZES)) == command
    single = plain(miclab.knock_out(given, ["1.0"], split="train", baseline="mean", **SIZES))
    wanted = next(e for e in command["effects"] if e["name"] == "head 1.0")
    assert {k: single["effects"][1][k] for k in ("accuracy", "change")} == {
        k: wanted[k] for k in ("accuracy", "change")
    }


def test_alignment_and_diagnosis_are_what_the_commands_print(second, capsys):
    """Fails if they are of another checkpoint, or leave something out."""
    assert plain(miclab.align(second, rows=64)) == printed(capsys, "align", second.path, "--rows", "64")
    assert [a["step"] for a in plain(miclab.align(second, [0, 2], rows=64))] == [0, 2]
    assert plain(miclab.diagnose(second, **SIZES)) == printed(capsys, "diagnose", second.path, *SMALL)


def test_heads_cut_together_are_cut_together(run, capsys):
    """Fails if of several heads one alone is cut, the command cuts others, or activations are edited elsewhere than
    where they are named."""
    found = miclab.knock_out(run, run.heads, **SIZES)
    words = [run.path, "--heads", *run.heads, *(f"--{name.replace('_', '-')}={v}" for name, v in SIZES.items())]
    assert plain(found) == printed(capsys, "knockout", *words)
    assert main(["knockout", str(run.path), "--heads", "7.0"]) == 2
    assert "heads = '7.0'" in capsys.readouterr().err
    assert [e.name for e in found.effects] == ["untouched", "heads 0.0, 0.1, 1.0, 1.1"]
    batch = run.batch("icl", 20, novel_set=1)
    edits = {f"blocks.{layer}.attention.heads": torch.zeros_like for layer in range(run.config.decoder.layers)}
    seen = run.activations(["embedding", "final", "blocks.*"], batch=batch, edits=edits)
    assert not seen["blocks.1.attention.output"].any()
    mine = found.effects[1].by_run[0].correct[1]
    assert mine.tolist() == (seen["logits"].argmax(-1) == batch.target).double().tolist()
    assert torch.equal(run.activations(batch=batch)["logits"].argmax(-1), run.model()(batch).argmax(-1))


def test_claims_are_those_of_the_ledger(tmp_path, capsys):
    """Fails if a verdict is judged from other rows than the command's."""
    directory = studies_directory(tmp_path)
    make_rows(directory, "noise", lambda config, step: {"icl": 0.2 + config["modalities"]["m1"]["noise"] / 2})
    found = miclab.judge("U2", studies=directory)
    assert plain(found) == printed(capsys, "claims", "U2", "--studies", directory)[0]
    assert found.frame()["verdict"].to_list() == [c["verdict"] for c in found.as_json()["conditions"]]
    ledger = miclab.claims(studies=directory)
    assert plain(ledger) == printed(capsys, "claims", "--studies", directory)
    assert ledger.frame()["claim"].to_list() == [one.id for one in ledger]
    with pytest.raises(MiclabError, match="'U99' is no claim"):
        miclab.judge("U99", studies=directory)


def test_a_study_is_what_the_commands_print(tmp_path, capsys, monkeypatch):
    """Fails if plan or rows are of other runs than the command's."""
    file, runs = write_study(tmp_path, grid={"product": {"decoder.heads": [1, 2]}}), tmp_path / "runs"
    study = miclab.study(file)
    with pytest.raises(MiclabError, match="has no rows yet"):
        study.rows(runs)
    monkeypatch.setattr("miclab.studies.mode.long_mode", lambda root: "eager")
    monkeypatch.setattr("miclab.studies.launchers.local.LocalLauncher", lambda workers: Here())
    seen: list[tuple[int, int]] = []
    assert study.run(runs, on_progress=lambda *p: seen.append(p)).frame()["status"].to_list() == ["done"] * 4
    assert (seen[0], seen[-1]) == ((0, 4), (4, 4))
    assert plain(study.plan(runs)) == printed(capsys, "study", "plan", file, "--runs", runs)
    assert json.loads(study.rows(runs).write_json()) == printed(capsys, "study", "rows", file, "--runs", runs)
    assert study.axes == ("decoder.heads",)
    assert "<html" in miclab.report(study, tmp_path / "study.html", runs=runs).read_text()
    assert miclab.study("complexity").name == "complexity"


def test_every_result_has_a_frame_a_plot_and_html(root, run, second):
    """Fails if a result lacks one of the four, or its HTML is not the text of its table."""
    results = [
        run, miclab.list_runs(root), run.attention(), miclab.evaluate(run, **SIZES), miclab.circuits(run, **SIZES),
        miclab.knock_out(run, **SIZES), miclab.ablate(second, **SIZES), miclab.align(second, rows=16),
        miclab.diagnose(run, **SIZES), miclab.judge("U5"), miclab.claims("U1", "M7"),
    ]  # fmt: skip
    for result in results:
        assert isinstance(result, Tabled)
        assert len(result.frame()) >= 1, result
        assert result._repr_html_().startswith(("<table", "<svg")), result
        axes = result.plot()
        assert axes.lines or axes.patches or axes.images, result
        json.dumps(result.as_json())


def test_runs_are_found_by_name_and_damage_is_named(root, run, tmp_path, capsys):
    """Fails if a run is taken for another, or one that is damaged hides the others."""
    assert miclab.find(run.hash[:8], root) == miclab.load(run.path) == run
    named = trained(root, seed=0, name="first", tags=["tiny"])
    assert (named, named.label.name, named.label.tags) == (run, "first", ("tiny",))
    shown = printed(capsys, "show", run.path)
    assert {key: value for key, value in plain(run).items() if shown[key] != value} == {}
    assert plain(miclab.list_runs(root))[-1]["tags"] == printed(capsys, "runs", "--runs", root)[-1]["tags"]
    assert [r.name for r in miclab.list_runs(root)] == [r["run"] for r in printed(capsys, "runs", "--runs", root)]
    other = trained(tmp_path, steps=2)
    (other.path / "world.safetensors").write_bytes(b"")
    found = miclab.list_runs(tmp_path)
    assert (len(found), list(found.damaged)) == (0, [other.path])
    assert found.frame()["status"].to_list() == ["damaged"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: miclab.train("unimodl"), "did you mean 'unimodal'"),
        (lambda r: miclab.train("unimodal", headz=4), "headz.*did you mean 'heads'"),
        (lambda r: miclab.train("unimodal", sequences=9), "seeds.sequences, request.sequences"),
        (lambda r: miclab.train("multimodal", classes=5), "modalities.m1.classes, modalities.m2.classes"),
        (lambda r: miclab.train("unimodal", heads="4"), "a value of type int"),
        (lambda r: miclab.train("unimodal", fields={"decoder.hedas": 1}), "did you mean 'decoder.heads'"),
        (lambda r: miclab.train("unimodal", fields={"decoder.attention.layrs": [1]}), "did you mean 'layers'"),
        (lambda r: miclab.train("unimodal", heads=1, fields={"decoder.heads": 2}), "given twice"),
        (lambda r: miclab.train("unimodal", preset="quik"), "did you mean 'quick'"),
        (lambda r: miclab.train("unimodal", stage_one_steps=5), "stage_one_steps"),
        (lambda r: miclab.train("unimodal", heads=7), "decoder.heads = 7"),
        (lambda r: r.attention(head="2.0"), "head = '2.0'.*0.0, 0.1, 1.0, 1.1"),
        (lambda r: r.attention(head=1), "LAYER.HEAD"),
        (lambda r: r.attention(sequence=40), "0 to 31"),
        (lambda r: r.parameters(3), r"step = 3.*\[0, 1, 2, 4\]"),
        (lambda r: r.activations("blocks.0.attention.patern"), "attention.pattern"),
        (lambda r: r.batch("ickl"), "split = 'ickl'"),
        (lambda r: r.batch("train", novel_set=1), "novel_set = 1"),
        (lambda r: miclab.knock_out(r, ["3.1"]), "head = '3.1'"),
        (lambda r: miclab.knock_out(r, []), "at least one head"),
        (lambda r: miclab.knock_out(r, baseline="men"), "did you mean 'mean'"),
        (lambda r: miclab.align(r), "one modality"),
        (lambda r: miclab.evaluate([]), "at least one run"),
        (lambda r: miclab.evaluate([r, r]), "given twice"),
        (lambda r: miclab.load("nowhere"), "nowhere: it is not a run"),
        (lambda r: miclab.report(r, "nowhere/report.html"), "no directory nowhere"),
        (lambda r: miclab.study("nothing.yaml"), "nothing.yaml"),
    ],
)
def test_mistakes_are_named(run, call, message, monkeypatch, tmp_path):
    """Fails if a mistake is taken in silence, or trains something before it is found."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MiclabError, match=f"(?s){message}"):
        call(run)
    assert not list(tmp_path.iterdir())


def test_every_short_name_that_is_one_field_means_it():
    """Fails if a field cannot be named, or a short name is that of a field that another shares it with."""
    for stage in ("unimodal", "multimodal"):
        config, request = presets.run_config(stage, "quick"), presets.request(stage, "quick")
        known = (*fields.paths(config), *(f"request.{path}" for path in fields.paths(request)))
        last = [path.rpartition(".")[2] for path in known]
        for path, name in zip(known, last, strict=True):
            assert fields.resolve(path, known) == path
            if name in known:
                assert fields.resolve(name, known) == name
            elif last.count(name) == 1:
                assert fields.resolve(name, known) == path
            else:
                with pytest.raises(ConfigError, match="of several"):
                    fields.resolve(name, known)
        for wrong, words in (("clases", "'classes'"), ("K", "modalities.m1.classes"), ("zzz", "list all fields")):
            with pytest.raises(ConfigError, match=f"There is no field '{wrong}'.*{words}") as refused:
                fields.resolve(wrong, known)
            assert len(str(refused.value)) < 250


def test_fields_of_one_modality_leave_the_others():
    """Fails if naming a field of one modality drops another, or a modality that is new cannot be added."""
    config, request = presets.run_config("multimodal", "quick"), presets.request("multimodal", "quick")
    dots = {"modalities.m2.noise": 0.25, "modalities.m3.classes": 64, "modalities.m3.labels": 16}
    dots["request.checkpoint_every"] = 20
    new, wanted = fields.changed(config, request, {"decoder": {"heads": 2}, "evaluate_every": 10}, dots)
    assert new.modalities["m1"] == config.modalities["m1"]
    assert (new.modalities["m2"].noise, new.modalities["m2"].classes) == (0.25, 256)
    assert (new.modalities["m3"].classes, new.modalities["m3"].labels) == (64, 16)
    assert (new.decoder.heads, new.decoder.layers) == (2, config.decoder.layers)
    options = {"decoder.attention.layers": [1], "objective.cross_entropy.weight": 0.5}
    new, _ = fields.changed(new, request, {}, options)
    assert (new.decoder.attention.layers, new.objective["cross_entropy"].weight) == ((1,), 0.5)
    assert set(new.modalities) == {"m1", "m2", "m3"}
    assert (wanted.evaluate_every, wanted.checkpoint_every, wanted.steps) == (10, 20, request.steps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modalities.m2.source": "glyps"}, "glyphs"),
        ({"frozen": ["bridge.m9"]}, "frozen"),
        ({"sequence.task": "joint_label", "sequence.groups": [4, 4]}, "label"),
        ({"objective.nothing.weight": 1.0}, "nothing"),
        ({"bridge.projector": "mpl"}, "projector"),
    ],
)
def test_stage_two_is_checked_before_stage_one_is_trained(tmp_path, options, message):
    """Fails if stage 1 is trained, or its directory made, for a stage 2 that cannot be."""
    given = {**tiny_fields(2), **options}
    with pytest.raises(MiclabError, match=message):
        miclab.train("multimodal", steps=2, stage_one_steps=2, runs=tmp_path, fields=given)
    assert not list(tmp_path.iterdir())


def test_earlier_runs_are_opened_once(tmp_path, monkeypatch):
    """Fails if a child of stage 2 opens or reads its parent several times on its way to its first step."""
    trained(tmp_path, steps=2)
    opened: list[str] = []
    parent = trained(tmp_path, steps=2)

    def counted(reference: str, root: Any) -> Any:
        opened.append(reference)
        return open_run(parent.path)

    monkeypatch.setattr("miclab.training.lineage.find", counted)
    second = trained(tmp_path, "multimodal", stage_one=parent, steps=1)
    assert opened == [parent.hash] * 2, "once to check the plan, once to carry it out"
    lineage = Lineage.resolve(second.config, tmp_path)
    first = lineage.first_parameters()
    before = parent.parameters(2)
    assert all(torch.equal(first[n], v) for n, v in before.items())
    assert all(torch.equal(first[n], v) for n, v in second.parameters(0).items())
    lineage.check()
    with pytest.raises(RunError, match="no checkpoint at step 3"):
        trained(tmp_path, "multimodal", stage_one=f"{parent.path}@3", steps=1)


def test_sizes_of_the_functions_are_those_of_the_commands():
    """Fails if a function looks at other numbers of sequences than its command by default."""
    from miclab.cli.options import SizedOptions

    sizes = SizedOptions().sizes
    assert (sizes.sequences, sizes.novel_sets) == (analyses.SEQUENCES, analyses.SETS)


@pytest.mark.parametrize(
    ("stage", "more", "field"),
    [
        ("unimodal", {"stage_one": "none", "stage_one_steps": 5}, "stage_one_steps"),
        ("encoder", {"stage_one": "nonsense"}, "stage_one"),
        ("unimodal", {"fields": {"modalities.m2.classes": 64}}, "modalities"),
        ("multimodal", {"stage_one_steps": 0}, "request.steps"),
        ("unimodal", {"stage_one_steps": 5}, "stage_one_steps"),
    ],
)
def test_what_a_stage_cannot_have_is_refused_before_anything_is_trained(tmp_path, stage, more, field):
    """Fails if a value without effect is passed over, or another stage is trained than was named."""
    with pytest.raises(miclab.ConfigError) as raised:
        miclab.train(stage, runs=tmp_path / "runs", **more)
    assert raised.value.field == field
    assert not (tmp_path / "runs").exists()
