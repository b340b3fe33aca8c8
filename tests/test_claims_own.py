"""A claim outside the package, its study and its figure: trained, judged and drawn; and axes that are misspelt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from claims_rows import STUDIES, make_rows, studies_directory
from tiny_study import carry_out, planned

from miclab.claims import registry
from miclab.claims.evidence import Evidence, grid
from miclab.claims.paper import read
from miclab.claims.registry import CLAIMS, all_claims, claim
from miclab.cli import main
from miclab.config import extensions
from miclab.config.axes import AXES, axis_name, field_of
from miclab.config.extensions import load_plugin
from miclab.config.schema import to_mapping
from miclab.errors import ConfigError, ContentError, MiclabError
from miclab.statistics.grid import mean
from miclab.studies.rows import study_rows, table_file, write_table
from miclab.studies.study import load_study

EXTENSIONS = Path(__file__).parent / "extensions"


@pytest.fixture
def own(monkeypatch):
    """The claim of `own_claim.py`, which is gone after the test."""
    all_claims()
    monkeypatch.setattr(extensions, "_loaded", {})
    monkeypatch.setattr(CLAIMS, "_known", dict(CLAIMS._known))
    monkeypatch.setattr(CLAIMS, "_files", dict(CLAIMS._files))
    load_plugin(EXTENSIONS / "own_claim.py")
    return CLAIMS["O1"]


def test_a_claim_outside_the_package_is_trained_judged_and_drawn(own, tmp_path, capsys):
    """Fails if a claim of one's own needs more than its file and its study, or a verdict is not that of the rows."""
    study = load_study(shutil.copy(EXTENSIONS / "own_study.yaml", tmp_path), "quick")
    assert study.answers == ("O1",)
    plan = planned(study)
    carry_out(plan, tmp_path / "runs")
    write_table(study_rows(study, plan, tmp_path / "runs"), table_file(study))
    assert main(["claims", "O1", "--studies", str(tmp_path), "--json"]) == 0
    (line,) = json.loads(capsys.readouterr().out)
    rows = pl.read_parquet(tmp_path / "rows" / "quick" / "own_study.parquet").filter(pl.col("last"))
    by_classes = dict(rows.group_by("modalities.m1.classes").agg(pl.col("iwl").mean()).iter_rows())
    slope, few = line["conditions"]
    assert (line["missing"], line["runs"]) == (0, 6)
    assert slope["measured"]["mean"] == pytest.approx((by_classes[128] - by_classes[8]) / 4)
    assert slope["verdict"] == ("holds" if slope["measured"]["high"] < 0 else "undecided")
    assert few["measured"]["mean"] == pytest.approx(by_classes[8])
    assert few["measured"]["mean"] > 0.5, "eight classes are learnt by heart"
    assert main(["figure", "O1", "--studies", str(tmp_path), "--output", str(tmp_path / "figures")]) == 0
    assert (tmp_path / "figures" / "O1-quick.svg").is_file()


def test_without_an_id_the_claims_of_the_directory_are_judged(own, tmp_path, capsys):
    shutil.copy(EXTENSIONS / "own_study.yaml", tmp_path)
    assert main(["claims", "--studies", str(tmp_path), "--json"]) == 0
    printed = capsys.readouterr()
    assert [line["id"] for line in json.loads(printed.out)] == ["O1"]
    assert "left out: U1, U2" in printed.err
    (tmp_path / "own_study.yaml").unlink()
    assert main(["claims", "--studies", str(tmp_path)]) == 2
    assert "the studies of none of the" in capsys.readouterr().err


def test_own_claims_stand_behind_those_of_the_package(own):
    last, mine = [one.id for one in all_claims()][-2:]
    assert (last[0], mine) == ("Z", "O1")
    with pytest.raises(MiclabError, match=r"named 'U1' already.*unimodal\.py"):
        claim("U1", "Again.", paper="", criterion="Yes.", studies="noise")(lambda rows: iter(()))
    with pytest.raises(MiclabError, match="no criterion"):
        claim("O2", "Something.", paper="", criterion="", studies="noise")
    assert registry.find_claim("O1") is own


def test_every_axis_is_a_field_and_a_misspelt_one_is_named():
    """Fails if an axis that no configuration has gives one value for all cells."""
    for name, axis in AXES.items():
        assert field_of({}, name) == field_of({}, axis.field)
    for wrong, near in (
        ("modalities.m1.clases", "classes"), ("decoder.possitions", "positions"), ("sequense.context", "sequence"),
        ("layer", "layers"), ("decoder.attention.layer", "layers"), ("numerics.modes", "mode"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=f"did you mean '{near}'"):
            field_of({"decoder": {}}, wrong)
    for whole in ("decoder", "modalities", "modalities.m1"):
        with pytest.raises(ConfigError, match="one of its fields"):
            field_of({}, whole)


def test_a_field_that_a_configuration_lacks_has_its_default():
    """A modality that is not there has none."""
    assert field_of({"decoder": {"layers": 3}}, "layers") == 3
    assert field_of({"decoder": {"layers": 3}}, "code") == "rope"
    assert field_of({"modalities": {"m1": {"classes": 8}}}, "eps") == 0.1
    assert field_of({"modalities": {"m1": {"classes": 8}}}, "K2") is None
    assert field_of({}, "order") == ()
    assert (axis_name("modalities.m1.classes"), axis_name("modalities.m1.classes", alone=True)) == (
        "K1, classes of M1", "K, classes",
    )  # fmt: skip


def test_runs_that_differ_are_never_in_one_cell(tmp_path):
    """Fails if an axis is forgotten and a cell becomes a mixture of decoders."""
    rows = Evidence(studies_directory(tmp_path), "quick")
    with pytest.raises(MiclabError, match=r"in one cell of the axes K B.*decoder\.positions"):
        grid(rows, "position_width", "K B", "icl")
    with pytest.raises(MiclabError, match="no axis 'epsi': did you mean 'eps'"):
        grid(rows, "noise", "K eps", "icl").where(epsi=0.1)
    with pytest.raises(ConfigError, match="did you mean 'eps'"):
        grid(rows, "noise", "K epss", "icl")


def test_the_papers_figures_are_read_strictly(tmp_path):
    assert set(read(Path(registry.__file__).with_name("paper.yaml"))) <= {one.id for one in all_claims()}
    for text in (
        "U1: 3",
        "U1: {a: high}",
        "U1: {a: [1, 2, 3]}",
        "U1: {a: [2, 1]}",
        "U1: {a: true}",
        "[1]",
        "U1: {1: 2}",
    ):
        file = tmp_path / f"{abs(hash(text))}.yaml"
        file.write_text(text)
        with pytest.raises(ContentError):
            read(file)


def scored(config, step):
    return {"icl": field_of(config, "K") / 8192, "iwl": 0.2}


def drawn(folder, *arguments):
    return main(["figure", *map(str, arguments), "--output", str(folder / "out")])


@pytest.mark.parametrize(
    ("study", "options", "words"),
    [
        ("noise", (), ("K, classes", "eps, noise within classes")),
        ("noise", ("--x", "eps", "--by", "K", "--value", "iwl"), ("K = 1024", "eps, noise within classes", "iwl")),
        ("anchors", (), ("position code", "rope_released")),
        ("position_width", ("--x", "code"), ("onehot", "hidden width of the MLP = 512")),
        ("decoder_size", ("--value", "loss"), ("layers", "heads")),
    ],
)
def test_a_study_is_drawn_by_its_axes(tmp_path, monkeypatch, study, options, words):
    """Fails if an axis, a curve or the column that was chosen is not in the picture."""
    monkeypatch.setitem(__import__("matplotlib").rcParams, "svg.fonttype", "none")
    directory = studies_directory(tmp_path)
    make_rows(directory, study, scored)
    assert drawn(tmp_path, directory / f"{study}.yaml", *options, "--format", "svg", "png") == 0
    value = options[options.index("--value") + 1] if "--value" in options else "icl"
    text = (tmp_path / "out" / f"{study}-{value}-quick.svg").read_text()
    assert all(word in text for word in words)
    assert (tmp_path / "out" / f"{study}-{value}-quick.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "out").glob("*.pdf"))


def test_what_cannot_be_drawn_is_said(tmp_path, capsys):
    directory = studies_directory(tmp_path)
    file = directory / "noise.yaml"
    assert drawn(tmp_path, file) == 2
    assert "has no rows in the preset quick yet. `miclab study run" in capsys.readouterr().err
    make_rows(directory, "noise", scored)
    for arguments, said in (
        ((file, "--value", "icll"), "did you mean 'icl'"), ((file, "--value", "config"), "a column of numbers"),
        ((file, "--by", "layers"), "an axis in which the points of noise differ"), ((file, "--x", "epz"), "'eps'"),
        ((file, "--x", "K", "--by", "K"), "another axis"), ((file, "U1"), "not both"),
        (("U1", "--x", "K"), "study files"),
        ((file, "--studies", directory), "their rows lie beside them"),
        ((directory / "position_constant_sgd.yaml",), "preset = 'quick' is not possible"),
    ):  # fmt: skip
        assert drawn(tmp_path, *arguments) == 2
        assert said in capsys.readouterr().err, arguments
    assert not (tmp_path / "out").exists()


def test_configurations_of_committed_studies_have_every_axis_of_the_table():
    """The table is checked against what studies plan, not only against the classes."""
    rows = Evidence(STUDIES, "quick")
    config, *_ = rows.plan("multimodal")[0]
    assert {name for name in AXES if field_of(to_mapping(config), name) is None} == {"K3", "encoder_step3"}
    cells = grid(rows, "multimodal", "K2", "icl")
    assert cells.estimate(mean("icl")) == pytest.approx(cells.means["icl"].mean())
