"""The report on a study: its numbers are those of the rows, and a click on a cell shows the cell's runs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import browser
import numpy as np
import polars as pl
import pytest
import yaml
from claims_rows import make_rows
from report_page import embedded, outside, without_plotly
from scipy import stats

from miclab.claims.entries import prediction
from miclab.claims.evidence import Evidence
from miclab.claims.plots.panels import points
from miclab.cli import main
from miclab.config.axes import field_of
from miclab.config.schema import to_mapping
from miclab.errors import MiclabError
from miclab.report.study.cells import Axis, StudyCells, plain_value, study_cells
from miclab.report.study.page import write_study_report
from miclab.report.study.phases import crossing_rows, crossings
from miclab.statistics.correlation import correlate, pearson
from miclab.studies import sealed_table
from miclab.studies.plan import Plan
from miclab.studies.rows import current_rows, table_file
from miclab.studies.study import load_study

K, B, CODE = "modalities.m1.classes", "sequence.burstiness", "decoder.positions"
HOSTILE = "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'> & \"K\""
STEPS = (0, 500, 1000)


def write_file(folder: Path, name: str, grid: list[dict[str, Any]], **more: Any) -> Path:
    """A study file with two seeds."""
    content = {"title": HOSTILE, "answers": ["U1", "Z9"], "stage": "unimodal", "grid": grid,
               "profiles": {"quick": {"seeds": [0, 1], "request": {"steps": 1000}}}, **more}  # fmt: skip
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


def formula(config, step):
    """Scores that rise with K and B, and measures that go with them; analyses as well."""
    size = (np.log2(config["modalities"]["m1"]["classes"]) - 8) * config["sequence"]["burstiness"] / 10
    icl = float(size * (0.2 + 0.8 * step / 1000))
    return {"icl": icl, "iwl": 1 - icl, "swapped": icl / 2, "cla.icl": icl**2, "measure.entropy.1.1": 0.5,
            "measure.induction_total.2.1": icl**3, "measure.induction_total.2.2": -icl,
            "probe.knockout.untouched": icl, "probe.knockout.induction head": icl / 4, "probe.context.8": icl,
            "probe.context.16": icl / 2}  # fmt: skip


def add_rows(file: Path, keep=lambda config, seed: True) -> pl.DataFrame:
    """Rows of a study with its axes as columns, as `miclab study run` writes them."""
    study = load_study(file, "quick")
    path = make_rows(file.parent, study.name, formula, steps=STEPS, keep=keep)
    frame = pl.read_parquet(path)
    configs = [json.loads(text) for text in frame["config"]]
    axes = [pl.Series(a, [1000 if a == "request.steps" else field_of(c, a) for c in configs]) for a in study.axes]
    frame = frame.with_columns(pl.col("icl_sets").list.mean().alias("icl"), *axes)
    sealed_table.write(frame, path)
    return frame


def report(file: Path, output: Path, mode: str = "compiled", **more: Any) -> Path:
    """The report on a study from the table beside it."""
    study = load_study(file, "quick")
    plan = Plan([study], mode)
    frame, _ = current_rows(study, plan, file.parent / "runs", stored=True)
    return write_study_report(study, plan, frame, output, **more)


def cells_of(file: Path, at: Any = "common") -> StudyCells:
    study = load_study(file, "quick")
    return study_cells(study, Plan([study], "compiled"), sealed_table.read(table_file(study)), at)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A plane of K and B of which one cell failed, one has one seed of two, and one is not run."""
    folder = tmp_path_factory.mktemp("plane")
    # U1's study, so that the claim can be judged: it has no rows.
    shutil.copy(Path(__file__).parent.parent / "studies/complexity.yaml", folder)
    grid = [{"product": {K: [256, 512, 1024, 2048], B: [1, 2]}}]
    file = write_file(folder, "plane", grid)

    def keep(config, seed):
        place = field_of(config, K), field_of(config, B)
        return place != (2048, 1) and place != (1024, 1) and not (place == (512, 2) and seed == 1)

    frame = add_rows(file, keep)
    study = load_study(file, "quick")
    failed = []
    for run in Plan([study], "compiled").runs.values():
        if (run.point.modalities["m1"].classes, run.point.sequence.burstiness) == (1024, 1):
            row = frame.filter(pl.col("run") == frame["run"][0]).tail(1).to_dicts()[0]
            row = {name: None if isinstance(v, (float, list)) else v for name, v in row.items()}
            failed.append({**row, "run": run.hash, "seed": run.seed, "status": "failed", "step": None, K: 1024, B: 1,
                           "reason": f"diverged {HOSTILE}", "config": json.dumps(to_mapping(run.config))})  # fmt: skip
    sealed_table.write(pl.concat([frame, pl.DataFrame(failed, schema=frame.schema)]), table_file(study))
    return file


@pytest.fixture(scope="module")
def page(file) -> Path:
    return report(file, file.parent / "report.html", command="miclab report --study 'a & <b>'")


def test_heatmaps_hold_the_means_of_the_rows(file, page):
    frame = pl.read_parquet(file.parent / "rows/quick/plane.parquet")
    assert cells_of(file).step == STEPS[-1]
    figures = embedded(page)["figures"]
    for score in ("icl", "iwl", "swapped"):
        own = frame.filter(pl.col("step") == STEPS[-1]).group_by(K, B).agg(pl.col(score).mean())
        wanted = {(k, b): v for k, b, v in own.iter_rows()}
        heat = figures[f"phase-0-{score}"]["data"][0]
        for row, b in enumerate((1, 2)):
            for column, k in enumerate((256, 512, 1024, 2048)):
                found = heat["z"][row][column]
                assert (found is None) == ((k, b) not in wanted)
                if found is not None:
                    assert found == pytest.approx(wanted[k, b], abs=1e-4)


def test_intervals_are_those_of_the_ledgers_figures(file, page):
    evidence = Evidence(file.parent, "quick")
    wanted = {p.key: p for p in points(evidence.cells(("plane",), (K, B), ("icl",), at="common"), "icl")}
    text = without_plotly(page)
    cells = cells_of(file)
    for cell, key in enumerate(cells.keys):
        found = cells.scores[cell].get("icl")
        if key not in wanted:
            assert found is None
            continue
        assert found is not None
        mean, interval = found
        assert mean == pytest.approx(wanted[key].mean)
        if key == (512, 2):
            assert interval is None  # One seed.
            continue
        assert (interval.low, interval.high) == pytest.approx((wanted[key].low, wanted[key].high))
        assert f">{interval}<" in text


def test_the_table_has_what_the_heatmap_lacks_and_why(file, page):
    cells = cells_of(file)
    assert cells.counts() == {"finished": 11, "failed": 2, "missing": 3}
    named = {key: cell for cell, key in enumerate(cells.keys)}
    assert cells.blank(named[1024, 1]).startswith("2 of 2 runs failed: diverged")
    assert cells.blank(named[2048, 1]) == "not run yet"
    assert cells.blank(named[512, 2]) == ""
    text = without_plotly(page)
    rows = {m[1]: m[2] for m in re.finditer(r'<tr tabindex="0" data-cell="(\d+)">(.*?)</tr>', text)}
    assert len(rows) == 8
    assert "1 of 2" in rows[str(named[512, 2])]
    assert "1 missing" in rows[str(named[512, 2])]
    assert "not run yet" in rows[str(named[2048, 1])]
    marks = {(n["x"], n["y"]): n["text"] for n in embedded(page)["figures"]["phase-0-icl"]["layout"]["annotations"]}
    assert marks[2, 0] == "failed"
    assert marks[3, 0] == "not run"
    assert marks[1, 1].endswith("*")
    runs = embedded(page)["runs"]
    assert [run["status"] for run in runs if run["cell"] == named[1024, 1]] == ["failed", "failed"]


def test_runs_and_their_curves_are_those_of_the_table(file, page):
    frame = pl.read_parquet(file.parent / "rows/quick/plane.parquet").filter(pl.col("status") == "finished")
    found = {run["hash"]: run for run in embedded(page)["runs"] if run["status"] == "finished"}
    assert set(found) == set(frame["run"])
    for (identity,), rows in frame.group_by("run"):
        run = found[str(identity)]
        assert run["seed"] == rows["seed"][0]
        assert run["curves"]["steps"] == rows["step"].to_list()
        assert run["curves"]["icl"] == pytest.approx(rows["icl"].to_list(), abs=1e-4)
    over = embedded(page)["figures"]["training-1-icl"]["data"]
    line = next(trace for trace in over if trace.get("name") == "K = 2048")
    own = frame.filter((pl.col(K) == 2048) & (pl.col(B) == 2)).group_by("step").agg(pl.col("icl").mean()).sort("step")
    assert line["x"] == own["step"].to_list()
    assert line["y"] == pytest.approx(own["icl"].to_list(), abs=1e-4)


def test_correlations_of_the_page_are_those_of_scipy(file, page):
    frame = pl.read_parquet(file.parent / "rows/quick/plane.parquet").filter(pl.col("step") == STEPS[-1])
    strongest = frame.select(
        pl.max_horizontal("measure.induction_total.2.1", "measure.induction_total.2.2")
    ).to_series()
    r, rho = stats.pearsonr(strongest, frame["icl"])[0], stats.spearmanr(strongest, frame["icl"])[0]
    text = without_plotly(page)
    row = re.search(r'<tr tabindex="0" data-measure="\d">(?:(?!</tr>).)*Induction strength, summed(.*?)</tr>', text)
    assert row
    assert "highest of its heads" in row[1]
    found = re.findall(r"(-?\d\.\d{3}) \[", row[1])
    assert [float(v) for v in found] == pytest.approx([r, rho], abs=6e-4)
    measure = next(m for m in embedded(page)["measures"] if m["name"] == "induction_total.1")
    assert sorted(v for v in measure["values"] if v is not None) == pytest.approx(sorted(strongest), abs=1e-4)
    # A measure that is the same everywhere goes with nothing.
    assert re.search(
        r"Entropy of the query&#39;s attention, layer 0</span></td><td class=\"number\">does not vary", text
    )


def test_correlate_agrees_with_scipy_and_with_the_ledgers_bootstrap():
    generator = np.random.default_rng(3)
    groups = np.repeat(np.arange(12), 3)
    x = np.round(generator.normal(size=12).repeat(3) + generator.normal(0, 0.3, 36), 1)  # Rounded: equal values.
    y = np.round(x + generator.normal(size=36), 1)
    found = correlate(x, y, groups)
    assert found.pearson == pytest.approx(stats.pearsonr(x, y)[0])
    assert found.spearman == pytest.approx(stats.spearmanr(x, y)[0])
    table = prediction.Table({"x": x}, y, groups, frozenset(), frozenset(), 0, ("s",) * 36)
    wanted = table.interval(prediction.correlation(table, "x"))
    for end in ("mean", "low", "high"):
        assert getattr(found.pearson_interval, end) == pytest.approx(getattr(wanted, end))
    assert (found.pearson_interval.unit, found.pearson_interval.count) == ("configuration", 12)
    ranked = table.interval(lambda runs: pearson(stats.rankdata(x[runs]), stats.rankdata(y[runs])))
    assert found.spearman_interval.low == pytest.approx(ranked.low)
    assert found.spearman_interval.high == pytest.approx(ranked.high)


def test_few_configurations_have_no_interval_and_no_spread_no_correlation():
    x = np.array([0.1, 0.2, 0.4, 0.3])
    few = correlate(x, x**2, np.array([0, 0, 1, 1]))
    assert few.pearson > 0.9
    assert few.pearson_interval is None
    flat = correlate(np.full(6, 0.1), np.arange(6.0), np.arange(6))
    assert np.isnan(flat.pearson)
    assert flat.pearson_interval is None
    assert np.isnan(correlate(x[:2], x[:2], np.arange(2)).spearman)


def test_the_threshold_is_passed_between_neighbours_that_have_values():
    doubling, linear = (
        Axis(field=f, name=f, values=v) for f, v in ((K, (256, 512, 2048)), ("m.noise", (0.0, 0.4, 1.0)))
    )
    values = [(256, 0.2), (512, 0.8), (2048, 0.2)]
    assert crossings(values, doubling, 0.5) == pytest.approx([256 * 2**0.5, 1024])
    assert crossings([(0.0, 0.0), (0.4, 1.0), (1.0, 1.0)], linear, 0.25) == pytest.approx([0.1])
    assert crossings([(256, 0.2), (512, None), (2048, 0.8)], doubling, 0.5) == []
    assert crossings([(256, 0.5), (512, 0.5)], Axis(field=K, name="K", values=(256, 512)), 0.5) == []


def test_the_line_is_given_in_words(file, page):
    (_, below, message), (_, at, _) = crossing_rows(cells_of(file), 0.3)
    assert below == []
    assert message == "below it everywhere"
    assert len(at) == 1
    assert 512 < at[0] < 1024
    assert "Where icl passes 0.5" in without_plotly(page)
    line = embedded(page)["figures"]["phase-0-iwl"]["data"][1]
    assert line["contours"]["start"] == line["contours"]["end"] == 0.5
    heat = embedded(page)["figures"]["phase-0-icl"]["data"][0]
    assert [v for row in line["z"] for v in row if v is not None] == pytest.approx(
        [v for row in heat["z"] for v in row if v is not None], abs=1e-4
    )


def test_the_last_rows_can_be_taken_instead(tmp_path):
    file = write_file(tmp_path, "longer", [{"product": {K: [256, 1024]}}])
    frame = add_rows(file)
    # The runs of one point went on.
    longer = frame.filter((pl.col("step") == 1000) & (pl.col(K) == 1024)).with_columns(
        step=pl.lit(2000, dtype=pl.Int64), icl_sets=pl.col("icl_sets").list.eval(pl.element() + 0.5)
    )
    sealed_table.write(pl.concat([frame, longer]).sort("run", "step"), table_file(load_study(file, "quick")))
    common, last = cells_of(file), cells_of(file, "last")
    assert (common.step, last.step) == (1000, -1)
    assert last.scores[1]["icl"][0] == pytest.approx(common.scores[1]["icl"][0] + 0.5)
    assert last.scores[0]["icl"][0] == common.scores[0]["icl"][0]


def test_texts_are_escaped(page):
    text = without_plotly(page)
    assert "<script>window.pwned" not in text
    assert "<img" not in text
    assert text.count("<script") == 3
    assert "&lt;img src=x" in text
    assert "a &amp; &lt;b&gt;" in text
    assert any(HOSTILE in run["reason"] for run in embedded(page)["runs"])


def test_nothing_outside_is_referred_to(page):
    text = re.sub(r"src=x", "", without_plotly(page))
    assert outside(text) == []
    assert len(text) < 400_000


def test_claims_stand_with_their_verdicts(file, page):
    runs = len(Evidence(file.parent, "quick").plan("complexity"))
    text = without_plotly(page)
    section = text[text.index('<section id="claims">') : text.index('<section id="phases">')]
    assert f"{runs} of {runs} runs missing" in section
    assert "no claim of the ledger" in section
    assert "slope of ICL per doubling of K" in section


def test_the_file_is_a_function_of_its_inputs(file, page, tmp_path):
    again = report(file, tmp_path / "again.html", command="miclab report --study 'a & <b>'")
    assert again.read_bytes() == page.read_bytes()


def test_rows_of_another_numeric_mode_are_found_by_their_configuration(file, page, tmp_path):
    eager = embedded(report(file, tmp_path / "eager.html", mode="eager"))
    assert eager["figures"]["phase-0-icl"] == embedded(page)["figures"]["phase-0-icl"]


def test_one_axis_gives_curves_and_categories_lines(tmp_path):
    file = write_file(tmp_path, "codes", [{"product": {CODE: ["rope", "alibi"], K: [256, 512, 1024]}}])
    add_rows(file)
    found = embedded(report(file, tmp_path / "codes.html"))["figures"]
    lines = [trace for trace in found["phase-icl"]["data"] if "customdata" in trace]
    assert [trace["name"] for trace in lines] == ["position code = rope", "position code = alibi"]
    assert [trace["x"] for trace in lines] == [[8.0, 9.0, 10.0]] * 2
    bands = [trace for trace in found["phase-icl"]["data"] if trace.get("fill")]
    assert len(bands) == 2
    assert "phase-0-icl" not in found
    context = found["probe-context"]["data"]
    assert context[0]["x"] == [8, 16]
    assert context[-1]["y"][1] == pytest.approx(context[-1]["y"][0] / 2, abs=0.02)


def test_a_study_of_one_point_and_one_of_categories_alone(tmp_path):
    point = write_file(tmp_path, "point", [])
    add_rows(point)
    text = without_plotly(report(point, tmp_path / "point.html"))
    assert "the study&#39;s one point" in text
    assert "too few runs" in text
    codes = write_file(tmp_path, "only", [{"product": {CODE: ["rope", "alibi"]}}])
    add_rows(codes)
    figure = embedded(report(codes, tmp_path / "only.html"))["figures"]["phase-icl"]
    assert figure["layout"]["xaxis"]["ticktext"] == ["rope", "alibi"]
    assert figure["data"][0]["error_y"]["visible"]


def test_what_blocks_change_distinguishes_cells_and_what_follows_does_not(tmp_path):
    sgd = {"optimiser": {"name": "sgd", "learning_rate": 0.001}}
    file = write_file(
        tmp_path, "blocks",
        [{"product": {K: [256, 512]}},
         {"product": {K: [256, 512]}, "zip": {"request.steps": [9000]}, "config": sgd}],
    )  # fmt: skip
    study = load_study(file, "quick")
    empty = pl.DataFrame(schema={"run": pl.String, "status": pl.String, "step": pl.Int64, K: pl.Int64,
                                 "request.steps": pl.Int64})  # fmt: skip
    cells = study_cells(study, Plan([study], "compiled"), empty)
    assert [axis.field for axis in cells.axes] == [K, "optimiser.name"]
    assert cells.along == ("request.steps",)
    assert cells.keys == ((256, "adamw"), (512, "adamw"), (256, "sgd"), (512, "sgd"))
    assert cells.label(2) == "K = 256, optimiser = sgd"
    with pytest.raises(MiclabError, match="is an axis of"):
        study_cells(study, Plan([study], "compiled"), empty.drop(K))


def test_values_of_axes_are_the_same_from_a_plan_and_from_a_table():
    assert plain_value(["m2", "m1"]) == plain_value('["m2", "m1"]') == ("m2", "m1")
    assert plain_value("[broken") == "[broken"
    assert plain_value([8.0, 4.0]) == plain_value((8, 4))


def test_the_command_writes_a_report_or_says_what_is_wrong(file, tmp_path, capsys):
    output = tmp_path / "r.html"
    requested = ["report", "--study", str(file), "--runs", str(tmp_path / "none"), "--output", str(output)]
    assert main([*requested, "--threshold", "0.25"]) == 0
    assert capsys.readouterr().out.strip() == str(output)
    assert "icl = 0.25" in without_plotly(output) or "icl passes 0.25" in without_plotly(output)
    empty = write_file(tmp_path, "empty", [])
    wrong = {
        "a YAML file that can be read": ["--study", str(tmp_path / "no.yaml")],
        "miclab study run": ["--study", str(empty)],
        "one that the study has: quick": ["--study", str(file), "--preset", "paper"],
        "there is no directory": ["--study", str(file), "--output", str(tmp_path / "no" / "r.html")],
        "not both": ["somerun", "--study", str(file)],
        "between 0 and 1": ["--study", str(file), "--threshold", "1.5"],
    }
    for message, arguments in wrong.items():
        other = str(tmp_path / "other.html")
        assert main(["report", "--runs", str(tmp_path / "none"), "--output", other, *arguments]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["report", "--study", str(file), "--preset", "slow"])
    assert stop.value.code == 2


def test_it_works_in_a_browser(page):
    with browser.opened(page) as tab:
        tab.wait_for_selector("[data-figure='phase-0-icl'] .heatmaplayer")
        data = embedded(page)

        def shown() -> list[str]:
            return tab.locator("#cell [data-place=runs] tbody tr td:nth-child(2)").all_inner_texts()

        def hashes(cell: int) -> list[str]:
            return [run["hash"][:12] for run in data["runs"] if run["cell"] == cell]

        # The cell of the upper right corner: the largest K and B.
        plot = tab.locator("[data-figure='phase-0-icl'] .nsewdrag").first
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        assert box
        cell = data["figures"]["phase-0-icl"]["data"][0]["customdata"][1][3]
        tab.mouse.move(box["x"] + box["width"] * 0.87, box["y"] + box["height"] * 0.25)
        tab.wait_for_selector("[data-figure='phase-0-icl'] .hoverlayer .hovertext")
        tab.mouse.click(box["x"] + box["width"] * 0.87, box["y"] + box["height"] * 0.25)
        tab.wait_for_selector("#cell [data-place=runs] tbody tr")
        assert shown() == hashes(cell)
        assert tab.inner_text("#cell h3") == "Runs at K = 2048, B = 2"
        lines = "document.querySelector('[data-kind=cell]').data"
        assert tab.evaluate(f"{lines}.map((t) => t.name)") == ["seed 0", "seed 1"]
        tab.select_option("#cell [data-choose=score]", "iwl")
        assert tab.evaluate(f"{lines}[0].y") == next(r for r in data["runs"] if r["cell"] == cell)["curves"]["iwl"]

        # The keyboard on a row of the table: a cell whose runs failed.
        failed = next(run["cell"] for run in data["runs"] if run["status"] == "failed")
        tab.focus(f"tr[data-cell='{failed}']")
        tab.keyboard.press("Enter")
        assert shown() == hashes(failed)
        assert "diverged" in tab.inner_text("#cell [data-place=runs]")
        assert not tab.is_visible("[data-kind=cell]")

        # Measures, and a point of the scatter.
        tab.focus("tr[data-measure='1']")
        tab.keyboard.press("Enter")
        tab.wait_for_selector("[data-kind=scatter] .point")
        values = data["measures"][1]["values"]
        trace = "document.querySelector('[data-kind=scatter]').data[0]"
        first = tab.evaluate(f"{trace}.meta.runs[0]")
        assert tab.evaluate(f"{trace}.x[0]") == values[first]
        tab.evaluate(
            f"document.querySelector('[data-kind=scatter]').emit('plotly_click', {{points: [{{customdata: {first}}}]}})"
        )
        assert shown() == hashes(data["runs"][first]["cell"])

        # Other scores and cells by the controls.
        tab.locator("[data-figure='training-0']").scroll_into_view_if_needed()
        tab.wait_for_selector("[data-figure='training-0'] .main-svg")
        tab.select_option("[data-variant=training]", "iwl")
        assert tab.evaluate(
            "document.querySelector(\"[data-figure='training-0']\").layout.yaxis.title.text"
        ).startswith("iwl")
        tab.locator("[data-figure='probe-knockout']").scroll_into_view_if_needed()
        tab.wait_for_selector("[data-figure='probe-knockout'] .bars")
        assert tab.evaluate("window.pwned") is None

        # Narrow and dark.
        tab.set_viewport_size({"width": 380, "height": 800})
        tab.emulate_media(color_scheme="dark")
        # The page forbids eval, which waiting for an expression needs; evaluating one does not.
        for _ in range(100):
            if tab.evaluate("document.documentElement.scrollWidth") <= 380:
                break
            tab.wait_for_timeout(100)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 380
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 25, 29)"
        figure = "document.querySelector(\"[data-figure='phase-0-icl']\")._fullLayout"
        assert tab.evaluate(f"{figure}.paper_bgcolor") == "#16191d"


def test_every_line_chart_shows_its_numbers_under_the_mouse(page, tmp_path):
    with browser.opened(page, "training") as tab:
        tab.wait_for_selector("[data-figure='training-0'] .main-svg")
        assert 0 <= tab.evaluate("document.getElementById('training').getBoundingClientRect().top") < 100
        tab.locator("[data-figure=probe-context]").scroll_into_view_if_needed()
        tab.wait_for_selector("[data-figure=probe-context] .point")
        tab.focus("tr[data-cell='0']")
        tab.keyboard.press("Enter")
        for place in ("figure=training-1", "kind=scatter", "kind=cell"):
            tab.locator(f"[data-{place}]").scroll_into_view_if_needed()
            tab.wait_for_selector(f"[data-{place}] .main-svg")
        found = browser.hover_lines(tab)
    assert {"training-0", "training-1", "probe-context", "scatter", "cell"} <= set(found)
    for name, lines in found.items():
        assert any(re.search(r"\d\.\d{3}", line) for line in lines), (name, lines)
        if name == "cell" or name.startswith("training"):
            assert any(re.match(r"step (0|500|1,000): ", line) for line in lines), (name, lines)
