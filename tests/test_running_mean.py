"""A layer as a running mean: a decoder built by hand that reads nothing else, and the claims on it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from claims_rows import make_rows, studies_directory
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_config, tiny_mapping
from tiny_study import carry_out, planned, tiny_study

import miclab
from miclab.circuits.running_mean import CONDITIONS, CONTEXTS, AveragingLayer, row_weights
from miclab.claims.entries import running_mean as entries
from miclab.claims.evidence import Evidence
from miclab.claims.registry import find_claim
from miclab.cli import main
from miclab.config import schema
from miclab.config.axes import field_of
from miclab.config.request import Request
from miclab.config.run import RunConfig
from miclab.errors import RunError
from miclab.measures.layer import causal
from miclab.model.decoder import Decoder
from miclab.runs.find import open_run
from miclab.seeds import stream
from miclab.studies.rows import study_rows
from miclab.training.loop import train_config
from miclab.worlds.sequences import Batch, plan_bursty, realise
from miclab.worlds.world import GaussianSource, draw_world

CLASSES, LABELS, SHARP = 16, 8, 10000.0
ITEM = CLASSES + LABELS


@given(st.integers(1, 40))
def test_weights_have_equal_sums_and_depend_on_the_place_alone(length):
    """Fails if a kind weighs more in all than uniform attention, looks ahead, or distinguishes keys."""
    falling, equal, rising = (row_weights(kind, causal(length)[None])[0] for kind in ("falling", "equal", "rising"))
    for weights in (falling, equal, rising):
        assert weights.sum() == pytest.approx(length, rel=1e-4)
        assert torch.equal(weights, weights.tril())
        assert all(row[: n + 1].unique().numel() == 1 for n, row in enumerate(weights))
    torch.testing.assert_close(falling.sum(-1), torch.ones(length))
    if length > 1:
        first, last = rising[0, 0], rising[-1, 0]
        assert last / first == pytest.approx(length, rel=1e-4)


def hand_built(burstiness: int) -> tuple[Decoder, dict[str, torch.Tensor], Batch]:
    """A decoder that reads its context through a uniform layer 0, and sequences of one-hot classes and labels.

    Layer 0 attends uniformly, and writes the mean of the items into dimensions of its own (S). Layer 1 looks, from the
    query, for its class in S, but not where the item itself stands, and writes the label there into the logits.
    """
    config = tiny_config(
        1,
        modalities={"m1": {"classes": CLASSES, "dimension": ITEM, "labels": LABELS, "noise": 0.0}},
        sequence={"context": 4, "burstiness": burstiness, "distinct_labels": "on"},
        decoder={"norm": "none", "mlp": "none", "positions": "none", "width": 2 * ITEM + LABELS},
    )
    decoder, world = Decoder(config), draw_world(config)
    s, logits = ITEM, 2 * ITEM
    parameters = {name: torch.zeros(shape) for name, shape in decoder.shapes().items()}
    first, second = (
        {p: parameters[f"decoder.blocks.{i}.attention.{p}"] for p in ("query", "key", "value")} for i in (0, 1)
    )
    first["value"][:ITEM, s : s + ITEM] = torch.eye(ITEM)
    second["query"][:CLASSES, :CLASSES] = SHARP * torch.eye(CLASSES)
    second["key"][s : s + CLASSES, :CLASSES] = torch.eye(CLASSES)
    second["key"][:CLASSES, :CLASSES] = -2 * torch.eye(CLASSES)
    second["value"][CLASSES:ITEM, logits : logits + LABELS] = 10 * torch.eye(LABELS)
    parameters["decoder.readout"][logits : logits + LABELS] = torch.eye(LABELS)
    prototypes = torch.cat([torch.eye(CLASSES), torch.zeros(CLASSES, LABELS)], 1)
    labels = torch.cat([torch.zeros(LABELS, CLASSES), torch.eye(LABELS)], 1)
    world = replace(world, sources={"m1": GaussianSource(prototypes, 0.0)}, label_embeddings=labels)
    generator = stream(1, "test")
    return decoder, parameters, realise(config, world, plan_bursty(config, world, 200, generator), generator)


@pytest.mark.parametrize("burstiness", [1, 2])
def test_a_decoder_that_reads_a_running_mean_is_known_by_it(burstiness):
    """Fails if an intervention changes other weights, values or ways than it says: with each class once, rising weights
    make the last label the answer, and without the mean's items or its way to the keys all labels look alike."""
    decoder, parameters, batch = hand_built(burstiness)
    averaging = AveragingLayer(decoder, parameters, 0)
    right = {name: float(found.float().mean()) for name, found in averaging.right(batch).items()}
    assert list(right) == list(CONDITIONS)
    for name in ("untouched", "falling weights", "items alone", "by keys alone"):
        assert right[name] == 1, name
    blind = [right[name] for name in ("labels alone", "by all but keys", "nothing")]
    assert max(blind) < 0.5 if burstiness == 1 else max(blind) < 0.8
    assert right["rising weights"] == pytest.approx(float((batch.labels[:, -1] == batch.target).float().mean()))
    if burstiness == 1:
        assert right["rising weights"] < right["equal weights"] < 0.8
        looked = averaging.looked(batch)
        assert looked.shape == (200, 7)
        torch.testing.assert_close(looked[:, 3], torch.ones(200))
        own = (batch.labels == batch.target[:, None]).float().argmax(-1)
        assert torch.equal(looked.isfinite().sum(-1), torch.full((200,), 4))
        assert torch.equal(looked[:, 4:].isfinite().sum(-1), 3 - own)


def test_the_command_the_function_and_what_is_refused(tmp_path, capsys):
    """Fails if command, function and rows of a study differ, or a layer that cannot be replaced is a traceback."""
    run = train_config(
        schema.from_mapping(RunConfig, tiny_mapping(1, sequence={"context": 4, "burstiness": 2})),
        Request(steps=2, evaluate_every=2, checkpoint_every=2, sequences=8, novel_sets=2), tmp_path,
    )[0]  # fmt: skip
    few = ["--sequences", "40", "--novel-sets", "2"]
    assert main(["running-mean", str(run.path), *few, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["icl"]) == {context + name for context in CONTEXTS for name in CONDITIONS}
    same = miclab.running_mean(run.path, sequences=40, novel_sets=2)
    intervals = found["icl"].values()
    assert all(0 <= one["low"] <= one["high"] <= 1 for one in intervals)
    # Contexts of four classes are other contexts than those of two, with a random decoder too.
    assert found["icl"]["once: untouched"] != found["icl"]["untouched"]
    assert same.sequences == 40
    assert found["icl"]["untouched"]["mean"] == pytest.approx(float(same.icl["untouched"].mean()))
    assert main(["evaluate", str(run.path), *few, "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)["splits"]["icl"]["accuracy"]["mean"]
    assert whole == pytest.approx(float(same.icl["untouched"].mean()), abs=1e-5)
    assert main(["running-mean", str(run.path), *few]) == 0
    assert "examples after its own" in capsys.readouterr().out
    assert main(["running-mean", str(run.path), *few, "--layer", "1"]) == 2
    assert "a layer with one after it: 0 to 0" in capsys.readouterr().err
    fixed = tiny_config(1, decoder={"attention": {"name": "previous_token", "layers": [1]}})
    with pytest.raises(RunError, match="has no"):
        AveragingLayer(Decoder(fixed), {}, 0)


def test_a_study_stores_it(tmp_path):
    study = tiny_study(
        tmp_path, 1, probes=["running_mean"],
        profiles={"quick": {"seeds": [0], "request": {"steps": 2, "evaluate_every": 2, "checkpoint_every": 2,
                                                      "sequences": 40, "novel_sets": 2}}},
    )  # fmt: skip
    plan = planned(study)
    carry_out(plan, tmp_path / "runs")
    last = study_rows(study, plan, tmp_path / "runs").row(-1, named=True)
    disk = open_run(tmp_path / "runs" / plan.runs[plan.members["tiny"][0]].name)
    same = miclab.running_mean(disk.path, sequences=40, novel_sets=2).stored()
    stored = {name.removeprefix("probe.running_mean.") for name in last if name.startswith("probe.running_mean.")}
    assert {name for name in stored if not name.endswith(".sets")} == set(same)
    assert last["probe.running_mean.once: rising weights"] == pytest.approx(same["once: rising weights"].mean())


@pytest.mark.parametrize(("reads", "verdicts"), [(True, ("holds", "holds")), (False, ("fails", "fails"))])
def test_each_claim_follows_its_criterion(tmp_path, reads, verdicts):
    """Fails if a claim holds or fails against its criterion."""

    def formula(config, step):
        rope = field_of(config, "decoder.positions") == "rope"
        level = {entries.UNTOUCHED: 0.97, entries.ONCE_UNTOUCHED: 0.6 if rope and reads else 0.9}
        if reads:
            known = {
                entries.FALLING: 0.96, entries.ITEMS: 0.97, entries.LABELS: 0.5, entries.BY_KEYS: 0.9,
                entries.BY_OTHERS: 0.5, entries.ONCE_FALLING: 0.6, entries.ONCE_EQUAL: 0.4, entries.ONCE_RISING: 0.2,
            }  # fmt: skip
            looked = {column: 0.4 if place == 0 else 0.1 for place, column in entries.ATTENTION.items()}
        else:
            known = {
                entries.FALLING: 0.5, entries.ITEMS: 0.3, entries.LABELS: 0.5, entries.BY_KEYS: 0.5,
                entries.BY_OTHERS: 0.5, entries.ONCE_FALLING: 0.2, entries.ONCE_EQUAL: 0.2, entries.ONCE_RISING: 0.3,
            }  # fmt: skip
            looked = {column: 0.1 if place == 0 else 0.2 for place, column in entries.ATTENTION.items()}
        return {"icl": 0.97, **level, **known, **looked}

    directory = studies_directory(tmp_path)
    make_rows(directory, entries.STUDY, formula, steps=(750, 1500), spread=0.0005)
    rows = Evidence(directory, "quick")
    assert tuple(find_claim(one).judge(rows).verdict for one in ("X24", "X25")) == verdicts
