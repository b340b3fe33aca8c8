"""Circuits over runs: heads, their controls, effects pooled over seeds; which runs are seeds of one experiment."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from tiny import tiny_config

from miclab.circuits.controls import CONTROL_DRAWS, control
from miclab.circuits.effects import Effect
from miclab.circuits.existence import circuit_lines, why_no_circuit
from miclab.circuits.find import CircuitHeads, circuit_heads, measure_column, measure_of, read_name, stored_name
from miclab.circuits.head_names import shown_name
from miclab.circuits.head_strengths import circuits
from miclab.circuits.interventions import knock_out_heads
from miclab.circuits.knockout import Interventions, ablate, knock_out
from miclab.config.parts import ParentConfig
from miclab.config.request import Request, SplitSizes
from miclab.errors import RunError
from miclab.measures.evaluate import SplitScores, check_seeds, evaluate
from miclab.runs.run import Run
from miclab.statistics.intervals import accuracy_interval, clustered_interval
from miclab.training.loop import train_config

SIZES = SplitSizes(sequences=60, novel_sets=3)
DECODER = {"heads": 4, "width": 16, "positions": "rope"}


def trained(root, *, count: int = 1, seed: int = 0, parent: Run | None = None, **parts) -> Run:
    request = Request(steps=2, evaluate_every=2, checkpoint_every=2, sequences=4, novel_sets=1)
    config = replace(tiny_config(count, **{"decoder": DECODER, **parts}), seed=seed)
    if parent is not None:
        config = replace(config, parent=ParentConfig(run=parent.hash, step=2))
    return train_config(config, request, root)[0]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def seeds(root) -> list[Run]:
    """Two seeds of one experiment, of two layers with four heads each."""
    return [trained(root, seed=seed) for seed in (0, 1)]


@contextmanager
def taken_for_formed(reason: Callable[..., str] = lambda heads, icl: ""):
    """Within it a decoder passes for one with a circuit unless `reason` gives one: what is cut and pooled can be tested
    without a long training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("miclab.circuits.knockout.why_no_circuit", reason)
        yield


@pytest.fixture
def formed():
    with taken_for_formed():
        yield


@pytest.fixture(scope="module")
def knocked(seeds):
    with taken_for_formed():
        return knock_out(seeds, sizes=SIZES)


# -- controls ---------------------------------------------------------------------------------------------------------
def circuit_of(layers: int, heads: int, previous=(0, 0), induction=(1, 0)) -> CircuitHeads:
    every = [(i, j) for i in range(layers) for j in range(heads)]
    return CircuitHeads(induction, previous, tuple(h for h in every if h not in (previous, induction)))


@pytest.mark.parametrize("name", ["previous-token head", "induction head", "both"])
def test_controls_are_other_heads_of_the_same_layers(name):
    """Fails if a control holds a head of the circuit, one of another layer, a draw twice, or too few draws."""
    circuit = circuit_of(3, 4)
    heads = circuit.members()[name]
    found = control(circuit, heads, seed=7)
    assert found.note == ""
    # Three other heads in each of the two layers: three draws of one, five of the nine pairs.
    assert len(found.draws) == {1: 3, 2: CONTROL_DRAWS}[len(heads)]
    assert len(set(found.draws)) == len(found.draws)
    for drawn in found.draws:
        assert set(drawn) <= set(circuit.rest)
        assert sorted(layer for layer, _ in drawn) == sorted(layer for layer, _ in heads)
    assert control(circuit, heads, seed=7) == found
    if len(heads) == 2:
        assert any(control(circuit, heads, seed=seed).draws != found.draws for seed in range(5))


def test_controls_of_other_layers_say_so_and_missing_ones_say_why():
    """Fails if a control that is not matched is passed off as one, or a decoder without other heads gets none in
    silence."""
    deep = circuit_of(4, 1)
    found = control(deep, deep.members()["both"], seed=0)
    assert found.draws == (((2, 0), (3, 0)),)
    assert "any layer" in found.note
    assert control(deep, deep.members()["induction head"], seed=0).draws == (((2, 0),), ((3, 0),))
    bare = circuit_of(2, 1)
    for heads in bare.members().values():
        assert control(bare, heads, seed=0).draws == ()
        assert "no head beside these two" in control(bare, heads, seed=0).note
    three = circuit_of(3, 1)
    assert control(three, three.members()["both"], seed=0).note.endswith("the decoder has 1")
    both_in_one = circuit_of(1, 4, (0, 0), (0, 1))
    assert control(both_in_one, both_in_one.members()["both"], seed=0).draws == (((0, 2), (0, 3)),)


def test_a_control_is_the_mean_of_its_draws(seeds):
    """Fails if one draw stands for all, or the mean is taken over something else than draws."""
    work = Interventions(seeds[0], sizes=SIZES)
    effects = {effect.name: effect for effect in work.knockouts()}
    for name, chosen in work.controls.items():
        alone = [work.effect("", knock_out_heads(heads), heads) for heads in chosen.draws]
        found = effects[name]
        assert (found.draws, found.heads) == (chosen.draws, ())
        np.testing.assert_allclose(found.correct, np.mean([e.correct for e in alone], axis=0))
        np.testing.assert_allclose(found.copied, np.mean([e.copied for e in alone], axis=0))
        assert found.accuracy.mean == pytest.approx(np.mean([e.accuracy.mean for e in alone]))


# -- effects ----------------------------------------------------------------------------------------------------------
def test_a_share_is_bootstrapped_by_set_in_pairs():
    """Fails if the ends of one interval are divided by another's mean: here sets differ much, yet in each exactly half
    of the accuracy is left, so the share is one half without doubt."""
    before = np.repeat([[0.2], [0.4], [0.6], [0.8], [1.0]], 10, axis=1)
    effect = Effect("half", ((0, 0),), before / 2, before, before)
    assert effect.accuracy.high - effect.accuracy.low > 0.1
    assert effect.share is not None
    assert (effect.share.low, effect.share.mean, effect.share.high) == pytest.approx((0.5, 0.5, 0.5))
    assert (effect.share.unit, effect.share.count) == ("set", 5)
    nothing = np.zeros((3, 10))
    assert Effect("none", (), nothing, nothing, nothing).share is None


def test_pooled_effects_are_those_of_each_run_clustered_by_seed(seeds, knocked):
    """Fails if runs are mixed up, the circuit of one run is cut in another, or seeds are not clustered."""
    works = [Interventions(run, sizes=SIZES) for run in seeds]
    alone = [{effect.name: effect for effect in work.knockouts()} for work in works]
    assert [e.name for e in knocked.effects] == list(alone[0])
    for effect in knocked.effects:
        parts = [one[effect.name] for one in alone]
        assert [e.knocked_out for e in effect.by_run] == [e.knocked_out for e in parts]
        for found, wanted in (
            (effect.accuracy, accuracy_interval([e.correct for e in parts])),
            (effect.change, clustered_interval([e.correct - e.before for e in parts])),
            (effect.in_context, accuracy_interval([e.copied for e in parts])),
        ):
            assert found == wanted
            assert (found.unit, found.count) == ("seed", 2)
    assert knocked.circuits == tuple(circuit_heads(work.measures) for work in works)
    assert knocked.runs == tuple(run.path.name for run in seeds)
    found = {effect.name: effect for effect in knocked.effects}["induction head"]
    assert [e.heads for e in found.by_run] == [(c.induction,) for c in knocked.circuits if c]


def test_oracles_are_those_of_the_same_sequences(seeds, knocked):
    """Fails if they come from another split or other sequences than the accuracies beside them."""
    scores = [evaluate(run, splits=("icl",), sizes=SIZES, measures=False).scores["icl"] for run in seeds]
    for name, value in knocked.oracles.items():
        assert value == pytest.approx(np.mean([s.oracles[name].mean() for s in scores]))
    assert 0.4 < knocked.oracles["random_context_label"] < 0.7 < knocked.oracles["nearest_exemplar"]
    assert ablate(seeds, sizes=SIZES).oracles == knocked.oracles


def test_a_decoder_without_other_heads_says_why_it_has_no_control(root, formed):
    """Fails if controls are dropped in silence, or zeroing modalities speaks of controls."""
    run = trained(root, decoder={"heads": 1, "positions": "rope"})
    found = knock_out([run], sizes=SIZES)
    names = [effect.name for effect in found.effects]
    assert names[-1] == "both"
    assert set(found.notes) == {"control of previous-token head", "control of induction head", "control of both"}
    assert ablate([run], sizes=SIZES).notes == {}


def test_on_progress_is_called_for_every_run_and_intervention(seeds):
    """Fails if a long command looks dead."""
    calls: list[tuple[int, str]] = []
    ablate(seeds, sizes=SIZES, on_progress=lambda done, text: calls.append((done, text)))
    assert calls[-1] == (2, seeds[1].path.name)
    assert (1, f"{seeds[1].path.name}: labels zeroed") in calls
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_circuits_are_the_strengths_of_each_run_clustered_by_seed(seeds, knocked, formed):
    """Fails if layer and head are swapped, or runs are pooled as sets."""
    found = circuits(seeds, sizes=SIZES)
    measured = [evaluate(run, splits=("icl",), sizes=SIZES).scores["icl"].strengths for run in seeds]
    assert set(found.measures) == set(measured[0])
    for name, row in found.measures.items():
        assert list(row) == [(i, j) for i in range(2) for j in range(4)]
        for (layer, head), interval in row.items():
            assert interval == clustered_interval([m[name][:, layer, head] for m in measured])
    assert found.heads == knocked.circuits
    assert found.steps == (2, 2)


# -- whether there is a circuit at all --------------------------------------------------------------------------------
def novel(correct: float, any_label: float, strength: float, spread: float = 0.01) -> SplitScores:
    """Scores on three sets of novel classes, around these means; the head 1.0 has the strength."""
    moved = np.array([-spread, 0, spread])[:, None]
    strengths = np.zeros((3, 2, 1))
    strengths[:, 1, 0] = strength + moved[:, 0]
    rows = np.ones((3, 5))
    return SplitScores(
        (correct + moved) * rows, rows, {"random_context_label": any_label * rows}, {"induction_total": strengths}
    )


def test_heads_are_a_circuit_only_where_they_answer_from_the_context():
    """Fails if heads of a decoder at chance are named a circuit, or two heads of one layer are."""
    two = circuit_of(2, 1)
    assert why_no_circuit(two, novel(0.9, 0.55, 0.6)) == ""
    assert "not above that of answering with any label" in why_no_circuit(two, novel(0.555, 0.55, 0.6))
    assert "0.550: there is nothing to explain" in why_no_circuit(two, novel(0.06, 0.55, 0.6))
    assert "head, 1.0, looks no more at the right labels" in why_no_circuit(two, novel(0.9, 0.55, 0.005))
    for few in (novel(0.7, 0.5, 0.6, spread=0.3), novel(0.9, 0.55, 0.005)):
        reason = why_no_circuit(two, few)
        assert "3 sets of novel classes cannot decide it: give --novel-sets 8" in reason
        assert "nothing to explain" not in reason
        assert circuit_lines(["a"], [()], [reason])[0].startswith("a: circuit undecided: ")
    assert "single head" in why_no_circuit(None, novel(0.9, 0.55, 0.6))
    flat = replace(two, previous_token=(1, 1))
    assert "in the first layer" in why_no_circuit(flat, novel(0.9, 0.55, 0.6))


def test_a_circuit_is_judged_on_the_same_sequences_as_its_oracle():
    """Fails if two intervals are compared: hard sets lower both scores, and their difference is sure."""
    icl = novel(0.6, 0.5, 0.6, spread=0.0)
    hard = np.array([-0.3, 0.0, 0.3])[:, None]
    moved = SplitScores(icl.correct + hard, icl.in_context, {"random_context_label": 0.5 + hard}, icl.strengths)
    assert moved.interval().low < 0.5
    assert why_no_circuit(circuit_of(2, 1), moved) == ""


def test_nothing_is_called_a_circuit_at_chance(root, seeds):
    """Fails if heads that have learnt nothing are cut as the circuit's."""
    found = knock_out(seeds, sizes=SIZES)
    assert found.circuits == (None, None)
    assert all("nothing to explain" in reason for reason in found.no_circuit)
    assert [e.name for e in found.effects] == ["untouched", *(f"head {i}.{j}" for i in (0, 1) for j in range(4))]
    assert found.notes == {}
    strong = circuits(seeds, sizes=SIZES, split="train")
    assert (strong.heads, strong.no_circuit) == (found.circuits, found.no_circuit)
    assert knock_out(seeds, sizes=SIZES, split="train").no_circuit == found.no_circuit
    single = trained(root, decoder={"heads": 1, "layers": 1, "positions": "rope"})
    assert [e.name for e in knock_out([single], sizes=SIZES).effects] == ["untouched", "head 0.0"]
    for calls in (knock_out([single], sizes=SIZES), circuits([single], sizes=SIZES)):
        assert "single head" in calls.no_circuit[0]
    with pytest.raises(RunError, match="single head"):
        Interventions(single, sizes=SIZES).knockouts()


def test_a_circuit_that_one_seed_lacks_is_not_pooled(seeds):
    """Fails if a mean over seeds mixes circuits with heads that are none."""
    first = circuit_heads(Interventions(seeds[0], sizes=SIZES).measures)
    with taken_for_formed(lambda heads, icl: "" if heads == first else "none"):
        found = knock_out(seeds, sizes=SIZES)
    assert found.no_circuit == ("", "none")
    assert "induction head" not in {e.name for e in found.effects}


# -- which runs are seeds of one experiment ---------------------------------------------------------------------------
def test_runs_that_are_no_seeds_of_one_experiment_are_refused(root, seeds):
    """Fails if a run counts twice, another configuration passes for a seed, or a stage 1 that differs is overlooked."""
    check_seeds(seeds)
    other = trained(root, decoder={**DECODER, "positions": "none"})
    with pytest.raises(RunError, match="more than the seed"):
        check_seeds([seeds[0], other])
    with pytest.raises(RunError, match="given twice"):
        check_seeds([seeds[0], seeds[1], seeds[0]])
    with pytest.raises(RunError, match="at least one RUN"):
        check_seeds([])
    rate = {"optimiser": {"name": "adamw", "batch_size": 16, "learning_rate": 0.5}}
    grown = [trained(root, count=2, seed=i, parent=run) for i, run in enumerate(seeds)]
    odd = trained(root, count=2, seed=2, parent=trained(root, seed=2, **rate))
    check_seeds(grown)
    with pytest.raises(RunError, match="stage-1 runs"):
        check_seeds([*grown, odd])


def test_stored_numbers_of_heads_are_read_as_they_were_written():
    """Fails if columns or stored analyses change their old numbers from 1, or what reads them does not count from 0:
    committed tables are of the old kind."""
    assert measure_column("label_to_item.m1", (0, 3)) == "measure.label_to_item.m1.1.4"
    assert measure_of("measure.label_to_item.m1.1.4") == ("label_to_item.m1", (0, 3))
    assert measure_of("alignment.m2.cka") is None
    assert stored_name("head 9.10 uniform") == "head 10.11 uniform"
    for name in ("head 0.0", "head 11.9 uniform", "induction head", "control of both", "untouched"):
        assert read_name(stored_name(name)) == name


def test_results_give_the_numbers_of_their_plain_data_as_frames(seeds, formed):
    """Fails if a table, a frame and the JSON of one result differ, or a head loses its name."""
    found, plain = knock_out(seeds, sizes=SIZES), knock_out(seeds, sizes=SIZES).as_json()
    frame = found.frame()
    rows = {row["intervention"]: row for row in frame.iter_rows(named=True)}
    for effect in plain["effects"]:
        if effect["accuracy"] is None:
            continue
        row = rows[shown_name(effect["name"], found.true_words)]
        assert row["accuracy"] == pytest.approx(effect["accuracy"]["mean"], abs=1e-6)
        assert row["accuracy.low"] == pytest.approx(effect["accuracy"]["low"], abs=1e-6)
        assert (row["change of accuracy"] is None) == (effect["name"] == "untouched")
    assert rows["head 1.2"]["heads"] == "1.2"
    assert {f"oracle: {name.replace('_', ' ')}" for name in plain["oracles"]} <= set(rows)
    assert "heads" not in ablate(seeds, sizes=SIZES).frame().columns
    measured = circuits(seeds, sizes=SIZES)
    first = measured.frame().row(0, named=True)
    assert first["head 1.3.high"] == measured.measures[first["measure"]][1, 3].high
    assert measured.as_json()["measures"][first["measure"]]["1.3"]["mean"] == pytest.approx(first["head 1.3"], abs=1e-6)
    assert measured.tables()[0].notes[0].startswith(f"{seeds[0].path.name}: ")
