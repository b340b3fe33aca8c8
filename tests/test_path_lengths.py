"""Effects by the number of heads on a path agree with a recursion by hooks, and are known of the circuit by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_found_circuit import built
from test_paths import both
from tiny import lively_parameters, tiny_config

from miclab.circuits import path_lengths
from miclab.circuits.graph import Graph
from miclab.config.request import SplitSizes
from miclab.errors import RunError
from miclab.model.decoder import Decoder

__all__ = ["built"]


def test_the_numbers_of_heads_agree_with_a_recursion_by_hooks():
    """Fails if a head reads what came through as many heads as its own output counts, or an MLP counts as a head."""
    config = tiny_config(decoder={"layers": 3, "heads": 2, "initial_std": 0.3})
    decoder, parameters = Decoder(config), lively_parameters(config)
    graph, (clean, corrupted) = Graph(decoder, parameters), both(config)
    with torch.no_grad():
        instead = graph.outputs(corrupted).sent
        embedding = graph.outputs(clean).sent[graph.senders[0]]
        found = path_lengths.limited_logits(graph, embedding, instead, torch.ones(len(graph.edges()), dtype=torch.bool))
        names = [f"blocks.{layer}.attention.heads" for layer in range(3)]
        given = decoder.trace(parameters, corrupted, capture=tuple(names)).activations
        for most in range(4):
            computed = {}

            def put(name, computed=computed, given=given):
                # The decoder's own value reads this pass, so that it came through one head more.
                return lambda value: (computed.__setitem__(name, value), given[name])[1]

            expected = decoder.trace(parameters, clean, edits={name: put(name) for name in names}).logits
            torch.testing.assert_close(found[most], expected, rtol=1e-4, atol=1e-5)
            given = computed
        torch.testing.assert_close(found[3], decoder.trace(parameters, clean).logits, rtol=1e-4, atol=1e-5)
        none = path_lengths.limited_logits(graph, embedding, instead, torch.zeros(len(graph.edges()), dtype=torch.bool))
        there = decoder.trace(parameters, corrupted).logits
        torch.testing.assert_close(none, there.expand_as(none), rtol=1e-4, atol=1e-5)


def test_the_circuit_by_hand_has_two_heads_on_its_path(built, monkeypatch):
    """Fails if its effect is found on shorter paths, or the shares do not add up to the circuit's effect."""
    pairs_of_split = path_lengths.pairs_of_split
    monkeypatch.setattr(path_lengths, "world_from_tensors", built_world)

    def of_training(config, world, corruption, modality, split, sizes):
        return pairs_of_split(config, world, corruption, modality, "train", sizes)

    monkeypatch.setattr(path_lengths, "pairs_of_split", of_training)
    found = path_lengths.circuit_path_lengths(built, sizes=SplitSizes(sequences=24, novel_sets=1))
    assert len(found.edges) == 3
    for metric in ("accuracy", "logit_difference"):
        np.testing.assert_allclose(found.shares(metric)[:, 0], [0, 0, 1], atol=1e-4)
    np.testing.assert_allclose(found.faithfulness("accuracy"), 1)


def built_world(config, tensors):
    from test_patching import hand_built

    return hand_built()[2]


def test_a_decoder_that_does_not_answer_has_no_path_lengths(built, monkeypatch):
    """Fails if shares of nothing are given."""
    _, parameters = built.parameters()
    silent = {name: torch.zeros_like(value) for name, value in parameters.items()}
    monkeypatch.setattr(type(built), "parameters", lambda run, step=None: (1, silent))
    with pytest.raises(RunError, match="no circuit"):
        path_lengths.circuit_path_lengths(built, sizes=SplitSizes(sequences=24, novel_sets=1))
