"""Study files and plans: what is requested becomes the right runs, in order, and what is wrong is named."""

from __future__ import annotations

import dataclasses
import re

import pytest
import yaml
from tiny_study import planned, study_mapping, tiny_study, write_study

from miclab.config import presets, schema
from miclab.config.run import RunConfig
from miclab.errors import MiclabError
from miclab.runs.find import run_name
from miclab.studies.plan import Plan, axis_value, joined
from miclab.studies.study import load_study

CLASSES, BURSTS = "modalities.m1.classes", "sequence.burstiness"


def values(plan: Plan, name: str = "tiny", *axes: str):
    """Values of axes, and the seed, of a study's runs in order."""
    runs = [plan.runs[identity] for identity in plan.members[name]]
    return [(*(axis_value(run, plan.runs.get(run.parent), axis) for axis in axes), run.seed) for run in runs]


def test_the_product_is_walked_with_its_last_axis_fastest_and_seeds_within_points(tmp_path):
    study = tiny_study(tmp_path, grid=[{"product": {CLASSES: [32, 64], BURSTS: [1, 2]}}])
    expected = [(k, b, s) for k in (32, 64) for b in (1, 2) for s in (0, 1)]
    assert values(planned(study), "tiny", CLASSES, BURSTS) == expected


def test_axes_of_a_zip_go_together_and_combine_with_the_product(tmp_path):
    block = {"zip": {"decoder.layers": [1, 3], "decoder.heads": [2, 4]}, "product": {BURSTS: [1, 2]}}
    study = tiny_study(tmp_path, grid=[block], profiles={"quick": {"seeds": [5]}})
    expected = [(1, 2, 1, 5), (1, 2, 2, 5), (3, 4, 1, 5), (3, 4, 2, 5)]
    assert values(planned(study), "tiny", "decoder.layers", "decoder.heads", BURSTS) == expected


def test_blocks_are_united_equal_points_once_and_have_configurations_of_their_own(tmp_path):
    blocks = [
        {"product": {CLASSES: [32, 64]}},
        {"product": {CLASSES: [64, 128]}},
        {"product": {CLASSES: [64]}, "config": {"decoder": {"positions": "alibi"}}},
    ]
    study = tiny_study(tmp_path, grid=blocks, profiles={"quick": {"seeds": [0]}})
    expected = [(32, "rope", 0), (64, "rope", 0), (128, "rope", 0), (64, "alibi", 0)]
    assert values(planned(study), "tiny", CLASSES, "decoder.positions") == expected


def test_a_run_of_a_study_is_the_run_that_training_by_hand_would_make(tmp_path):
    """The same name and hash as that of the configuration built without a study."""
    study = tiny_study(tmp_path, grid=[{"product": {"sequence.burstiness": [1]}}])
    run = list(planned(study).runs.values())[1]
    mapping = study_mapping()["config"] | {"seed": 1, "sequence": {"context": 4, "burstiness": 1}}
    config = schema.from_mapping(RunConfig, mapping, "", presets.run_config("unimodal", "quick"))
    assert run.config == config
    assert (run.hash, run.name) == (schema.trajectory_hash(config), run_name(config))


def test_numeric_mode_auto_is_resolved_before_a_run_is_named(tmp_path):
    """The mode decides bits, so it is in the hash; all runs of a study, stage 1 too, share it."""
    study = tiny_study(tmp_path, 2, config={"numerics": {"mode": "auto"}})
    found = {mode: Plan([study], mode) for mode in ("eager", "compiled")}
    assert not set(found["eager"].runs) & set(found["compiled"].runs)
    for mode, plan in found.items():
        assert {run.config.numerics.mode for run in plan.runs.values()} == {mode}


def test_a_child_knows_the_hash_of_its_parent_before_anything_is_trained(tmp_path):
    study = tiny_study(
        tmp_path, 2, parent={"steps": 2, "config": {"optimiser": {"learning_rate": 0.5}}},
        grid=[{"product": {"modalities.m2.noise": [0.1, 0.2]}}],
    )  # fmt: skip
    plan = planned(study)
    stages = [run.config.stage for run in plan.runs.values()]
    assert stages == ["unimodal", "multimodal", "unimodal", "multimodal", "multimodal", "multimodal"]
    for run in (plan.runs[i] for i in plan.members["tiny"]):
        parent = plan.runs[run.parent]
        before = presets.first_stage(run.config, "quick")
        expected = dataclasses.replace(before, optimiser=dataclasses.replace(before.optimiser, learning_rate=0.5))
        assert parent.config == expected
        assert run.config.parent == dataclasses.replace(run.config.parent, run=schema.trajectory_hash(expected), step=2)
        assert (parent.seed, parent.request.steps, parent.starts) == (run.seed, 2, (2,))
        assert parent.request.sequences == run.request.sequences


def test_axes_of_the_parent_and_its_length_make_other_children(tmp_path):
    """Two lengths of stage 1 are one run, trained to the longer one, whose shorter end is kept."""
    grid = [{"product": {"parent.modalities.m1.classes": [32, 64], "parent.steps": [2, 4]}}]
    study = tiny_study(tmp_path, 2, grid=grid, profiles={"quick": {"seeds": [0]}})
    plan = planned(study)
    axes = ("parent.modalities.m1.classes", "parent.steps", "modalities.m1.classes")
    assert values(plan, "tiny", *axes) == [(32, 2, 32, 0), (32, 4, 32, 0), (64, 2, 32, 0), (64, 4, 32, 0)]
    parents = [run for run in plan.runs.values() if not run.parent]
    assert [(p.request.steps, p.request.checkpoint_at, p.starts) for p in parents] == [(4, (2,), (2, 4))] * 2


def test_every_name_in_a_plan_is_the_hash_of_its_configuration(tmp_path):
    """Hashes are put together from the parts of many points; each has to be that of the whole configuration. An axis of
    one modality leaves the others."""
    grid = [
        {
            "product": {
                "modalities.m2.noise": [0, 0.5], "parent.decoder.norm": ["rmsnorm"], "parent.steps": [2, 4],
                "frozen": [[], ["decoder"]], "optimiser.learning_rate": [1, 0.01],
            },
            "zip": {"sequence.burstiness": [1, 2], "bridge.projector": ["small", "large"]},
        },
        {"product": {"numerics.threads": [2], "host": ["", "m1"]}, "config": {"decoder": {"rope_theta": 100}}},
    ]  # fmt: skip
    plan = planned(tiny_study(tmp_path, 2, grid=grid, profiles={"quick": {"seeds": [0, 7]}}))
    assert len(plan.members["tiny"]) == 2 * (2 * 2 * 2 * 2 * 2 + 2)
    for identity, run in plan.runs.items():
        whole = schema.from_mapping(RunConfig, schema.to_mapping(run.config))
        assert whole == run.config
        assert (identity, run.name) == (schema.trajectory_hash(whole), run_name(whole))
        assert set(whole.modalities) == ({"m1", "m2"} if run.parent else {"m1"})


def test_a_length_of_its_own_for_a_point_is_no_other_run(tmp_path):
    """`request.steps` is part of no hash: a point requested twice is trained to the longer end."""
    study = tiny_study(tmp_path, grid=[{"zip": {BURSTS: [1, 2, 2], "request.steps": [6, 2, 4]}}])
    plan = planned(study)
    assert values(plan, "tiny", BURSTS, "request.steps") == [(1, 6, 0), (1, 6, 1), (2, 4, 0), (2, 4, 1)]
    request = plan.runs[plan.members["tiny"][0]].request
    assert joined(request, request) is request


def test_studies_share_runs_and_what_each_requests_of_them(tmp_path):
    first = tiny_study(tmp_path, name="first", probes=["ablation"])
    second = tiny_study(
        tmp_path, name="second", probes=["knockout"], profiles={"quick": {"seeds": [1, 2], "request": {"steps": 8}}}
    )
    plan = planned(first, second)
    assert [run.seed for run in plan.runs.values()] == [0, 1, 2]
    wanted = [
        (run.request.steps, [(analysis.name, analysis.step) for analysis in run.analyses]) for run in plan.runs.values()
    ]
    assert wanted == [(4, [("ablation", 4)]), (8, [("ablation", 4), ("knockout", 8)]), (8, [("knockout", 8)])]
    steps = {name: [request.steps for request in found.values()] for name, found in plan.requested.items()}
    assert steps == {"first": [4, 4], "second": [8, 8]}
    with pytest.raises(MiclabError, match="Two studies are named 'first'"):
        planned(first, first)


def test_a_preset_has_its_own_grid_fields_and_parent(tmp_path):
    paper = {"seeds": [7], "grid": [], "config": {"sequence": {"burstiness": 1}}, "parent": {"steps": 6},
             "request": {"steps": 10}}  # fmt: skip
    file = write_study(tmp_path, 2, grid=[{"product": {BURSTS: [1, 2]}}], profiles={"paper": paper})
    plan = Plan([load_study(file, "paper")], "eager")
    assert [(r.seed, r.request.steps, r.config.sequence.burstiness) for r in plan.runs.values()] == [
        (7, 6, 1),
        (7, 10, 1),
    ]
    assert plan.runs[plan.members["tiny"][0]].config.optimiser.name == "sgd"


@pytest.mark.parametrize("stage", ["early_fusion", "multimodal"])
def test_early_fusion_has_two_modalities_and_no_parent(tmp_path, stage):
    data = study_mapping(2, stage=stage)
    if stage == "early_fusion":
        del data["parent"]
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(data))
    plan = planned(load_study(file, "quick"))
    assert [run.config.stage for run in plan.runs.values()][-1] == stage
    assert len(plan.runs) == (2 if stage == "early_fusion" else 4)


WRONG = {
    "key": ({"probs": []}, "study.probs", "did you mean 'probes'?"),
    "stage": ({"stage": "bimodal"}, "stage = 'bimodal'", "multimodal"),
    "field": ({"config": {"decoder": {"position": "rope"}}}, "decoder.position = 'rope'", "did you mean 'positions'?"),
    "value": ({"config": {"decoder": {"layers": "two"}}}, "decoder.layers = 'two'", "a value of type int"),
    "axis": ({"grid": [{"product": {"decoder.layer": [1]}}]}, "decoder.layer = 1", "did you mean 'layers'?"),
    "part": ({"grid": [{"product": {"decoders.layers": [1]}}]}, "decoders.layers", "did you mean 'decoder'?"),
    "point": ({"grid": [{"product": {BURSTS: [2, 3]}}]}, "at sequence.burstiness=3", "a divisor of"),
    "no list": ({"grid": [{"product": {BURSTS: 2}}]}, "grid[0].product.sequence.burstiness = 2", "a list"),
    "empty axis": ({"grid": [{"product": {BURSTS: []}}]}, "product.sequence.burstiness = []", "at least one value"),
    "zip": ({"grid": [{"zip": {BURSTS: [1, 2], CLASSES: [32]}}]}, "grid[0].zip", "of one length"),
    "twice": ({"grid": [{"zip": {BURSTS: [1]}, "product": {BURSTS: [2]}}]}, "grid[0].zip", "not in the product too"),
    "under": ({"grid": [{"product": {"sequence": [{}], BURSTS: [2]}}]}, "sequence = ", "not part of another one"),
    "seed axis": ({"grid": [{"product": {"seed": [1]}}]}, "seed", "the preset has `seeds`"),
    "seed field": ({"config": {"seed": 1}}, "config.seed = 1", "a study has `seeds`"),
    "seeds": ({"profiles": {"quick": {"seeds": [1, 1]}}}, "profiles.quick.seeds = [1, 1]", "none twice"),
    "seed below": ({"profiles": {"quick": {"seeds": [-1]}}}, "profiles.quick.seeds = [-1]", "from 0 to 2^63 - 1"),
    "seed kind": ({"profiles": {"quick": {"seeds": [0.5]}}}, "profiles.quick.seeds = 0.5", "type int"),
    "no preset": ({"profiles": {"quick": None}, "stage": "unimodal", "title": 3}, "title = 3", "a line of text"),
    "preset key": ({"profiles": {"quick": {"step": 3}}}, "profiles.quick.step = 3", "a known key"),
    "request": ({"profiles": {"quick": {"request": {"stepts": 3}}}}, "request.stepts", "did you mean 'steps'?"),
    "parent": ({"parent": {"steps": 3}}, "parent", "only in a study whose stage is multimodal"),
    "parent axis": ({"grid": [{"product": {"parent.steps": [3]}}]}, "parent", "only where the stage is"),
    "stage of a block": ({"grid": [{"stage": "bimodal"}]}, "grid[0].stage = 'bimodal'", "multimodal"),
    "modalities of a block": ({"grid": [{"stage": "multimodal"}]}, "modalities", "as many as the stage multimodal has"),
    "probe": ({"probes": ["knockouts"]}, "probes = 'knockouts'", "did you mean 'knockout'?"),
    "contexts": ({"probes": ["context"]}, "probe_contexts = []", "with the analysis `context`"),
    "contexts alone": ({"probe_contexts": [8]}, "probe_contexts = [8]", "with the analysis `context`"),
    "modalities": ({"stage": "early_fusion"}, "modalities", "as many as the stage early_fusion has"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_with_its_place_and_what_is_allowed(tmp_path, name):
    changes, place, allowed = WRONG[name]
    with pytest.raises(MiclabError) as caught:
        planned(tiny_study(tmp_path, **changes))
    assert place in str(caught.value)
    assert allowed in str(caught.value)


def test_files_and_presets_that_are_not_there_are_named(tmp_path):
    with pytest.raises(MiclabError, match=r"missing\.yaml.*No such file"):
        load_study(tmp_path / "missing.yaml", "quick")
    file = write_study(tmp_path)
    with pytest.raises(MiclabError, match=re.escape("Allowed: one that the study has: quick")):
        load_study(file, "paper")
    file.write_text("grid: [")
    with pytest.raises(MiclabError, match=r"tiny\.yaml: line 1: expected the node content"):
        load_study(file, "quick")


@pytest.mark.parametrize(
    ("parent", "message"),
    [
        ({"config": {"decoder": {"layers": 3}}}, "the decoder and labels of the children"),
        ({"config": {"modalities": {"m1": {"labels": 4}}}}, "the decoder and labels of the children"),
        ({"request": {"plateau_rows": 3}}, "0: children need a known step"),
        ({"stepts": 3}, "did you mean 'steps'?"),
    ],
)
def test_a_parent_that_no_child_can_start_from_is_refused(tmp_path, parent, message):
    with pytest.raises(MiclabError, match=re.escape(message)):
        planned(tiny_study(tmp_path, 2, parent=parent))
