"""Siblings of stage-2 runs, frozen heads, transplants, drift: what distinguishes a refined circuit from a new one."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_patching import hand_built
from tiny import MODALITIES, lively_parameters, tiny_config
from tiny_study import planned, tiny_study

import miclab
from miclab.circuits.checkpoint_pair import CheckpointPair
from miclab.circuits.circuit_match import chance_overlap, matched_chance, matched_overlap
from miclab.circuits.circuit_overlap import Circuit, Overlap, overlap_of, stored_overlap
from miclab.circuits.corrupted_pairs import pairs_of_split
from miclab.circuits.drift import drift, leading_angles, moved, overlap, relative_change
from miclab.circuits.edges import Edge, plain_edges
from miclab.circuits.find import stored_part
from miclab.circuits.graph import Graph
from miclab.circuits.transplant import RECEIVERS, random_part, transplant, transplanted
from miclab.circuits.weights import head_matrices
from miclab.cli import main
from miclab.config import presets
from miclab.config.parts import ParentConfig
from miclab.config.request import Request, SplitSizes
from miclab.errors import ConfigError, RunError
from miclab.measures.evaluate import score_split
from miclab.model.decoder import Decoder
from miclab.model.parts import HEADS, MLPS, READOUT, decoder_parts, size
from miclab.runs.run import Run
from miclab.training.loop import prepared, train_config, train_together
from miclab.worlds.sequences import raw_training_batch
from miclab.worlds.world import world_from_tensors

REQUEST = Request(steps=3, evaluate_every=3, checkpoint_every=3, sequences=4, novel_sets=2)
TWO_HEADS = {"heads": 2, "output_projection": "on", "attention_bias": "both"}


# -- siblings ---------------------------------------------------------------------------------------------------------
def test_a_study_trains_a_sibling_from_the_same_checkpoint_at_stage_twos_rate(tmp_path):
    """Fails if the sibling starts from another run than stage 2, or has another rate or length, or sees the sequences
    of stage 1 again."""
    m1, m2 = (dict(MODALITIES[name]) for name in ("m1", "m2"))
    two = {"stage": "multimodal", "config": {"modalities": {"m1": m1, "m2": m2}}}
    study = tiny_study(
        tmp_path, 1, stage="continued", grid=[{"stage": "continued"}, two],
        parent={"steps": 2, "request": {"evaluate_every": 2, "checkpoint_every": 2}},
    )  # fmt: skip
    plan = planned(study)
    by_seed = {}
    for identity in plan.members["tiny"]:
        by_seed.setdefault(plan.runs[identity].seed, []).append(plan.runs[identity])
    for sibling, second in by_seed.values():
        assert (sibling.config.stage, second.config.stage) == ("unimodal", "multimodal")
        assert sibling.name.startswith("unimodal-")
        assert sibling.parent == second.parent
        assert sibling.config.parent.step == second.config.parent.step == 2
        assert sibling.request.steps == second.request.steps
        assert sibling.config.optimiser == second.config.optimiser
        before = plan.runs[sibling.parent].config
        assert before.sequences_seed == before.seed != sibling.config.sequences_seed
        assert sibling.config.world_seed == before.seed
    quick = {stage: presets.run_config(stage, "quick").optimiser for stage in ("unimodal", "multimodal", "continued")}
    assert quick["continued"] == quick["multimodal"] != quick["unimodal"]
    assert presets.request("continued", "paper") == presets.request("multimodal", "paper")


def test_a_sibling_starts_from_its_parents_weights_and_world(tmp_path):
    """Fails if a sibling starts from new weights or classes, or repeats the training sequences of stage 1."""
    first, _ = train_config(tiny_config(1), REQUEST, tmp_path)
    fields = {"request.evaluate_every": 2, "request.checkpoint_every": 2, "request.sequences": 4}
    found = miclab.train("unimodal", stage_one=first.path, runs=tmp_path, steps=2, fields=fields)
    run = found.disk
    assert run.config.parent.run == first.hash
    assert run.config.parent.step == first.step == 3
    assert run.config.sequence == first.config.sequence
    before, after = first.parameters(3)[1], run.parameters(0)[1]
    assert all(torch.equal(before[name], after[name]) for name in before)
    world, old = run.world_tensors(), first.world_tensors()
    assert all(torch.equal(old[name], world[name]) for name in old)
    batches = [raw_training_batch(one.config, world_from_tensors(one.config, old), 0).batch() for one in (first, run)]
    assert not torch.equal(batches[0].labels, batches[1].labels)


# -- frozen heads -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_frozen_head_keeps_every_weight_and_the_others_move(tmp_path, optimiser):
    """Fails if a frozen head moves, also by weight decay, or another head or MLP stands still."""
    options = {"name": optimiser, "weight_decay": 0.1, "learning_rate": 0.01, "batch_size": 4}
    config = tiny_config(1, decoder=TWO_HEADS, optimiser=options, frozen=["1.0", "decoder.blocks.0.mlp"])
    run, _ = train_config(config, REQUEST, tmp_path)
    parts = decoder_parts(config, Decoder(config).shapes())
    before, after = run.parameters(0)[1], run.parameters(3)[1]
    moved = {
        name: torch.cat([(before[n] != after[n])[own] for n, own in mask.items()]).double().mean().item()
        for name, mask in parts.items()
    }
    still = {name for name, share in moved.items() if share == 0}
    assert still == {"head 1.0", *(f"head 1.0 {part}" for part in ("query", "key", "value", "output")), "mlp 0"}
    assert all(moved[name] > 0.9 for name in ("head 1.1", "head 0.0", "head 1.1 query", "mlp 1", READOUT))


def test_a_frozen_head_is_the_same_in_a_group_of_lanes(tmp_path):
    """Fails if runs that are trained as one program move a frozen head."""
    config = tiny_config(1, decoder=TWO_HEADS, frozen=["0.1"], numerics={"mode": "lanes", "lanes": 2})
    ready = prepared(config, tmp_path)
    train_together([ready], [REQUEST])
    run = ready.run
    mask = decoder_parts(config, Decoder(config).shapes())["head 0.1"]
    before, after = run.parameters(0)[1], run.parameters(3)[1]
    assert all(torch.equal(before[name][own], after[name][own]) for name, own in mask.items())
    assert not torch.equal(before["decoder.readout"], after["decoder.readout"])


def test_what_cannot_be_frozen_is_named():
    """Fails if a head that there is not, or one of other attention, is passed over, or nothing is left to train."""
    with pytest.raises(ConfigError, match=r"frozen = '2\.0'"):
        tiny_config(1, frozen=["2.0"])
    with pytest.raises(ConfigError, match=r"frozen = '0\.0'"):
        tiny_config(1, decoder={"attention": "linear"}, frozen=["0.0"])
    rest = [
        "decoder.norm",
        "decoder.readout",
        *(f"decoder.blocks.{i}.{p}" for i in (0, 1) for p in ("mlp", "norm1", "norm2")),
    ]
    with pytest.raises(ConfigError, match="at least one part that is trained"):
        tiny_config(1, frozen=["0.0", "1.0", *rest])
    assert tiny_config(1, frozen=["0.0", *rest]).frozen[0] == "0.0"


def test_parts_share_no_weight_and_a_head_is_the_sum_of_its_four():
    """Fails if a weight belongs to two parts, to none, or to another head."""
    config = tiny_config(1, decoder=TWO_HEADS)
    shapes = Decoder(config).shapes()
    parts = decoder_parts(config, shapes)
    single = [
        mask
        for name, mask in parts.items()
        if name.startswith(("head", "mlp")) and name.count(" ") + name.startswith("mlp") == 2
    ]
    single += [parts["norms"], parts[READOUT]]
    seen = {name: torch.zeros(shape, dtype=torch.long) for name, shape in shapes.items()}
    for mask in single:
        for name, own in mask.items():
            seen[name] += own
    assert {int(value) for count in seen.values() for value in count.flatten()} == {1}
    for head in ("0.0", "0.1", "1.0", "1.1"):
        assert size(parts[f"head {head}"]) == sum(
            size(parts[f"head {head} {p}"]) for p in ("query", "key", "value", "output")
        )
    assert size(parts[HEADS]) == 4 * size(parts["head 0.0"])
    assert size(parts[MLPS]) == size(parts["mlp 0"]) + size(parts["mlp 1"])
    # Zeroing the output rows of a head is the same as knocking its output out.
    parameters = lively_parameters(config)
    own = parts["head 1.1 output"]["decoder.blocks.1.attention.output"]
    assert own.any(1).nonzero().flatten().tolist() == list(range(4, 8))
    assert parameters["decoder.blocks.1.attention.output"].shape == own.shape
    other = tiny_config(1, decoder={"attention": "linear"})
    with pytest.raises(RunError, match="linear"):
        decoder_parts(other, Decoder(other).shapes())


# -- transplants ------------------------------------------------------------------------------------------------------
SIZES = SplitSizes(sequences=20, novel_sets=2)


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """A stage-1 run, a stage-2 run and a sibling, with heads large enough to matter."""
    root = tmp_path_factory.mktemp("line")
    decoder = {"heads": 2, "output_projection": "on", "initial_std": 0.4}
    one = tiny_config(1, decoder=decoder, optimiser={"learning_rate": 0.02})
    first, _ = train_config(one, REQUEST, root)
    grown = {"run": first.hash, "step": 3}
    second, _ = train_config(tiny_config(2, decoder=decoder, parent=grown), REQUEST, root)
    further = {"parent": grown, "seeds": {"sequences": 99}}
    sibling, _ = train_config(tiny_config(1, decoder=decoder, **further), REQUEST, root)
    return first, second, sibling


def test_identical_weights_lose_nothing_and_do_not_drift(line):
    """Fails if a checkpoint differs from itself: the run's step 0 holds the weights that it started from."""
    _, second, _ = line
    found = transplant(second, step=0, sizes=SIZES)
    for one in found.found:
        assert np.array_equal(one.untouched, one.icl["transplanted"])
        assert np.array_equal(one.untouched, one.icl["random"])
    assert any(one.lost("fresh").mean != 0 for one in found.found)
    for one in drift(second, step=0).found:
        assert one.change == 0
        assert (one.overlap, one.angle) == pytest.approx((1, 0), abs=1e-5)


def test_a_transplant_is_what_is_done_by_hand(line):
    """Fails if another part's weights are exchanged, in the wrong direction, or on the sequences of the other run."""
    first, second, _ = line
    before, after = first.parameters(3)[1], dict(second.parameters(3)[1])
    found = transplant(second, sizes=SIZES)
    name = "decoder.blocks.1.attention.query"
    by_hand = {**after, name: torch.cat([after[name][:, :4], before[name][:, 4:]], 1)}
    world = CheckpointPair.of(second).world(True)
    wanted = score_split(second.config, world, by_hand, "icl", SIZES).correct.mean(1)
    assert np.array_equal(found.of("head 1.1 query", "later").icl["transplanted"], wanted)
    mlps = {n: after[n] if ".mlp." in n else value for n, value in before.items()}
    world = CheckpointPair.of(second).world(False)
    wanted = score_split(first.config, world, mlps, "icl", SIZES).correct.mean(1)
    assert np.array_equal(found.of(MLPS, "earlier").icl["transplanted"], wanted)
    assert {one.receiver for one in found.found} == set(RECEIVERS)
    assert len(found.stored()) == 2 + 3 * len(found.found)


def test_random_weights_are_as_many_and_the_donors(line):
    """Fails if the control exchanges more or fewer weights than the part has, or weights of the projector."""
    config = line[1].config
    shapes = Decoder(config).shapes()
    drawn = random_part(shapes, 100, torch.Generator().manual_seed(0))
    assert size(drawn) == 100
    assert not any(name.startswith("bridge") for name in drawn)
    mine, donor = ({n: torch.full(s, value) for n, s in shapes.items()} for value in (0.0, 1.0))
    made = transplanted(mine, donor, drawn)
    assert sum(int(value.sum()) for value in made.values()) == 100
    assert all(torch.equal(made[name].bool(), own) for name, own in drawn.items())


# -- drift ------------------------------------------------------------------------------------------------------------
@settings(max_examples=20)
@given(st.integers(0, 10**6), st.floats(0, math.pi / 2))
def test_angles_of_a_rotation_are_its_angle(seed, angle):
    """Fails if angles are those of the other side, or are not the angle by which leading directions were turned."""
    frame = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(seed)).double())[0]
    turned = frame.clone()
    # Both leading directions are turned, each towards a direction of its own that is not among them.
    for one, other in ((0, 2), (1, 3)):
        turned[:, one] = math.cos(angle) * frame[:, one] + math.sin(angle) * frame[:, other]
    values = torch.diag(torch.tensor([3.0, 2.0]).double())
    before, after = frame[:, :2] @ values @ frame[:, :2].T, turned[:, :2] @ values @ frame[:, :2].T
    left, right = leading_angles(before, after, 2)
    assert left.tolist() == pytest.approx([angle] * 2, abs=1e-6)
    assert right.tolist() == pytest.approx([0, 0], abs=1e-6)
    assert overlap(left, 6) == pytest.approx((math.cos(angle) ** 2 - 1 / 3) / (2 / 3), abs=1e-9)


def test_change_and_overlap_of_known_matrices():
    """Fails if a change is not relative to the matrix before, or random subspaces have an overlap beyond chance."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(64, 64, generator=generator) for _ in range(2))
    assert relative_change(a, 3 * a) == pytest.approx(2, abs=1e-6)
    assert relative_change(a, b) == pytest.approx(math.sqrt(2), abs=0.05)
    chance = [moved("", torch.randn(64, 64, generator=generator), torch.randn(64, 64, generator=generator),
                    ("read", "written")).overlap for _ in range(20)]  # fmt: skip
    assert abs(np.mean(chance)) < 0.02
    assert moved("", a, -a, ("read", "written")).overlap == pytest.approx(1, abs=1e-6)


def test_products_do_not_depend_on_the_basis_inside_a_head(line):
    """Fails if QK and OV move when queries and keys, or values and outputs, are turned together, which changes no
    answer."""
    _, second, _ = line
    checkpoints = CheckpointPair.of(second, 0)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))[0]
    weights = dict(checkpoints.weights[1])
    start = "decoder.blocks.0.attention."
    for name in ("query", "key", "value"):
        weights[start + name] = torch.cat([weights[start + name][:, :4] @ turn, weights[start + name][:, 4:]], 1)
    weights[f"{start}output"] = torch.cat([turn.T @ weights[f"{start}output"][:4], weights[f"{start}output"][4:]])
    old, new = head_matrices(second.config, checkpoints.weights[1]), head_matrices(second.config, weights)
    for head, one in old.items():
        assert relative_change(one.qk, new[head].qk) < 1e-5
        assert relative_change(one.ov, new[head].ov) < 1e-5
    assert relative_change(checkpoints.weights[1][f"{start}query"], weights[f"{start}query"]) > 0.1


# -- circuits ---------------------------------------------------------------------------------------------------------
@settings(max_examples=10, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 10**6))
def test_chance_is_the_mean_overlap_of_random_circuits(first, second, seed):
    """Fails if the level of chance is not that of random sets of edges of the two sizes."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(2000):
        one, other = (set(generator.choice(12, size, replace=False).tolist()) for size in (first, second))
        found.append(len(one & other) / len(one | other))
    assert chance_overlap(first, second, 12) == pytest.approx(np.mean(found), abs=0.03)


def test_the_same_circuit_has_all_and_another_one_nothing():
    """Fails if an overlap beyond chance is not 1 for the same edges, or not negative for none in common."""
    every = plain_edges(2, 4)
    one, two = (Circuit(frozenset(some), every) for some in (every[:3], every[3:6]))
    assert Overlap(one, one, one.edges, layers=2, heads=4).beyond_chance() == 1
    other = Overlap(one, two, one.edges, layers=2, heads=4)
    assert other.beyond_chance() < 0
    assert other.stored()["any faithful beyond chance"] == 1


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_heads_are_renumbered_in_every_way(seed):
    """Fails if a circuit with other numbers of heads is not the same, or a better renumbering is missed, or heads of
    different layers are exchanged."""
    every, generator = plain_edges(3, 2), np.random.default_rng(seed)
    one, other = ([every[i] for i in generator.choice(len(every), 12, replace=False)] for _ in range(2))

    def renumbered(circuit, orders):
        def end(part):
            return part if part.head is None else replace(part, head=orders[part.layer][part.head])

        return {Edge(end(edge.sender), end(edge.receiver)) for edge in circuit}

    ways = [renumbered(other, orders) for orders in itertools.product([(0, 1), (1, 0)], repeat=3)]
    assert matched_overlap(one, other, 3, 2) == max(len(set(one) & way) / len(set(one) | way) for way in ways)
    assert matched_overlap(other, ways[5], 3, 2) == 1
    assert matched_overlap(one, other, 12, 4) is None
    chance = matched_chance(12, 12, every, 3, 2)
    assert chance is not None
    assert chance > chance_overlap(12, 12, len(every))


def test_edges_without_weights_are_those_of_the_graph():
    """Fails if numbers of edges in rows would stand for other edges."""
    for mlp in ("released", "none"):
        config = tiny_config(1, decoder={**TWO_HEADS, "layers": 3, "mlp": mlp})
        graph = Graph(Decoder(config), lively_parameters(config))
        assert graph.edges() == plain_edges(3, 2, mlp != "none")


def test_the_circuit_built_by_hand_is_the_same_before_and_after(monkeypatch):
    """Fails if a circuit is sought in the wrong checkpoint, or another one than the three edges is found: the later
    decoder has the same circuit and one head that writes in vain."""
    decoder, before, world = hand_built()
    after = {**before, "decoder.blocks.0.attention.value": before["decoder.blocks.0.attention.value"] * 1.5}
    path = Path("a run")
    run = SimpleNamespace(
        config=decoder.config, path=path, checkpoints=[1, 2, 3], parameters=lambda step: (step, before)
    )
    monkeypatch.setattr(CheckpointPair, "world", lambda self, is_later: world)
    sizes = SplitSizes(sequences=24, novel_sets=1)
    found = overlap_of(CheckpointPair(run, run, (0, 3), (before, after)), sizes, "train")
    known = {"embedding -> value of 0.0", "head 0.0 -> key of 1.0", "head 1.0 -> logits"}
    assert found.earlier.names == found.later.names == set(map(str, found.faithful)) == known
    assert (found.beyond_chance(), found.later.faithfulness) == (pytest.approx(1), 1)
    assert {name: one.names for name, one in found.between.items()} == {"a third": known, "two thirds": known}
    stored = found.stored()
    kept = [sum(stored[f"{example} {what} kept"] for example in ("own", "rival")) for what in ("item", "label")]
    assert (kept, stored["matched beyond chance"]) == ([1, 1], 1)
    assert {str(found.later.every[int(place)]) for place in stored["circuit later"]} == known
    nothing = {name: torch.zeros_like(value) for name, value in before.items()}
    with pytest.raises(RunError, match=r"at step 1 answers .* no circuit to find"):
        overlap_of(CheckpointPair(run, run, (0, 1), (before, nothing)), sizes, "train")
    # Early on there may be no circuit yet, and checkpoints of powers of two are no thirds of training.
    run.parameters = lambda step: (step, nothing if step == 1 else before)
    assert list(overlap_of(CheckpointPair(run, run, (0, 3), (before, after)), sizes, "train").between) == ["two thirds"]
    run.checkpoints = [2**power for power in range(9)]
    assert not overlap_of(CheckpointPair(run, run, (0, 1500), (before, after)), sizes, "train").between


def test_heads_that_share_keys_are_not_renumbered():
    """Fails if a shared key is moved with one of its heads, so that the same circuit looks like another."""
    config = tiny_config(1, decoder={"layers": 2, "heads": 4, "attention": "grouped_query:groups=2"})
    every = Graph(Decoder(config), lively_parameters(config)).edges()
    circuit = Circuit(frozenset(every[:9]), every)
    made = Overlap(circuit, circuit, frozenset(), layers=2, heads=4)
    assert made.matched() is None
    assert "matched" not in made.stored()
    assert any("not renumbered" in note for note in made.notes)


def test_the_command_compares_circuits_and_refuses_what_has_none(tmp_path, monkeypatch, capsys):
    """Fails if a run without stage 1 is compared with nothing, or one with other edges is taken, or the command and the
    function differ, or a run from scratch does not store its own circuit for the rows."""
    decoder, parameters, world = hand_built()
    run, other = (
        train_config(replace(decoder.config, decoder=replace(decoder.config.decoder, heads=heads)), REQUEST, tmp_path)[
            0
        ]
        for heads in (1, 5)
    )

    def of_training(config, world, made, modality, split, sizes):
        return pairs_of_split(config, world, made, modality, "train", sizes)

    monkeypatch.setattr("miclab.circuits.circuit_overlap.pairs_of_split", of_training)
    monkeypatch.setattr(Run, "parameters", lambda run, step=None: (3 if step is None else step, parameters))
    monkeypatch.setattr(CheckpointPair, "world", lambda self, is_later: world)
    monkeypatch.setattr("miclab.circuits.circuit_overlap.world_from_tensors", lambda config, tensors: world)
    few = ["--sequences", "24", "--novel-sets", "1"]
    assert main(["circuit-overlap", str(run.path), "--other", str(run.path), "--json", *few]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["earlier"] == found["later"]
    assert found["numbers"]["beyond chance"] == 1
    made = miclab.circuit_overlap(run.path, run.path, sequences=24, novel_sets=1)
    assert json.loads(json.dumps(made.as_json())) == {k: v for k, v in found.items() if k in made.as_json()}
    assert main(["circuit-overlap", str(run.path), "--other", str(run.path), *few]) == 0
    assert "sought from a random order" in capsys.readouterr().out
    stored = stored_overlap(run, 3, SplitSizes(sequences=24, novel_sets=1))
    assert stored["circuit later"] == made.stored()["circuit later"]
    assert "overlap" not in stored
    with monkeypatch.context() as patched:
        pair = CheckpointPair(run, run, (0, 3), (parameters, parameters))
        patched.setattr(CheckpointPair, "of", lambda run, step: pair)
        assert main(["circuit-overlap", str(run.path), "--json", *few]) == 0
        assert json.loads(capsys.readouterr().out)["numbers"] == found["numbers"]
        grown = Run(run.path, replace(run.config, parent=ParentConfig(run=run.path.name)), {})
        assert stored_overlap(grown, 3, SplitSizes(sequences=24, novel_sets=1)).keys() == made.stored().keys()
    flat = SimpleNamespace(config=tiny_config(1, decoder={"layers": 1}), path=run.path)
    with pytest.raises(RunError, match="layer"):
        stored_overlap(cast("Run", flat), 3, SplitSizes(sequences=24, novel_sets=1))
    for arguments, words in (
        ([str(run.path)], "started from random weights"),
        ([str(run.path), "--other", str(other.path)], "has other edges"),
    ):
        assert main(["circuit-overlap", *arguments]) == 2
        assert words in capsys.readouterr().err


# -- commands ---------------------------------------------------------------------------------------------------------
def test_the_commands_show_the_sibling_and_refuse_what_is_none(line, capsys):
    """Fails if the sibling is not looked at at the same step, or a run that started elsewhere is taken for one."""
    first, second, sibling = line
    few = ["--sequences", "4", "--novel-sets", "2", "--json"]
    assert main(["transplant", str(second.path), "--sibling", str(sibling.path), *few]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["sibling_transplants"]) == len(found["transplants"])
    assert found["steps"] == [3, 3]
    assert found["runs"] == {"earlier": first.path.name, "later": second.path.name}
    assert main(["drift", str(second.path), "--sibling", str(sibling.path)]) == 0
    assert "sibling: overlap" in capsys.readouterr().out
    alone = miclab.drift(second.path).tables()[0]
    assert any("--sibling" in note for note in alone.notes)
    by_name = {one.name: one for one in miclab.drift(second.path, sibling.path).found}
    assert {"head 1.1 QK", "head 0.0 OV", "head 0.1 output", "mlp 1 gate", "readout"} <= set(by_name)
    assert miclab.transplant(second.path, sequences=2, novel_sets=2).tables()[0].title.startswith("weights of")
    for arguments, words in (
        (["drift", str(first.path)], "started from random weights"),
        (["drift", str(second.path), "--sibling", str(first.path)], "is no sibling"),
        (["drift", str(sibling.path), "--sibling", str(second.path)], "has not the modalities"),
    ):
        assert main(arguments) == 2
        assert words in capsys.readouterr().err


def test_names_in_rows_count_from_one():
    assert [stored_part(name, "change") for name in ("head 1.0 query", "mlp 0", "mlp 0 gate", "readout")] == [
        "head 2.1 query change", "mlp 1 change", "mlp 1 gate change", "readout change",
    ]  # fmt: skip


def test_the_command_trains_a_sibling(tmp_path, capsys):
    """Fails if `train unimodal --stage-one` starts from new weights, trains stage 1 again, or keeps stage 1's rate."""
    first, _ = train_config(tiny_config(1), REQUEST, tmp_path)
    sizes = ["--request.evaluate-every", "2", "--request.checkpoint-every", "2", "--request.sequences", "4"]
    command = ["train", "unimodal", "--stage-one", first.path.name, "--runs", str(tmp_path), "--request.steps", "2"]
    assert main([*command, *sizes, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    run = miclab.load(found["run"]).disk
    assert found["stage_one"]["trained_steps"] == 0
    assert (run.config.parent.run, run.config.parent.step) == (first.hash, 3)
    assert run.config.optimiser == presets.run_config("multimodal", "quick").optimiser
    assert run.config.seeds.sequences == presets.FURTHER
