"""Found circuits: the search finds what is needed, and the circuit built by hand is the one that is found."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_patching import hand_built
from test_paths import main_status

import miclab
from miclab.circuits.circuit_drawing import GRAPHML
from miclab.circuits.circuit_search import controls, search
from miclab.config.request import Request
from miclab.report.run.circuit import circuit_view, report_circuit
from miclab.runs.run import Run
from miclab.training.loop import train_config

KNOWN = ["embedding -> value of 0.0", "head 0.0 -> key of 1.0", "head 1.0 -> logits"]


@settings(max_examples=40)
@given(st.data())
def test_the_search_finds_the_edges_that_are_needed(data):
    """Fails if an edge that is needed is lost, or one that is not needed is kept, whatever attribution says."""
    count = data.draw(st.integers(2, 40))
    needed = set(data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=6, unique=True)))
    scores = data.draw(st.lists(st.floats(-1, 1), min_size=count, max_size=count))
    judgements = []

    def judge(kept: torch.Tensor) -> torch.Tensor:
        judgements.append(len(kept))
        return torch.tensor([float(needed <= set(row.nonzero().flatten().tolist())) for row in kept])

    assert search(judge, scores, 0.9) == sorted(needed)
    # Every edge alone would take `count` judgements for each edge that goes.
    assert len(judgements) <= 2 * (2 + count.bit_length()) * (2 + len(needed))


@settings(max_examples=20)
@given(st.lists(st.floats(0.01, 1), min_size=3, max_size=12), st.floats(0.1, 1.0))
def test_a_circuit_is_faithful_and_none_of_its_edges_can_go(weights, faithful):
    """Fails if the circuit keeps less than was judgements for, or if one edge could go: here each adds its weight."""
    weight = torch.tensor(weights, dtype=torch.float64) / sum(weights)

    def judge(kept: torch.Tensor) -> torch.Tensor:
        return kept.double() @ weight + 1e-9

    found = search(judge, weights, faithful)
    assert weight[found].sum() >= faithful - 1e-6
    assert all(weight[found].sum() - weight[one] < faithful for one in found)


def test_what_a_circuit_is_compared_with():
    """Fails if a control is not of the circuit's size, or all but it keeps one of its edges."""
    masks = controls([1, 4], 6, 5)
    assert masks["circuit"].tolist() == [[False, True, False, False, True, False]]
    assert masks["all but"].tolist() == [[True, False, True, True, False, True]]
    assert [row.nonzero().flatten().tolist() for row in masks["without"]] == [[4], [1]]
    assert masks["random"].sum(1).tolist() == [2] * 5
    assert len({tuple(row) for row in masks["random"].tolist()}) > 1


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A run whose decoder is the induction circuit built by hand."""
    decoder, parameters, world = hand_built()
    request = Request(steps=1, evaluate_every=1, checkpoint_every=1, sequences=4, novel_sets=1)
    run = train_config(decoder.config, request, tmp_path_factory.mktemp("runs"))[0]
    patch = pytest.MonkeyPatch()
    patch.setattr(Run, "parameters", lambda run, step=None: (1, parameters))
    patch.setattr("miclab.circuits.found_circuit.world_from_tensors", lambda config, tensors: world)
    yield run
    patch.undo()


def test_the_circuit_built_by_hand_is_found(built, tmp_path, capsys):
    """Fails if the circuit has another edge than the three that carry the items to the answer, if its checks say
    otherwise, or if a file holds another circuit than the table."""
    files = [tmp_path / f"c.{kind}" for kind in ("json", "graphml", "svg")]
    words = ["circuit", str(built.path), "--split", "train", "--sequences", "24"]
    assert main_status([*words, "--json", "--output", *map(str, files)]) == 0
    found = json.loads(capsys.readouterr().out)
    edges = {f"{edge['sender']} -> {edge['receiver']}": edge for edge in found["edges"]}
    assert sorted(edges) == KNOWN
    assert {edge["loss"]["mean"] for edge in edges.values()} == {1.0}
    assert edges[KNOWN[0]]["role"] in ("own item", "rival item")
    assert edges[KNOWN[1]]["role"] in ("own label", "rival label")
    judged = {(one["ablation"], one["metric"]): one for one in found["judged"]}
    one = judged["resample", "accuracy"]
    assert (one["every_edge"]["mean"], one["no_edge"]["mean"], one["faithfulness"]["mean"]) == (1, 0, 1)
    assert one["all_but"]["mean"] == 0
    assert max(one["random"]) < 1
    assert {ablation for ablation, _ in judged} == {"resample", "mean", "zero"}
    assert json.loads(files[0].read_text()) == found
    graph = ElementTree.fromstring(files[1].read_text()).find(f"{{{GRAPHML}}}graph")
    assert graph is not None
    shown = [(edge.get("source"), edge.get("target")) for edge in graph.iter(f"{{{GRAPHML}}}edge")]
    assert sorted(shown) == [("embedding", "head 0.0"), ("head 0.0", "head 1.0"), ("head 1.0", "logits")]
    assert {node.get("id") for node in graph.iter(f"{{{GRAPHML}}}node")} == {name for ends in shown for name in ends}
    ElementTree.fromstring(files[2].read_text())
    assert main_status([*words, "--output", str(files[0])]) == 2
    assert "--overwrite" in capsys.readouterr().err
    made = miclab.find_circuit(built, split="train", sequences=24)
    assert json.loads(json.dumps(made.as_json())) == found
    # With means in place of corrupted outputs, the query's own class must be carried as well.
    more = miclab.find_circuit(built, split="train", sequences=24, ablation="mean")
    assert {*KNOWN, "embedding -> query of 1.0", "embedding -> value of 1.0"} <= {str(one.edge) for one in more.edges}


def test_names_of_others_are_escaped(built):
    """Fails if the name of a run breaks a file: it may hold any letters."""
    made = replace(miclab.find_circuit(built, split="train", sequences=16), run="<b>&\"$x_1$'")
    for kind in ("graphml", "svg"):
        text = made.file(kind).decode()
        ElementTree.fromstring(text)
        assert "<b>" not in text
    drawn = made.plot()
    assert drawn.get_title().startswith("<b>&")
    assert {text.get_text() for text in drawn.texts} >= {"embedding", "head 0.0", "head 1.0", "logits"}


def test_the_report_shows_the_circuit_of_a_small_decoder(built, monkeypatch):
    """Fails if the picture is not of the circuit, its faithfulness is missing, or large decoders are searched."""
    view = circuit_view(miclab.find_circuit(built, split="train", sequences=24))
    kind, _, picture = view["picture"].partition(",")
    assert kind == "data:image/svg+xml;base64"
    ElementTree.fromstring(base64.b64decode(picture))
    assert view["words"].startswith("3 of ")
    assert "did not see: 1.000" in view["words"]
    assert [len(table.rows) for table in view["tables"]] == [3, 9]
    assert circuit_view(None) is None
    monkeypatch.setattr("miclab.report.run.circuit.MOST_LAYERS", 1)
    assert report_circuit(built, 1) is None


def test_what_cannot_be_found_is_named(built, tmp_path, capsys):
    """Fails if a refusal is not a line that says what is allowed."""
    for more, text in (
        (["--faithful", "0"], "above 0 and at most 1"),
        (["--interpolations", "0"], "interpolations = 0"),
        (["--output", str(tmp_path / "c.gexf")], r"\.graphml"),
    ):
        assert main_status(["circuit", str(built.path), *more]) == 2
        assert re.search(text, capsys.readouterr().err)


def test_a_circuit_is_found_under_other_choices(built, capsys):
    """Fails if a split, corruption, metric or ablation breaks the search, or the answer does not say which it was."""
    choices = {"split": "train", "corruption": "query_outside", "metric": "probability", "ablation": "zero"}
    more = [text for name, value in choices.items() for text in (f"--{name}", value)]
    assert main_status(["circuit", str(built.path), "--sequences", "24", "--json", *more]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: found[name] for name in choices} == choices


def test_a_decoder_that_does_not_answer_has_no_circuit(built, monkeypatch, capsys):
    """Fails if a search is done where every edge is no better than none."""
    _, parameters = built.parameters()
    silent = {name: torch.zeros_like(value) for name, value in parameters.items()}
    monkeypatch.setattr(Run, "parameters", lambda run, step=None: (1, silent))
    assert main_status(["circuit", str(built.path), "--split", "train", "--sequences", "16"]) == 2
    assert "nothing for a circuit to keep" in capsys.readouterr().err.replace("\n", " ")
