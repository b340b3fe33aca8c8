"""Figures of the claims: drawn from rows, the same bytes each time, with every cell and the paper's figures in them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from claims_rows import make_rows, studies_directory
from matplotlib.figure import Figure

from miclab.claims.entries import aligned_prototypes, depth, mixtures, patterns, refined, running_mean
from miclab.claims.entries.controls_multimodal import CONTROLS, MEAN_UNTOUCHED, MEAN_WITHOUT
from miclab.claims.entries.multimodal import INTACT, UNTOUCHED, WITHOUT, ZEROED
from miclab.claims.entries.real_data import CKA, DISTANCE, NULL
from miclab.claims.evidence import Evidence
from miclab.claims.ledger import RUN_ORDER
from miclab.claims.plots import panels
from miclab.claims.plots.figures import NoRowsError, draw
from miclab.claims.plots.panels import Point
from miclab.claims.registry import all_claims, find_claim
from miclab.cli import main
from miclab.config.axes import field_of
from miclab.studies.study import presets_of


def everything(config, step):
    """A row with every column that any figure needs, different in each configuration."""
    size = math.log2(field_of(config, "modalities.m1.classes")) / 20 + field_of(config, "sequence.burstiness") / 20
    m2 = math.log2(field_of(config, "modalities.m2.classes") or 2) / 40
    value = size + m2 + 0.1 * field_of(config, "modalities.m1.noise") - 0.02 * field_of(config, "decoder.layers")
    measures = {}
    for layer in range(1, field_of(config, "decoder.layers") + 1):
        for name in (
            "induction", "induction_total", "label_to_item.m1", "entropy", "label_row_entropy", "previous_token_1",
            "target_label_attention", "target_item_attention.m1", "total_label_attention",
        ):  # fmt: skip
            measures[f"measure.{name}.{layer}.1"] = value * layer / 3
    columns = [UNTOUCHED, INTACT, *WITHOUT.values(), *ZEROED.values(), *(f"probe.context.{n}" for n in (8, 16, 32))]
    columns += [MEAN_UNTOUCHED, *MEAN_WITHOUT.values(), *CONTROLS.values()]
    columns += [CKA, DISTANCE, NULL, *(f"probe.oracles.{name}" for name in mixtures.CEILINGS.values())]
    columns += [*mixtures.ZEROED.values(), aligned_prototypes.NOVEL]
    columns += [patterns.UNTOUCHED, *patterns.UNIFORM.values(), *patterns.CONTROLS.values()]
    columns += [*depth.SHARES, depth.FAITHFUL, depth.UNTOUCHED, depth.TOP, depth.RANDOM, *depth.LAYER.values()]
    columns += running_mean.COLUMNS
    columns += [f"probe.uniform_pattern.{name}" for name in ("untouched", "head 1.1 uniform")]
    exchanged = {name: value - 0.1 - 0.5 * (" fresh " in name) for name in refined.COLUMNS}
    exchanged |= dict.fromkeys(refined.OVERLAPS, value)
    exchanged |= dict.fromkeys(map(refined.untouched_column, refined.INTO), value) | dict.fromkeys(
        refined.DRIFTS, value
    )
    return {**exchanged, "icl": value, "iwl": 1 - value, "cla.icl": value, **measures, **dict.fromkeys(columns, value)}


def arrived(config, step):
    return everything(config, step) | {"icl": 0.97}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    found = studies_directory(tmp_path_factory.mktemp("figures"))
    for study in dict.fromkeys((*RUN_ORDER, *(study for claim in all_claims() for study in claim.studies))):
        steps = (1, 750, 1500, 3000) if study == "transience" else (1, 750, 1500)
        # Claims on depth compare decoders that have arrived.
        formula = arrived if study.startswith("depth") else everything
        make_rows(found, study, formula, steps=steps, profile=presets_of(found / f"{study}.yaml")[0])
    return found


@pytest.fixture(scope="module")
def evidence(directory):
    """Its rows by preset: read, and their studies planned, once for all claims."""
    return {profile: Evidence(directory, profile) for profile in ("quick", "paper")}


@pytest.fixture(scope="module")
def without_rows(tmp_path_factory):
    return Evidence(studies_directory(tmp_path_factory.mktemp("without-rows")), "quick")


@pytest.mark.parametrize("claim", [one.id for one in all_claims()])
def test_every_claim_has_a_figure_without_a_date(evidence, tmp_path, claim):
    profile = "paper" if claim == "X15" else "quick"
    document, drawing = draw(evidence[profile], find_claim(claim), tmp_path)
    assert [document.name, drawing.name] == [f"{claim}-{profile}.pdf", f"{claim}-{profile}.svg"]
    assert document.read_bytes().startswith(b"%PDF")
    assert b"CreationDate" not in document.read_bytes()
    assert b"<dc:date>" not in drawing.read_bytes()


# One of each kind of panel: heatmap, curves, bars, points of runs, bands over training.
@pytest.mark.parametrize("claim", ["U1", "U2", "M7", "D5", "J1"])
def test_a_figure_is_the_same_bytes_each_time(directory, tmp_path, claim):
    first, again = (draw(Evidence(directory, "quick"), find_claim(claim), tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


@pytest.mark.parametrize("claim", [one.id for one in all_claims()])
def test_without_rows_there_is_no_figure(without_rows, tmp_path, claim):
    with pytest.raises(NoRowsError, match="rows"):
        draw(without_rows, find_claim(claim), tmp_path)
    assert not list(tmp_path.glob("*.pdf"))


def test_the_command_draws_what_has_rows_and_names_what_has_none(tmp_path, capsys):
    found = studies_directory(tmp_path)
    make_rows(found, "multimodal", everything)
    output = tmp_path / "out"
    assert main(["figure", "--studies", str(found), "--output", str(output)]) == 0
    assert {path.name for path in output.iterdir()} == {
        f"{c}-quick.{k}" for c in ("M1", "M7", "M8", "C2") for k in ("pdf", "svg")
    }
    text = capsys.readouterr()
    (said,) = (line for line in text.err.splitlines() if not line.startswith("figure: "))
    assert "no rows yet for U1, U2," in said
    assert "M7" not in text.err
    assert len(text.out.splitlines()) == 2 * len({path.stem for path in output.iterdir()})
    assert main(["figure", "U1", "M7", "--studies", str(found), "--output", str(output)]) == 0
    assert main(["figure", "U1", "U2", "--studies", str(found), "--output", str(output)]) == 2
    assert "No rows yet for U1, U2; `miclab reproduce U1 U2` makes them." in capsys.readouterr().err
    assert main(["figure", "M7", "--studies", str(found), "--output", str(tmp_path / "no" / "out")]) == 2
    assert "there is no directory" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_a_figure_of_few_seeds_shows_what_is_there(tmp_path):
    found = studies_directory(tmp_path)
    make_rows(found, "noise", everything, keep=lambda c, seed: seed == 0 and field_of(c, "modalities.m1.noise") < 0.5)
    assert draw(Evidence(found, "quick"), find_claim("U2"), tmp_path)


def axes():
    return Figure().subplots()


def test_a_heatmap_puts_each_mean_into_its_cell():
    place = axes()
    found = [Point((8, 1), 0.2, 0.1, 0.3), Point((4, 1), 0.4, 0.3, 0.5), Point((8, 2), 0.9, 0.8, 1.0)]
    image = panels.heatmap(place, found, "", "x", "y")
    grid = np.ma.filled(image.get_array(), np.nan)
    np.testing.assert_allclose(grid, [[0.4, 0.2], [np.nan, 0.9]])
    assert [t.get_text() for t in place.get_xticklabels()] == ["4", "8"]
    assert {t.get_text() for t in place.texts} == {"0.20\n[0.10, 0.30]", "0.40\n[0.30, 0.50]", "0.90\n[0.80, 1.00]"}


def test_a_curve_is_drawn_in_the_order_of_its_axis_with_its_intervals():
    place = axes()
    panels.curve(place, [4, 2], [Point((4,), 0.5, 0.4, 0.7), Point((2,), 0.1, 0.0, 0.2)], "label", 1)
    (container,) = place.containers
    line, _, (bars,) = container.lines
    assert line.get_xdata().tolist() == [2, 4]
    assert line.get_ydata().tolist() == [0.1, 0.5]
    np.testing.assert_allclose([s[:, 1] for s in bars.get_segments()], [[0.0, 0.2], [0.4, 0.7]])


def test_bars_show_the_papers_figures_beside_ours():
    place = axes()
    panels.bars(place, {"a": Point((), 0.5, 0.4, 0.6), "b": Point((), 0.2, 0.1, 0.3)}, {"b": 0.062}, "accuracy")
    assert [bar.get_width() for bar in place.patches] == [0.5, 0.2]
    diamonds = [line for line in place.lines if line.get_marker() == "D"]
    assert [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in diamonds] == [([0.062], [1])]


def test_series_differ_in_colour_and_in_marker():
    place = axes()
    for index in range(7):
        panels.curve(place, [1], [Point((1,), 0.5, 0.5, 0.5)], str(index), index)
    lines = [container.lines[0] for container in place.containers]
    assert len({line.get_color() for line in lines}) == len({line.get_marker() for line in lines}) == len(lines) == 7
