"""The report is one file that needs no network, agrees with the run, and survives damage."""

import json
import re
import shutil
from pathlib import Path

import browser
import pytest
import torch
from report_page import embedded, outside, without_plotly

from miclab.circuits.find import CircuitHeads
from miclab.circuits.head_names import PLACES, shown_name
from miclab.cli import main
from miclab.config.decoder import DecoderConfig
from miclab.config.parts import ModalityConfig, NumericsConfig, OptimiserConfig
from miclab.config.request import Request
from miclab.config.run import RunConfig, two_modalities
from miclab.errors import MiclabError, RunError
from miclab.measures.evaluate import evaluate
from miclab.model.decoder import Decoder
from miclab.report import write_report
from miclab.report.existing import check_replaceable
from miclab.report.html import coded, identifiers, shown, shown_mark
from miclab.report.models import Page, Part, page_bytes
from miclab.report.run.collect import EXAMPLES, Formed, evenly, intervention_sizes, losses_of, measured_oracles
from miclab.report.run.figures import attention_figure, attention_groups, loss_figure
from miclab.report.run.names import circuit_parts, formed_names
from miclab.report.run.page import subject_of
from miclab.runs.find import open_run
from miclab.runs.run import Run
from miclab.tables import Code, Mark, table
from miclab.training.loop import train_config
from miclab.worlds.sequences import Batch, config_roles

EAGER = NumericsConfig(mode="eager")
SMALL = OptimiserConfig(name="adamw", batch_size=16)
PARTS = ("curves", "measures", "attention", "explorer", "interventions", "signs", "settings")


def _train(root: Path, config: RunConfig) -> Run:
    request = Request(steps=8, evaluate_every=4, checkpoint_every=4, sequences=10, novel_sets=3)
    return train_config(config, request, root)[0]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def unimodal(root) -> Run:
    modality = ModalityConfig(classes=64, dimension=16, labels=8)
    return _train(root, RunConfig(modalities={"m1": modality}, numerics=EAGER, optimiser=SMALL))


@pytest.fixture(scope="module")
def multimodal(root) -> Run:
    modalities = {
        name: ModalityConfig(classes=64, dimension=16 // (i + 1), labels=8) for i, name in enumerate(two_modalities())
    }
    decoder = DecoderConfig(layers=2, heads=2)
    return _train(root, RunConfig(modalities=modalities, numerics=EAGER, optimiser=SMALL, decoder=decoder))


@pytest.fixture(scope="module")
def page(root, unimodal, multimodal) -> Path:
    path = root / "report.html"
    return write_report([unimodal, multimodal], path, command="miclab report a 'b & <b>'")


def test_nothing_outside_is_referred_to(page):
    text = without_plotly(page)
    assert outside(text) == []
    assert "default-src 'none'" in text


def test_the_file_is_small_and_a_function_of_its_inputs(page, root, unimodal):
    assert len(without_plotly(page)) < 800_000
    first, second = (write_report([unimodal], root / name).read_bytes() for name in ("one.html", "two.html"))
    assert first == second


def test_embedded_numbers_agree_with_the_rows(page, unimodal, multimodal):
    for found, run in zip(embedded(page)["runs"], (unimodal, multimodal), strict=True):
        rows = run.rows()
        assert found["steps"] == [row["step"] for row in rows]
        for split in ("train", "icl", "swapped", "iwl"):
            assert found["accuracy"][split] == pytest.approx([row["accuracy"][split] for row in rows], abs=1e-4)
        assert set(found["measures"]) == set(rows[0]["measures"])
        values = found["measures"]["induction_total"]["values"]
        assert values[-1][1][0] == pytest.approx(rows[-1]["measures"]["induction_total"][1][0], abs=1e-4)


def test_the_line_of_copying_is_the_measured_oracle(page, root, unimodal):
    """B/N leaves out that two classes of a context may carry the same label."""
    scores = evaluate(unimodal, splits=("icl",), sizes=intervention_sizes(unimodal.config), measures=False).scores
    wanted = scores["icl"].oracles["random_context_label"].mean()
    assert measured_oracles(unimodal)["random_context_label"] == pytest.approx(wanted)
    assert wanted > unimodal.config.sequence.burstiness / unimodal.config.sequence.context
    figures = embedded(page)["figures"]
    assert pytest.approx(wanted) in [shape["y0"] for shape in figures["run0-accuracy"]["layout"]["shapes"]]
    for bars in ("knockouts", "ablations"):
        assert pytest.approx(wanted) in [shape["x0"] for shape in figures[f"run0-{bars}"]["layout"]["shapes"]]
    assert f"scores {wanted:.3f} on icl (measured)" in without_plotly(page)


def test_alignment_is_drawn_over_training_where_there_is_one(page, multimodal):
    found = embedded(page)
    wanted = [row["alignment"]["m2"] for row in multimodal.rows()]
    assert found["runs"][1]["alignment"]["m2"] == wanted
    assert found["runs"][0]["alignment"] == {}
    assert "run0-alignment" not in found["figures"]
    cka, null = found["figures"]["run1-alignment"]["data"]
    assert cka["y"] == pytest.approx([entry["cka"] for entry in wanted], abs=1e-5)
    assert null["y"] == pytest.approx([entry["null_high"] for entry in wanted], abs=1e-5)
    assert found["figures"]["run1-distance"]["data"][0]["y"] == pytest.approx([e["distance"] for e in wanted], abs=1e-4)


def test_controls_are_shown_or_missed_in_words(page):
    text, figures = without_plotly(page), embedded(page)["figures"]
    # Eight steps make no circuit, so no head is called a part of one.
    named = "Control of strongest head (previous token), control of strongest head (induction), control of both"
    assert f"{named}: none, since" in text
    assert "control of both (mean of 1)" in figures["run1-knockouts"]["data"][0]["y"]


def test_attention_rows_sum_to_one_and_are_named_by_role(page, multimodal):
    attention = embedded(page)["runs"][1]["attention"]
    assert attention["names"][:4] == ["x1", "x'1", "l1", "x2"]
    assert attention["names"][-2:] == ["xq", "x'q"]
    assert attention["steps"] == multimodal.checkpoints
    length = len(attention["names"])
    assert len(attention["examples"]) == len(attention["example_names"]) == EXAMPLES
    for maps in (attention["mean"], *attention["examples"]):
        triangle = maps[-1][1][1]
        assert len(triangle) == length * (length + 1) // 2
        assert sum(triangle[-length:]) == pytest.approx(1000, abs=length / 2)


def test_texts_are_escaped_and_parts_exist(page):
    text = without_plotly(page)
    assert "miclab report a &#39;b &amp; &lt;b&gt;&#39;" in text
    for part in PARTS:
        assert text.count(f'<section class="{part}" id="') == 2, part
    for bars in ("knockouts", "ablations"):
        assert embedded(page)["figures"][f"run1-{bars}"]["data"]


def test_damage_is_named_and_the_rest_is_shown(tmp_path, root, unimodal):
    path = Path(shutil.copytree(unimodal.path, tmp_path / unimodal.path.name))
    damaged = [path / "checkpoints/000000004.safetensors", path / "rows/000000008.jsonl"]
    for file in damaged:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    report = write_report([open_run(path)], tmp_path / "report.html")
    text, found = without_plotly(report), embedded(report)["runs"][0]
    for file in damaged:
        assert text.count(f"{file} is damaged") == 1
    assert 4 not in found["attention"]["steps"]
    assert found["attention"]["steps"][-1] == 8
    assert found["steps"][-1] == 4


def test_a_run_without_any_good_checkpoint_still_has_its_curves(tmp_path, unimodal):
    path = Path(shutil.copytree(unimodal.path, tmp_path / unimodal.path.name))
    for file in (path / "checkpoints").iterdir():
        file.write_bytes(b"")
    report = write_report([open_run(path)], tmp_path / "report.html")
    found = embedded(report)
    assert found["runs"][0]["attention"] is None
    assert found["figures"]["run0-accuracy"]["data"]
    assert found["runs"][0]["explorer"] is None
    assert "No attention map could be made" in report.read_text()
    assert "There is no explorer." in report.read_text()


def test_no_run_and_no_place_are_refused(tmp_path, unimodal):
    with pytest.raises(RunError, match="no run"):
        write_report([], tmp_path / "report.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="Cannot write"):
        write_report([unimodal], tmp_path / "file" / "report.html")


def test_a_report_replaces_itself_and_nothing_else(page, tmp_path, unimodal, multimodal, capsys):
    """Fails if a report could destroy a file that it does not make again."""
    both = subject_of([unimodal, multimodal])
    check_replaceable(page, both)
    check_replaceable(tmp_path / "new.html", both)
    for subject in (subject_of([multimodal, unimodal]), subject_of([unimodal]), "demo"):
        with pytest.raises(MiclabError, match=r"a report on something else.*--overwrite"):
            check_replaceable(page, subject)
    notes = tmp_path / "notes.html"
    notes.write_text("<p>my notes</p>")
    requested = ["report", str(unimodal.path), "--output", str(notes)]
    assert main(requested) == 2
    assert "no report of miclab" in capsys.readouterr().err
    assert notes.read_text() == "<p>my notes</p>"
    assert main([*requested, "--overwrite"]) == main(requested) == 0
    assert embedded(notes)["runs"][0]["hash"] == unimodal.hash


def test_evenly_keeps_both_ends():
    assert evenly(list(range(10)), 20) == list(range(10))
    assert evenly(list(range(10)), 4) == [0, 3, 6, 9]
    assert evenly(list(range(10)), 1) == [9]


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (2, 1), (3, 2), (12, 8)])
def test_every_head_has_one_map(layers, heads):
    names = [f"p{i}" for i in range(26)]
    groups = attention_groups(layers, heads)
    figures = [attention_figure(names, group) for group in groups]
    shown = [tuple(trace["meta"]) for figure in figures for trace in figure["data"]]
    assert sorted(shown) == [(i, j) for i in range(layers) for j in range(heads)]
    for figure in figures:
        for name, axis in figure["layout"].items():
            if name[1:].startswith("axis"):
                assert 0 <= axis["domain"][0] < axis["domain"][1] <= 1


def test_it_works_in_a_browser(page):
    with browser.opened(page, viewport={"width": 1280, "height": 800}) as tab:
        tab.wait_for_selector("#run0 [data-kind=attention] .heatmaplayer")
        assert not tab.is_visible("#run1")
        tab.click("#tab1")
        tab.wait_for_selector("#run1 [data-kind=attention] .heatmaplayer")
        assert not tab.is_visible("#run0")
        for part in PARTS:
            assert tab.is_visible(f"#run1 section.{part}"), part
        assert tab.locator("#run1 [data-figure] .main-svg").count() >= 4

        maps = "document.querySelector('#run1 [data-kind=attention]').data"
        assert tab.evaluate(f"{maps}.length") == 4
        before = tab.evaluate(f"JSON.stringify({maps}[3].z)")
        tab.locator("#run1 [data-choose=checkpoint]").fill("0")
        assert tab.inner_text("#run1 .attention-controls output").startswith("step 0")
        after = tab.evaluate(f"JSON.stringify({maps}[3].z)")
        assert before != after
        # It opens on one sequence, since a mean over sequences hides induction.
        assert tab.input_value("#run1 [data-choose=sequences]") == "0"
        tab.select_option("#run1 [data-choose=sequences]", "1")
        shown = tab.evaluate(f"JSON.stringify({maps}[3].z)")
        assert shown != after
        tab.select_option("#run1 [data-choose=sequences]", "mean")
        assert tab.evaluate(f"JSON.stringify({maps}[3].z)") not in (shown, after)

        lines = "document.querySelector('#run1 [data-kind=measures]').data"
        before = tab.evaluate(f"JSON.stringify({lines}[0].y)")
        tab.select_option("#run1 [data-choose=measure]", "previous_token_1")
        assert tab.evaluate(f"JSON.stringify({lines}[0].y)") != before
        tab.select_option("#run1 [data-choose=axis]", "linear")
        assert tab.evaluate(f"{lines}[0].x") == embedded(page)["runs"][1]["measure_steps"]


def test_a_sequence_is_changed_in_the_browser(page, multimodal):
    """The page's answer and maps are PyTorch's on the items that its controls make, after every kind of change."""
    config, (_, parameters) = multimodal.config, multimodal.parameters()
    decoder, prototypes = Decoder(config), multimodal.world_tensors()["prototypes.m2"]
    with browser.opened(page, "run1") as tab:
        tab.wait_for_selector("#run1 [data-kind=explorer] .heatmaplayer")

        def check(edits: dict) -> dict:
            state = tab.evaluate("explorers.get('1').state()")
            items = {name: torch.tensor([rows]).float() for name, rows in state["items"].items()}
            labels = torch.tensor([state["labels"]])
            vectors = multimodal.world_tensors()["label_embeddings"][labels]
            classes = {name: torch.tensor([rows]) for name, rows in state["classes"].items()}
            batch = Batch(items, vectors, labels, labels[:, 0], classes, torch.zeros(1), config_roles(config))
            wanted = decoder.trace(parameters, batch, capture=("blocks.1.attention.pattern",), edits=edits)
            shown = tab.evaluate("document.querySelector('#run1 [data-kind=explorer]').data[3].z")
            row = wanted.activations["blocks.1.attention.pattern"][0, 1, -1]
            assert shown[-1] == pytest.approx(row.tolist(), abs=1e-4)
            best = wanted.logits.softmax(-1).max()
            stated = re.search(r"with probability ([0-9.]+)\. ", tab.inner_text("#run1 .answers p"))
            assert stated
            assert float(stated[1]) == pytest.approx(float(best), abs=6e-4)
            return state

        first = "#run1 .sequence tbody tr:first-child"
        start = check({})
        tab.locator("#run1 [data-choose=noise-m2]").fill("0")
        tab.select_option(f"{first} [data-modality=m2]", "5")
        tab.select_option(f"{first} [data-label]", "7")
        changed = check({})
        assert changed["labels"][0] == 7
        assert changed["items"]["m2"][0] == pytest.approx(prototypes[5].tolist(), abs=1e-6)
        tab.click(f"{first} [data-move=down]")
        moved = check({})
        assert moved["labels"][:2] == changed["labels"][1::-1]
        assert moved["items"]["m1"][:2] == changed["items"]["m1"][1::-1]
        tab.locator("#run1 [data-head='0.0']").uncheck()
        check({"blocks.0.attention.heads": lambda heads: heads * torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)})
        tab.click("#run1 [data-act=again]")
        assert check({}) == start
        # The page's normal numbers have mean 0 and variance 1/D.
        tab.locator("#run1 [data-choose=noise-m1]").fill("100")
        noise = torch.tensor(check({})["items"]["m1"]) * 4
        assert abs(float(noise.mean())) < 0.4
        assert 0.6 < float(noise.std()) < 1.4
        assert noise.unique(dim=0).shape[0] == config.sequence.context + 1


def test_every_line_chart_shows_its_numbers_under_the_mouse(page, multimodal):
    """Fails if a chart names no step, or a placeholder in place of a number."""
    charts = {"overview", "measures", *(f"run1-{n}" for n in ("accuracy", "loss", "alignment", "distance"))}
    steps = "|".join(str(row["step"]) for row in multimodal.rows())
    with browser.opened(page, "run1") as tab:
        tab.wait_for_selector("#run1 [data-kind=attention] .heatmaplayer")
        for axis in ("log", "linear"):
            tab.select_option("#run1 [data-choose=axis]", axis)
            found = browser.hover_lines(tab)
            assert set(found) == charts
            for name, lines in found.items():
                assert any(re.match(rf"step[ :]+({steps})\b", line) for line in lines), (name, lines)
                assert any(re.search(r"\d\.\d{3}", line) for line in lines), (name, lines)
                assert not any(line.rstrip().endswith("-") for line in lines), (name, lines)


def test_links_find_their_part_and_its_tab(page, unimodal, multimodal):
    own = multimodal.path.name
    with browser.opened(page, f"{own}-interventions") as tab:
        tab.wait_for_selector("#run1 [data-kind=attention] .heatmaplayer")
        assert not tab.is_visible("#run0")
        top = f"document.getElementById('{own}-interventions').getBoundingClientRect().top"
        assert 0 <= tab.evaluate(top) < 300
        # Every entry of a list of contents has its place, and every id is there once.
        ids = tab.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
        assert len(ids) == len(set(ids))
        links = tab.evaluate("[...document.querySelectorAll('a[href]')].map((e) => e.getAttribute('href').slice(1))")
        assert set(links) <= set(ids)
        assert {f"{run.path.name}-{part}" for run in (unimodal, multimodal) for part in PARTS} <= set(links)
        tab.evaluate(f"location.hash = '{unimodal.path.name}'")
        tab.wait_for_selector("#run0 [data-kind=attention] .heatmaplayer")
        assert not tab.is_visible("#run1")


def test_a_phone_sees_all_of_it(page):
    """Fails if the page is wider than the screen, or a column lies outside it."""
    phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    with browser.opened(page, "run1", **phone) as tab:
        tab.wait_for_selector("#run1 [data-kind=attention] .heatmaplayer")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        outside = """[...document.querySelectorAll("#overview td, #run1 .signs td, #run1 .main-svg")]
            .filter((e) => e.textContent && e.getBoundingClientRect().right > 390).length"""
        assert tab.evaluate(outside) == 0
        assert tab.inner_text("#overview .mark") == "finished"
        # Tabs stay on top in one line, however many there are.
        assert tab.evaluate("document.querySelector('.tabs').offsetHeight") < 844 / 10


def test_heat_maps_of_models_have_no_zero_lines(tmp_path):
    """Fails if a line is drawn through the cells of row or column 0."""
    heat = {"data": [{"type": "heatmap", "z": [[0, 1], [1, 0]], "x": [0, 1], "y": [0, 1]}], "layout": {"height": 300}}
    file = tmp_path / "models.html"
    file.write_bytes(page_bytes("t", "miclab", Page([Part(title="induction", figure="h")], {"h": heat})))
    with browser.opened(file) as tab:
        tab.wait_for_selector("[data-figure=h] .heatmaplayer image")
        assert tab.locator(".zerolinelayer path").count() == 0


def test_heads_are_named_as_a_circuit_only_where_there_is_one():
    heads = CircuitHeads(induction=(1, 0), previous_token=(0, 1), rest=())
    formed = circuit_parts(heads, PLACES)
    assert formed == {(1, 0): "induction head", (0, 1): "previous-token head"}
    named = formed_names(
        [Formed(heads, "too weak"), Formed(heads, "", frozenset(PLACES)), Formed(None, "a single head")]
    )
    assert set(named[0].values()) == {"strongest head (induction)", "strongest head (previous token)"}
    assert set(named[1].values()) == set(formed.values())
    assert named[2] == {}
    only = frozenset({"previous-token head"})
    assert shown_name("control of induction head", only) == "control of strongest head (induction)"
    assert shown_name("control of previous-token head", only) == "control of previous-token head"


def test_the_maps_titles_follow_the_checkpoints(page, unimodal):
    """Neither an untrained decoder nor one of eight steps is said to have an induction head."""
    run = embedded(page)["runs"][0]
    assert len(run["circuit"]["heads"]) == len(run["attention"]["steps"])
    assert all("strongest" in name for at in run["circuit"]["heads"] for name in at.values())
    assert "induction head 1.0" not in json.dumps(embedded(page)["figures"]["run0-knockouts"])


def test_backticks_are_code_and_hostile_texts_stay_inert():
    assert coded("see `miclab align`, or `x`") == "see <code>miclab align</code>, or <code>x</code>"
    assert coded("a ` b") == "a ` b"
    assert coded("`<img src=x>` <b>") == "<code>&lt;img src=x&gt;</code> &lt;b&gt;"
    assert coded(shown_mark(Mark("<i>", "good"))) == '<span class="mark good">&lt;i&gt;</span>'
    made = shown(table("", ["`a`"], [["<b>"], [Code("`c`")], ["see `d`"]]))
    assert "<code>a</code>" in made
    assert "&lt;b&gt;" in made
    assert "<code>`c`</code>" in made
    assert "see <code>d</code>" in made


def test_every_term_of_the_loss_is_drawn():
    """Fails if a term that rows hold is no line, or is drawn at a step whose row lacks it."""
    rows = [{"loss": 2.0, "loss.cross_entropy": 1.5}, {"loss": 1.5, "loss.cross_entropy": 1.0, "loss.own_term": 0.5}]
    figure = loss_figure([0, 8], losses_of(rows), 3.0)
    lines = {trace["name"]: (trace["x"], trace["y"]) for trace in figure["data"]}
    assert lines == {"loss": ([0, 8], [2.0, 1.5]), "cross entropy": ([0, 8], [1.5, 1.0]), "own term": ([8], [0.5])}
    assert figure["layout"]["showlegend"]
    assert not loss_figure([0], losses_of(rows[:1]) | {"loss.cross_entropy": [None]}, 3.0)["data"][1]["x"]


def test_ids_are_those_of_the_names_and_never_twice():
    names = ["unimodal-rope-1a2b", "a b", "a/b", "<script>", "\u2028", ""]
    found = identifiers(names)
    assert found[:3] == ["unimodal-rope-1a2b", "a-b", "a-b-2"]
    assert len(set(found)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", one) for one in found)
