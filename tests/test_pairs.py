"""Pairs of Gaussian classes, and prototypes that are correlated with their partners'."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny import MODALITIES, tiny_config

from miclab.config.presets import stage_one_config
from miclab.config.request import Request
from miclab.config.schema import from_mapping, to_mapping, trajectory_hash
from miclab.errors import ConfigError
from miclab.measures.alignment import alignment
from miclab.measures.cka import debiased_cka
from miclab.measures.novel_alignment import novel_cka
from miclab.model.decoder import Decoder
from miclab.training.lineage import kept_of_parent
from miclab.training.loop import train_config
from miclab.worlds.lane_sampler import LaneSampler, raw_tensors, serves
from miclab.worlds.sequences import raw_training_batch, training_batch
from miclab.worlds.splits import SplitSizes, split_batches
from miclab.worlds.world import World, draw_world, novel_world, world_from_tensors

NARROW, WIDE = 24, 96
"""Dimensions of m2 below and above that of m1, 64."""


def paired(correlation: float = 0.6, dimension: int = NARROW, **parts):
    """A world of pairs: each label has 64 classes of m1 and 32 of m2."""
    modalities = {
        "m1": {"classes": 2048, "dimension": 64, "labels": 32},
        "m2": {"classes": 512, "dimension": dimension, "labels": 16, "prototype_correlation": correlation},
    }
    parts = {"modalities": modalities, **parts}
    return tiny_config(2, sequence={"context": 4, "burstiness": 2, "pairing": "class"}, **parts)


def partners_of(world: World) -> torch.Tensor:
    """Prototypes of m1 by class of m2: the r-th class of m2 with a label belongs to the r-th of m1 with it."""
    one, two = world.tables["m1"].label_of, world.tables["m2"].label_of
    places = torch.empty(len(two), dtype=torch.long)
    for label in range(int(two.max()) + 1):
        mine = (two == label).nonzero()[:, 0]
        places[mine] = (one == label).nonzero()[: len(mine), 0]
    return world.sources["m1"].prototypes[places]


@pytest.mark.parametrize("dimension", [NARROW, WIDE])
@pytest.mark.parametrize("correlation", [0.3, 0.6, 0.9])
def test_prototypes_have_their_norm_and_the_correlation_with_their_partners(dimension, correlation):
    """Fails if P is not to scale, a class belongs to another partner, or the share of z is not sqrt(1 - rho^2).
    Training classes and novel ones, to 4 standard errors."""
    config = paired(correlation, dimension)
    world = draw_world(config)
    novel = [novel_world(config, world, "evaluation", index) for index in range(12)]
    assert set(world.maps) == {"m2"}
    for worlds in ([world], novel):
        mine = torch.cat([one.sources["m2"].prototypes for one in worlds]).double()
        theirs = torch.cat([partners_of(one) for one in worlds]).double() @ world.maps["m2"].double()
        error = 4 * math.sqrt(2 / (len(mine) * min(dimension, 64)))
        assert float(mine.square().sum(1).mean()) == pytest.approx(1, abs=error)
        assert float(theirs.square().sum(1).mean()) == pytest.approx(1, abs=error)
        assert float((mine * theirs).sum(1).mean()) == pytest.approx(correlation, abs=error)
        others = theirs.roll(1, 0)
        assert float((mine * others).sum(1).mean()) == pytest.approx(0, abs=error)


@pytest.mark.parametrize("dimension", [NARROW, 64, WIDE])
def test_the_map_is_orthonormal_up_to_its_scale(dimension):
    """Fails if rows (or columns, where m2 is wider) are not orthonormal, or the scale is not that of the norm."""
    config = paired(dimension=dimension)
    found = draw_world(config).maps["m2"].double()
    product = found.T @ found * (dimension / 64) if dimension <= 64 else found @ found.T
    assert torch.allclose(product, torch.eye(len(product), dtype=torch.double), atol=1e-5)
    assert not torch.allclose(found, draw_world(replace(config, seed=1)).maps["m2"].double(), atol=0.1)


def test_without_correlation_nothing_changes():
    """Fails if 0 renames old runs, or gives other prototypes than today, with pairs or without. With 1 nothing is left
    of m2's own part."""
    plain, none = tiny_config(2), to_mapping(tiny_config(2))
    none["modalities"]["m2"]["prototype_correlation"] = 0
    assert trajectory_hash(from_mapping(type(plain), none)) == trajectory_hash(plain)
    with_pairs = paired(0.0)
    with_labels = replace(with_pairs, sequence=replace(with_pairs.sequence, pairing="label"))
    hashes = {trajectory_hash(one) for one in (with_labels, with_pairs, paired(0.6))}
    assert len(hashes) == 3
    one, two = draw_world(with_pairs), draw_world(with_labels)
    assert one.tensors().keys() == two.tensors().keys()
    assert all(torch.equal(value, two.tensors()[name]) for name, value in one.tensors().items())
    fresh = [novel_world(c, w, "evaluation", 3) for c, w in ((with_pairs, one), (with_labels, two))]
    assert torch.equal(*(w.sources["m2"].prototypes for w in fresh))
    whole = draw_world(paired(1.0))
    assert torch.allclose(whole.sources["m2"].prototypes, partners_of(whole) @ whole.maps["m2"], atol=1e-6)


def test_a_world_is_restored_and_follows_the_prototypes_of_its_parent():
    """Fails if the map is not kept with the world, or correlated prototypes are made of other classes of m1 than those
    of the parent."""
    config = paired(1.0)
    world = draw_world(config)
    restored = world_from_tensors(config, world.tensors())
    assert all(torch.equal(value, restored.tensors()[name]) for name, value in world.tensors().items())
    before = replace(stage_one_config(config), seed=5)
    kept = kept_of_parent(config, before, draw_world(before).tensors())
    child = draw_world(config, kept)
    assert torch.equal(child.sources["m1"].prototypes, draw_world(before).sources["m1"].prototypes)
    assert not torch.equal(child.sources["m2"].prototypes, world.sources["m2"].prototypes)
    assert torch.allclose(child.sources["m2"].prototypes, partners_of(child) @ child.maps["m2"], atol=1e-6)
    # A child with another correlation does not inherit m2.
    assert "prototypes.m2" not in kept_of_parent(paired(0.5), config, world.tensors())
    assert "prototype_map.m2" in kept_of_parent(paired(1.0), config, world.tensors())


@pytest.mark.parametrize("dimension", [5, 12])
def test_a_run_keeps_its_map_and_its_rows_hold_the_alignment_of_novel_classes(tmp_path, dimension):
    """Fails if a correlated world cannot be stored, whatever the shape of its map, or rows lack `novel_cka`. A run
    whose pairs share their label has no such value."""
    m1 = {**MODALITIES["m1"], "novel_classes": 256}
    m2 = {**MODALITIES["m2"], "dimension": dimension, "novel_classes": 128, "prototype_correlation": 0.5}
    sequence = {"context": 4, "burstiness": 2, "pairing": "class"}
    config = tiny_config(2, modalities={"m1": m1, "m2": m2}, sequence=sequence)
    request = Request(steps=1, evaluate_every=1, checkpoint_every=1, sequences=4, novel_sets=2)
    run, _ = train_config(config, request, tmp_path)
    assert torch.equal(run.world_tensors()["prototype_map.m2"], draw_world(config).maps["m2"])
    values = [row["alignment"]["m2"]["novel_cka"] for row in run.rows()]
    assert values
    assert all(-0.1 < value < 1 for value in values)
    plain, _ = train_config(tiny_config(2), request, tmp_path)
    assert "novel_cka" not in plain.rows()[-1]["alignment"]["m2"]


@pytest.mark.parametrize("leader", ["m2", "m1"])
def test_sequences_show_pairs(leader):
    """Fails if a class meets another partner in any sequence, two classes have one partner, or labels differ."""
    modalities = {"m1": {**MODALITIES["m1"], "labels": 4}, "m2": {**MODALITIES["m2"], "classes": 32}}
    sequence = {"context": 4, "burstiness": 2, "bursty_fraction": 0.5, "pairing": "class", "leader": leader}
    config = tiny_config(2, modalities=modalities, sequence=sequence)
    world, pairs = draw_world(config), set()
    batches = [training_batch(config, world, step) for step in range(8)]
    batches += [batch for _, batch in split_batches(config, world, "swapped", SplitSizes(sequences=32, novel_sets=1))]
    for batch in batches:
        pairs |= set(zip(batch.classes["m1"].flatten().tolist(), batch.classes["m2"].flatten().tolist(), strict=True))
    assert len(pairs) == 32 == len({one for one, _ in pairs}) == len({two for _, two in pairs})
    for one, two in pairs:
        assert int(world.tables["m1"].label_of[one]) == int(world.tables["m2"].label_of[two])
    fresh = next(split_batches(config, world, "icl", SplitSizes(sequences=64, novel_sets=1)))[1]
    shown = {
        (int(a), int(b)) for a, b in zip(fresh.classes["m1"].flatten(), fresh.classes["m2"].flatten(), strict=True)
    }
    assert len(shown) == len({one for one, _ in shown}) == len({two for _, two in shown})


def test_a_perfect_projector_is_aligned_on_novel_classes_the_more_the_higher_the_correlation():
    """Fails if novel classes follow another map, or CKA has no room to rise. The projector is the least-squares map
    from prototypes of m2 to their partners, of training classes alone."""
    found = []
    for correlation in (0.0, 0.3, 0.6, 0.9):
        config = paired(correlation, dimension=64)
        world = draw_world(config)
        projector = torch.linalg.lstsq(world.sources["m2"].prototypes, partners_of(world)).solution
        novel = [novel_world(config, world, "evaluation", index) for index in range(12)]
        items = torch.cat([one.sources["m2"].prototypes for one in novel]) @ projector
        found.append(debiased_cka(items, torch.cat([partners_of(one) for one in novel])))
    assert abs(found[0]) < 0.05
    assert found == sorted(found)
    # Of equal dimensions: rho^2 up to what 512 classes teach.
    assert found[1:] == pytest.approx([0.09, 0.36, 0.81], abs=0.06)


def test_alignment_pairs_partners():
    """Fails if `alignment` pairs classes by label where they have partners: P turned back is aligned, and an item's
    nearest prototype is its partner's; another map's is not."""
    config = paired(1.0, dimension=64, bridge={"projector": "linear"})
    world, parameters = (
        draw_world(config),
        Decoder(paired(1.0, 64, bridge={"projector": "linear"})).initial_parameters(0),
    )
    found = {}
    for name, weights in (("right", world.maps["m2"].T), ("wrong", world.maps["m2"].T.roll(1, 0))):
        mine = parameters | {"bridge.m2.0": weights}
        found[name] = alignment(config, world, mine, "m2", rows=128, shuffles=20, draws=2)
    assert found["right"].cka.mean > 0.9
    assert found["right"].retrieval.mean > 0.95
    assert found["right"].above_null
    assert found["wrong"].retrieval.mean < 0.05
    assert novel_cka(config, world, parameters | {"bridge.m2.0": world.maps["m2"].T}, "m2", 300) > 0.9


def test_alignment_by_heart_does_not_reach_novel_classes():
    """Fails if `novel_cka` looks at training classes: here a projector puts each of 32 near its partner, by heart."""
    modalities = {
        "m1": {"classes": 64, "dimension": 16, "labels": 8},
        "m2": {"classes": 32, "dimension": 64, "labels": 8, "noise": 0.0},
    }
    sequence = {"context": 4, "burstiness": 2, "pairing": "class"}
    config = tiny_config(2, modalities=modalities, sequence=sequence, bridge={"projector": "linear"})
    world = draw_world(config)
    by_heart = torch.linalg.lstsq(world.sources["m2"].prototypes, partners_of(world), driver="gelsd").solution
    mine = Decoder(config).initial_parameters(0) | {"bridge.m2.0": by_heart}
    assert alignment(config, world, mine, "m2", rows=256, shuffles=5, draws=2).cka.mean > 0.99
    assert abs(novel_cka(config, world, mine, "m2")) < 0.05


def test_a_sampler_of_lanes_draws_pairs():
    """Fails if lanes that differ in K2 and rho do not draw what each draws by itself."""
    base = paired(0.5, numerics={"sampler": "device"})
    configs = []
    for seed, (classes, correlation) in enumerate(((512, 0.0), (64, 0.5), (128, 0.9))):
        m2 = replace(base.modalities["m2"], classes=classes, prototype_correlation=correlation)
        configs.append(replace(base, seed=seed, modalities={**base.modalities, "m2": m2}))
    worlds = [draw_world(config) for config in configs]
    assert serves(configs)
    drawn = LaneSampler(configs, worlds, 3, torch.device("cpu")).draw([0, 7, 9])
    for lane, step in enumerate((0, 7, 9)):
        alone = raw_tensors(raw_training_batch(configs[lane], worlds[lane], step))
        for name in ("m1", "m2"):
            assert torch.equal(drawn["classes"][name][lane], alone["classes"][name])
            assert torch.equal(drawn["centres"][name][lane], alone["centres"][name])


REFUSED = {
    "below": ({"m2": {"prototype_correlation": -0.1}}, r"m2\.prototype_correlation = -0\.1.*at least 0 and at most 1"),
    "above": ({"m2": {"prototype_correlation": 1.1}}, r"m2\.prototype_correlation = 1\.1.*at least 0 and at most 1"),
    "source": ({"m2": {"source": "small:glyphs"}}, r"m2\.prototype_correlation.*0 with modalities\.m2\.source"),
    "primary": ({"m1": {"prototype_correlation": 0.5}}, r"m1\.prototype_correlation.*m1 is the primary one"),
    "classes": ({"m2": {"classes": 2048}}, r"m2\.classes = 2048.*at most 1024.*a class of m1"),
    "labels": ({"m1": {"labels": 8, "classes": 2048}}, r"m2\.labels = 16.*at most modalities\.m1\.labels = 8"),
    "encoder": (
        {"m2": {"encoder": "mlp", "encoder_step": 5}},
        r"m2\.prototype_correlation.*0 with a pretrained encoder",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_correlated_is_refused_by_name(name):
    """Fails if a correlation that no class could have is taken, or the message does not name field and way out."""
    changes, message = REFUSED[name]
    plain = to_mapping(paired(0.5))
    for modality, change in changes.items():
        plain["modalities"][modality] |= change
    with pytest.raises(ConfigError, match=message):
        from_mapping(type(paired()), plain)


def test_pairs_that_cannot_be_are_refused():
    """Fails if a correlation without pairs, pairs of one modality or of real data, or a novel class without a partner
    is taken."""
    plain = paired(0.5)
    with pytest.raises(ConfigError, match=r"prototype_correlation.*sequence\.pairing = 'class'"):
        replace(plain, sequence=replace(plain.sequence, pairing="label"))
    with pytest.raises(ConfigError, match=r"sequence\.pairing.*'label' with one modality"):
        tiny_config(1, sequence={"pairing": "class"})
    with pytest.raises(ConfigError, match=r"m1\.prototype_correlation.*no other modality"):
        tiny_config(1, modalities={"m1": {**MODALITIES["m1"], "prototype_correlation": 0.5}})
    real = {"m1": {"source": "small:glyphs", "labels": 4}, "m2": MODALITIES["m2"]}
    with pytest.raises(ConfigError, match=r"sequence\.pairing.*m1 has a source"):
        tiny_config(2, modalities=real, sequence={"pairing": "class"})
    many = replace(plain, modalities={**plain.modalities, "m2": replace(plain.modalities["m2"], novel_classes=128)})
    with pytest.raises(ConfigError, match=r"m2\.novel_classes = 128.*at most 64.*128 classes of m1"):
        novel_world(many, draw_world(many), "evaluation", 0)
    config = tiny_config(2, sequence={"task": "joint_label", "groups": [4, 4], "pairing": "label"})
    with pytest.raises(ConfigError, match=r"sequence\.pairing.*task 'shared_label'"):
        replace(config, sequence=replace(config.sequence, pairing="class"))


@pytest.mark.parametrize("labels", [8, 16])
def test_novel_classes_of_a_leading_host_have_their_own_partners(labels):
    """Fails if partners are sought from m2, which has more novel classes than the leader m1, and other labels."""
    modalities = {
        "m1": {"classes": 64, "dimension": 64, "labels": 8, "novel_classes": 64},
        "m2": {"classes": 8 * labels, "dimension": 64, "labels": labels, "noise": 0.0, "novel_classes": 16 * labels,
               "prototype_correlation": 0.0},
    }  # fmt: skip
    sequence = {"context": 4, "burstiness": 2, "pairing": "class", "leader": "m1"}
    config = tiny_config(2, modalities=modalities, sequence=sequence, bridge={"projector": "linear"})
    world = draw_world(config)
    here = novel_world(config, world, "evaluation", 0)
    leading = torch.arange(64)
    # A projector that knows the partners of the first set by heart.
    known = here.sources["m2"].prototypes[here.partners["m2"][leading]]
    by_heart = torch.linalg.lstsq(known, here.sources["m1"].prototypes[leading], driver="gelsd").solution
    mine = Decoder(config).initial_parameters(0) | {"bridge.m2.0": by_heart}
    assert novel_cka(config, world, mine, "m2", 64) > 0.99
