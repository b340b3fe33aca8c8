"""Causal tracing: corruptions change one thing, and a decoder whose circuit is built by hand gives the known answer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import lively_parameters, tiny_config

import miclab
from miclab.circuits.corrupted_pairs import Traced
from miclab.circuits.corruption import Clean, Corruption, corrupt, find_corruption
from miclab.circuits.effect_shares import _accuracy_level
from miclab.circuits.patching import (
    METRICS,
    POINTS,
    Place,
    answer_masks,
    answer_values,
    patched_in,
    role_masks,
    trace_batch,
    trace_split,
)
from miclab.circuits.patching_result import Patching
from miclab.cli import main
from miclab.config.corruptions import CORRUPTIONS
from miclab.config.extensions import load_plugin
from miclab.config.request import Request, SplitSizes
from miclab.errors import ConfigError, MiclabError, RunError
from miclab.model.decoder import Decoder
from miclab.runs.run import Run
from miclab.seeds import stream
from miclab.training.loop import train_config
from miclab.worlds.roles import sequence_roles
from miclab.worlds.sequences import plan_bursty, plan_independent, realise
from miclab.worlds.world import GaussianSource, World, draw_world

load_plugin(Path(__file__).parent / "extensions" / "query_between.py")
NAMES = ("labels_swapped", "items_swapped", "query_other", "query_outside", "example_replaced", "order_shuffled",
         "modality_replaced", "query_noise", "query_between")  # fmt: skip


# -- corruptions ------------------------------------------------------------------------------------------------
def sequences(count: int, seed: int, burstiness: int = 2, bursty: bool = True, **sequence) -> Clean:
    """Eight sequences of a small world with so many modalities."""
    config = tiny_config(count, sequence={"burstiness": burstiness, **sequence})
    world = draw_world(config)
    generator = stream(seed, "sequences of a test")
    plan = (plan_bursty if bursty else plan_independent)(config, world, 8, generator)
    return Clean(config, world, realise(config, world, plan, generator), stream(seed, "corruption of a test"))


def cells(batch, row: int) -> dict[tuple, tuple]:
    """Everything in one sequence, by what it is, as plain numbers."""
    found: dict[tuple, tuple] = {("placement",): (float(batch.placement[row]),)}
    for place, label in enumerate(batch.labels[row].tolist()):
        found["label", place] = (label, *batch.label_vectors[row, place].tolist())
    for name, items in batch.items.items():
        for place, item in enumerate(items[row].tolist()):
            found["item", name, place] = tuple(item)
    return found


def examples(batch, row: int) -> list[list[tuple]]:
    """The examples of one sequence, sorted."""
    found = cells(batch, row)
    context = batch.labels.shape[1]
    return sorted(
        sorted(v for k, v in found.items() if k[-1] == place and k[0] != "placement") for place in range(context)
    )


def test_every_corruption_is_tested():
    """Fails if a corruption is registered that the property below does not hold for."""
    assert set(NAMES) == set(CORRUPTIONS)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15)
@given(st.data())
def test_a_corruption_changes_exactly_one_thing(name, data):
    """Fails if a corrupted sequence differs from its clean one in more than the corruption says, if its answer is not
    the one that its context gives, or if a sequence that could be corrupted is left as it is."""
    count = data.draw(st.integers(1, 3))
    task = data.draw(st.sampled_from(["shared_label", "joint_label"] if count == 2 else ["same_label"]))
    more = {"task": task, "groups": (4, 2)} if task == "joint_label" else {}
    clean = sequences(
        count, data.draw(st.integers(0, 2**20)), data.draw(st.sampled_from([1, 2])), data.draw(st.booleans()), **more
    )
    by_modality = CORRUPTIONS[name].is_by_modality
    modality = data.draw(st.sampled_from(clean.config.order)) if by_modality else ""
    found, modality = find_corruption(f"{name}.{modality}".rstrip("."), clean.config)
    before, context = clean.batch, clean.config.sequence.context
    made, changed = corrupt(found, clean, modality)
    for row in range(len(before)):
        old, new = cells(before, row), cells(made, row)
        differ = {key for key in old if old[key] != new[key]}
        assert bool(differ) == bool(changed[row])
        labels = before.labels[row].tolist()
        answer, target = int(before.target[row]), int(made.target[row])
        if found.changes == "labels":
            assert all(key[0] == "label" for key in differ)
        elif found.changes == "items":
            assert all(key[0] == "item" and key[2] < context for key in differ)
            assert {labels[key[2]] for key in differ} == ({answer, target} if differ else set())
        elif found.changes == "query":
            assert all(key[0] == "item" and key[2] == context for key in differ)
        elif found.changes == "example":
            assert all(key[0] == "item" for key in differ)
            assert {key[2] for key in differ} <= {place for place in range(context) if labels[place] == answer}
            assert len({key[2] for key in differ}) <= 1
        elif found.changes == "modality":
            assert all(key[:2] == ("item", modality) for key in differ)
        else:
            assert examples(before, row) == examples(made, row)
            assert all(key[0] in ("item", "label") and key[-1] != context for key in differ)
        if not found.new_answer:
            assert target == answer
        elif differ:
            assert target != answer
            # The example that the query is of, before and after, carries the answer. A joint label needs every class.
            shown, after = (made if found.changes == "items" else before).classes, made.classes
            own = [p for p in range(context) if all(shown[m][row, p] == after[m][row, context] for m in shown)]
            assert not own or target in [int(made.labels[row, p]) for p in own]
        if name in ("labels_swapped", "items_swapped", "query_other") and len(set(labels)) > 1 and answer in labels:
            assert differ


def test_a_corruption_that_changes_something_else_is_refused():
    """Fails if a corruption of one's own could mislead: it says `query` and moves a label, or keeps a new answer to
    itself."""
    clean = sequences(1, 3)

    def moves_labels(given: Clean):
        return replace(given.batch, labels=given.batch.labels.roll(1, 1))

    def moves_target(given: Clean):
        return replace(given.batch, target=given.batch.target + 1)

    for function, words in ((moves_labels, "changes the query's items alone"), (moves_target, "leaves every answer")):
        with pytest.raises(MiclabError, match=words):
            corrupt(Corruption("mine", function, "query", "mine"), clean)


def test_names_of_corruptions():
    """Fails if a slip of the pen ends in a traceback, or a modality that the run lacks is taken."""
    config = tiny_config(2)
    assert find_corruption("modality_replaced.m2", config)[1] == "m2"
    for name, words in (
        ("labels_swaped", "labels_swapped"),
        ("modality_replaced.m3", r"modality_replaced\.m1, modality_replaced\.m2"),
        ("modality_replaced", r"modality_replaced\.m1"),
        ("query_other.m1", "not of one modality"),
    ):
        with pytest.raises(ConfigError, match=words):
            find_corruption(name, config)


# -- roles ------------------------------------------------------------------------------------------------------
def test_roles_of_positions():
    """Fails if a position has the role of another, or none: x1 x'1 l1 x2 x'2 l2 x3 x'3 l3 xq x'q."""
    own, rival = torch.tensor([[True, False, False]]), torch.tensor([[False, False, True]])
    masks = role_masks(sequence_roles(("m1", "m2"), 3), own, rival)
    found = {name: mask[0].nonzero().flatten().tolist() for name, mask in masks.items()}
    assert found == {
        "own item of m1": [0], "own item of m2": [1], "own label": [2],
        "rival item of m1": [6], "rival item of m2": [7], "rival label": [8],
        "other item of m1": [3], "other item of m2": [4], "other label": [5],
        "query of m1": [9], "query of m2": [10],
    }  # fmt: skip
    with_first = role_masks(sequence_roles(("m1",), 2, 1), own[:, :2])
    assert sum(mask.int() for mask in with_first.values()).tolist() == [[1] * 6]
    assert with_first["first token"].nonzero().tolist() == [[0, 0]]


# -- a circuit built by hand --------------------------------------------------------------------------------------
CLASSES, LABELS, SHARP = 16, 8, 1000.0
ITEM = CLASSES + LABELS


def hand_built() -> tuple[Decoder, dict[str, torch.Tensor], World]:
    """A decoder with an induction circuit and nothing else, and a world of one-hot classes and labels.

    Layer 0 copies the token before into dimensions of its own (S). Layer 1 looks, from the query, for its class in S,
    and writes the label that stands there into the logits. Both softmaxes are so sharp that they round to 0 and 1.
    """
    config = tiny_config(
        1,
        modalities={"m1": {"classes": CLASSES, "dimension": ITEM, "labels": LABELS, "noise": 0.0}},
        sequence={"context": 4, "burstiness": 1, "distinct_labels": "on"},
        decoder={
            "norm": "none", "mlp": "none", "positions": "onehot", "position_slots": 9, "placement": "fixed",
            "width": ITEM + 9 + ITEM + LABELS,
        },
    )  # fmt: skip
    decoder, world = Decoder(config), draw_world(config)
    slot, s, logits = ITEM, ITEM + 9, ITEM + 9 + ITEM
    parameters = {name: torch.zeros(shape) for name, shape in decoder.shapes().items()}
    first, second = (
        {p: parameters[f"decoder.blocks.{i}.attention.{p}"] for p in ("query", "key", "value")} for i in (0, 1)
    )
    for place in range(1, 9):
        first["query"][slot + place, slot + place - 1] = SHARP
    first["key"][slot : slot + 9, slot : slot + 9] = torch.eye(9)
    first["value"][:ITEM, s : s + ITEM] = torch.eye(ITEM)
    second["query"][:CLASSES, :CLASSES] = SHARP * torch.eye(CLASSES)
    second["key"][s : s + CLASSES, :CLASSES] = torch.eye(CLASSES)
    # The first token looks at itself, so its S is its own class: it is made less than any match.
    second["key"][slot, :CLASSES] = -1
    second["value"][CLASSES:ITEM, logits : logits + LABELS] = 10 * torch.eye(LABELS)
    parameters["decoder.readout"][logits : logits + LABELS] = torch.eye(LABELS)
    prototypes = torch.cat([torch.eye(CLASSES), torch.zeros(CLASSES, LABELS)], 1)
    labels = torch.cat([torch.zeros(LABELS, CLASSES), torch.eye(LABELS)], 1)
    return decoder, parameters, replace(world, sources={"m1": GaussianSource(prototypes, 0.0)}, label_embeddings=labels)


READS = {Place("residual", 1, None, "query"), Place("attention", 1, None, "query"), Place("head", 1, 0, "query")}
"""What every corruption that moves the answer passes: the query reads in the last layer."""
KNOWN = {
    "labels_swapped": READS | {
        Place("residual", -1, None, "own label"), Place("residual", 0, None, "own label"),
        Place("value", 1, 0, "own label"),
    },
    "query_other": READS | {
        Place("residual", -1, None, "query"), Place("residual", 0, None, "query"), Place("query", 1, 0, "query"),
    },
    "example_replaced": READS | {
        Place("residual", -1, None, "own item"), Place("value", 0, 0, "own item"),
        Place("attention", 0, None, "own label"), Place("head", 0, 0, "own label"),
        Place("residual", 0, None, "own label"), Place("key", 1, 0, "own label"),
    },
}  # fmt: skip


@pytest.mark.parametrize("direction", ["restore", "corrupt"])
@pytest.mark.parametrize("name", KNOWN)
def test_a_circuit_built_by_hand_is_traced_exactly(name, direction):
    """Fails if any part, layer, head or role is patched elsewhere than it says, or an effect is not normalised: in this
    decoder every place carries either all of the effect or none."""
    decoder, parameters, world = hand_built()
    found = trace_split(
        decoder.config, world, parameters, CORRUPTIONS[name], direction=direction, split="train",
        sizes=SplitSizes(sequences=40),
    )  # fmt: skip
    assert found.left_out == {"mlp": "layer 1 of the decoder has none"}
    assert found.kept == (40, 40)
    metric = "logit_difference"
    clean, corrupted = found.clean[metric][0], found.corrupted[metric][0]
    assert clean == pytest.approx(10)
    assert corrupted == pytest.approx(0 if name == "example_replaced" else -10, abs=1e-5)
    whole = set()
    for place, values in found.patched.items():
        share = (values[metric][0] - corrupted) / (clean - corrupted)
        effect = share if direction == "restore" else 1 - share
        assert effect == pytest.approx(effect[0].round(), abs=1e-5), place
        whole |= {place} if effect[0].round() else set()
    assert whole == KNOWN[name]


def test_all_positions_together_are_the_other_run():
    """Fails if a part of the stream escapes a patch, or one sequence gets the activation of another: the last position
    restored gives the clean answers, and other sequences beside it change nothing."""
    clean = sequences(2, 5)
    decoder, parameters = Decoder(clean.config), lively_parameters(clean.config)
    made, _ = corrupt(CORRUPTIONS["query_other"], clean)
    masks = role_masks(clean.batch.roles, clean.right)
    assert torch.stack([*masks.values()]).int().sum(0).unique().tolist() == [1]
    one = trace_batch(decoder, parameters, clean.batch, made, ["residual", "value"])
    rows = torch.tensor([6, 1])
    some = trace_batch(decoder, parameters, clean.batch.rows(rows), made.rows(rows), ["residual", "value"])
    for place, values in one[2].items():
        torch.testing.assert_close(values["probability"][rows], some[2][place]["probability"])
    last = [p for p in one[2] if p.part == "residual" and p.layer == 1 and p.role == "query of m2"]
    torch.testing.assert_close(one[2][last[0]]["logit_difference"], one[0]["logit_difference"])
    assert {place.part for place in one[2]} == {"residual", "value"}
    assert set(POINTS) > {place.part for place in one[2]}


@pytest.mark.parametrize("direction", ["restore", "corrupt"])
def test_a_patch_is_a_whole_run_with_one_edit(direction):
    """Fails if the layers before a place are left out wrongly: the same bits as by running all of them."""
    clean = sequences(2, 5)
    config = replace(clean.config, decoder=replace(clean.config.decoder, layers=3, heads=2))
    decoder, parameters = Decoder(config), lively_parameters(config)
    made, _ = corrupt(CORRUPTIONS["query_other"], clean)
    masks, found = (
        answer_masks(clean.batch, made),
        trace_batch(decoder, parameters, clean.batch, made, [*POINTS], direction),
    )
    source, base = (clean.batch, made) if direction == "restore" else (made, clean.batch)
    for place, values in found[2].items():
        given = decoder.trace(parameters, source, capture=(place.activation,)).activations[place.activation]
        edits = {place.activation: patched_in(given, masks[place.role], place.head)}
        expected = answer_values(decoder.trace(parameters, base, edits=edits).logits, clean.batch, made)
        assert all(torch.equal(values[metric], expected[metric]) for metric in METRICS), place


def test_a_corruption_without_effect_is_named():
    """Fails if a corruption that changes nothing gives a table of effects."""
    clean = sequences(1, 0)
    nothing = Corruption("mine", lambda given: given.batch, "labels", "nothing")
    with pytest.raises(RunError, match="mine changes no sequence of the split train"):
        trace_split(
            clean.config, clean.world, lively_parameters(clean.config), nothing, split="train",
            sizes=SplitSizes(sequences=8),
        )  # fmt: skip


# -- runs -------------------------------------------------------------------------------------------------------
def traced_by_formula(shift: float) -> Traced:
    """Metrics of three sets of different sizes: corrupted 1, clean 3, patched at the query all of it, at the label
    half, each plus a shift and something that differs between sequences."""
    sets = [np.linspace(0, 0.5 + shift, count) for count in (4, 7, 5)]
    values = {"clean": 3.0, "corrupted": 1.0, "query": 3.0, "own label": 2.0}
    made = {name: {m: [value + shift + one for one in sets] for m in METRICS} for name, value in values.items()}
    made["corrupted"]["accuracy"] = made["clean"]["accuracy"]
    patched = {Place("residual", layer, None, role): made[role] for layer in (-1, 0) for role in ("query", "own label")}
    return Traced(made["clean"], made["corrupted"], patched, kept=(16, 20))


@pytest.mark.parametrize("direction", ["restore", "corrupt"])
def test_effects_over_runs_are_shares_of_the_change(direction):
    """Fails if an effect is not the mean change over the mean whole change, if a metric that the corruption leaves has
    one, or if the frame, the tables and the heat map disagree."""
    both = (traced_by_formula(0.0), traced_by_formula(0.25))
    found = Patching(("a", "b"), (5, 5), "icl", "mine", "something", direction, both)
    half = 0.5
    query, label = (Place("residual", 0, None, role) for role in ("query", "own label"))
    whole = 1 if direction == "restore" else 0
    for place, wanted in ((query, whole), (label, half)):
        effect = found.effect(place)
        assert effect is not None
        assert (effect.mean, effect.low, effect.high, effect.unit) == (wanted, wanted, wanted, "seed")
        assert found.effect(place, "accuracy") is None
    assert any("accuracy has no normalised effect" in note for note in found.notes)
    assert "32 of 40 sequences" in found.notes[0]
    with pytest.warns(UserWarning, match="accuracy has no normalised effect"):
        frame = found.frame()
    row = frame.filter(layer="0", role="own label").row(0, named=True)
    assert (row["logit difference"], row["probability.low"], row["accuracy"]) == (half, half, None)
    rows, roles, values = found.grid()
    assert (rows, roles) == (["residual input", "residual 0"], ["query", "own label"])
    assert values.tolist() == [[whole, half]] * 2
    assert [text.get_text() for text in found.plot().texts] == [f"{whole:.2f}", f"{half:.2f}"] * 2
    assert [str(cell) for cell in found.tables()[1].rows[0][:1]] == ["input"]
    # Without an effect there are no shares, and no table of them.
    assert len(replace(found, metric="accuracy").tables()) == 1


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Run:
    """A run of two modalities that has hardly begun."""
    request = Request(steps=2, evaluate_every=2, checkpoint_every=2, sequences=4, novel_sets=1)
    return train_config(tiny_config(2), request, tmp_path_factory.mktemp("runs"))[0]


def test_a_corruption_of_ones_own_traces_a_run(begun, capsys):
    """Fails if a corruption outside the package is not found by its name, or gives no effects in JSON."""
    plugin = Path(__file__).parent / "extensions" / "query_between.py"
    words = ["--plugin", str(plugin), "patch", str(begun.path), "--corruption", "query_between", "--sequences", "12",
             "--novel-sets", "2", "--parts", "residual", "--json"]  # fmt: skip
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["changes"] == "the query is halfway to an example with another label"
    assert {effect["role"] for effect in found["effects"]} > {"own label", "query of m1", "query of m2"}
    assert found["untouched"]["logit_difference"]["clean"]["unit"] == "set"
    made = miclab.patch(begun, "query_between", parts="residual", sequences=12, novel_sets=2)
    assert json.loads(json.dumps(made.as_json())) == found
    assert main(["patch", str(begun.path), "--corruption", "query_betwen"]) == 2
    assert "query_between" in capsys.readouterr().err
    assert main(["patch", str(begun.path), "--corruption", "modality_replaced.m7"]) == 2
    assert "modality_replaced.m1, modality_replaced.m2" in capsys.readouterr().err


def test_an_accuracy_of_patching_stays_between_0_and_1_and_its_mean_is_that_of_the_sets():
    """Fails if an interval leaves 0 to 1, a set that kept few sequences counts less, or seeds are taken for sets."""
    right, mixed, few = np.ones(20), np.repeat([1.0, 0.0], [15, 5]), np.array([1.0, 0.0])
    for runs, mean, unit in (
        ([[right, mixed]], 0.875, "set"), ([[right, few]], 0.75, "set"), ([[mixed]], 0.75, "sequence"),
        ([[right, mixed], [right, few]], 0.8125, "seed"),
    ):  # fmt: skip
        found = _accuracy_level(runs)
        assert (found.mean, found.unit) == (pytest.approx(mean), unit)
        assert 0 <= found.low < found.mean < found.high <= 1
