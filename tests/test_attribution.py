"""Attribution agrees with exact patching where it must, and circuits are what explicit hooks make of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from test_paths import both, doubled, main_status
from tiny import lively_parameters, tiny_config

import miclab
from miclab.circuits.attribution import METHODS, agreement, attributed, chosen_edges
from miclab.circuits.attribution_result import Attribution
from miclab.circuits.graph import Graph
from miclab.circuits.paths import edge_logits, pair_of
from miclab.circuits.receiver_inputs import circuit_logits
from miclab.config.request import Request
from miclab.model.decoder import Decoder
from miclab.training.loop import train_config


@pytest.fixture(scope="module")
def graph():
    config = tiny_config(1, decoder={"heads": 2, "attention": {"name": "multi_query"}, "initial_std": 0.3})
    return Graph(Decoder(config), lively_parameters(config, dtype=torch.float64))


def test_a_small_change_is_attributed_exactly(graph):
    """Fails if the estimate of any edge takes the gradient of another input, or the change of another sender: for a
    change so small that the decoder is linear, EAP and EAP-IG are exact."""
    clean = doubled(both(graph.decoder.config)[0])
    generator = torch.Generator().manual_seed(0)
    items = {n: v + 1e-6 * torch.randn(v.shape, generator=generator, dtype=v.dtype) for n, v in clean.items.items()}
    pair = pair_of(graph, clean, replace(clean, items=items), "restore")
    base = pair.values(pair.kept.logits)["logit_difference"]
    exact = {e: pair.values(made)["logit_difference"] - base for e, made in edge_logits(graph, pair, graph.edges())}
    largest = max(float(change.abs().max()) for change in exact.values())
    for estimate, values in attributed(graph, pair, "logit_difference", 2).items():
        change = values["logit_difference"] - base
        torch.testing.assert_close(change, exact[estimate.edge], atol=1e-4 * largest, rtol=1e-3, msg=str(estimate))
    assert {m for e in attributed(graph, pair, "probability", 1) for m in [e.method]} == set(METHODS)


def test_a_circuit_without_one_edge_is_that_edge_patched(graph):
    """Fails if a circuit ablates another edge than it says, or several circuits of one batch are mixed: with every edge
    it is the decoder, with none the other run, without one the exact patch of that edge."""
    clean, corrupted = (doubled(batch) for batch in both(graph.decoder.config))
    pair = pair_of(graph, clean, corrupted, "corrupt")
    edges, instead = graph.edges(), graph.outputs(corrupted).sent
    some = [*range(0, len(edges), 3)]
    kept = torch.ones(len(some) + 2, len(edges), dtype=torch.bool)
    for row, place in enumerate(some):
        kept[row, place] = False
    kept[-1] = False
    found = circuit_logits(graph, pair.kept.sent[graph.senders[0]], instead, kept)
    exact = dict(edge_logits(graph, pair, [edges[place] for place in some]))
    for row, place in enumerate(some):
        torch.testing.assert_close(found[row], exact[edges[place]], msg=str(edges[place]))
    torch.testing.assert_close(found[-2], pair.logits[0])
    torch.testing.assert_close(found[-1], pair.logits[1])


def test_agreement_of_known_effects():
    """Fails if agreement is of signs, if noise around nothing lowers the overlap of the largest, or if a decoder
    without any effect is said to agree."""
    exact = [1.0, -0.9, 0.8, 0.7, 0.01, -0.02, 0.03, 0.04]
    same = agreement([-2 * one for one in exact], exact, 4)
    assert (round(same.correlation, 12), same.overlap, same.is_enough) == (1.0, 1.0, True)
    turned = agreement(exact[::-1], exact, 4)
    assert (turned.correlation < 0, turned.overlap, turned.is_enough) == (True, 0.0, False)
    none = agreement([0.0] * 8, exact, 4)
    assert (math.isnan(none.correlation), math.isnan(none.overlap), none.is_enough) == (True, True, False)


def test_edges_to_compare_hold_the_largest_and_others(graph):
    """Fails if only the edges that attribution favours are checked."""
    edges = list(graph.edges())
    sizes = [float(place) for place in range(len(edges))]
    some = chosen_edges(edges, sizes, 10)
    assert len(set(some)) == 10
    assert set(edges[-5:]) <= set(some)
    assert set(some) & set(edges[:-10])
    assert chosen_edges(edges, sizes, len(edges)) == edges


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run that has hardly begun."""
    request = Request(steps=2, evaluate_every=2, checkpoint_every=2, sequences=4, novel_sets=1)
    return train_config(tiny_config(1), request, tmp_path_factory.mktemp("runs"))[0]


def test_the_command_prints_agreement(begun, capsys, monkeypatch):
    """Fails if estimates are printed without what they agree with, or the command differs from Python."""
    words = ["attribute", str(begun.path), "--sequences", "10", "--novel-sets", "2", "--compared", "9"]
    assert main_status([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    made = miclab.attribute(begun, sequences=10, novel_sets=2, compared=9)
    assert json.loads(json.dumps(made.as_json())) == found
    assert {a["edges"] for a in found["agreement"].values()} == {9}
    assert len(found["edges"]) == 23
    assert made.frame().height == 23
    assert made.plot().get_xlabel() == "exact effect"
    assert main_status(words) == 0
    output = capsys.readouterr().out
    # A run that has hardly begun has no effect to share out, so nothing can agree.
    assert "has no normalised effect" in output
    assert "warning" not in output
    monkeypatch.setattr(Attribution, "has_effect", lambda self, metric=None: True)
    assert main_status(words) == 0
    output = capsys.readouterr().out
    assert "rank correlation" in output
    assert ("warning: EAP " in output) == (not found["agreement"]["eap"]["enough"])
    assert main_status([*words, "--metric", "accuracy"]) == 2
