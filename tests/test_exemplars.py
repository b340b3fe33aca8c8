"""Real data as a source: what is held out stays out, pairing, labels, and that all else is one piece of code."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_config

from miclab.config import schema
from miclab.config.request import SplitSizes
from miclab.config.run import RunConfig
from miclab.data import load
from miclab.errors import ConfigError, RunError
from miclab.seeds import stream
from miclab.worlds.class_index import distinct_slots
from miclab.worlds.exemplars import exemplars_of, known_exemplars, ordered, partners, shifted
from miclab.worlds.mixtures import MixtureSource, mixture_pairs
from miclab.worlds.sequences import Batch, training_batch
from miclab.worlds.source_facts import FACTS, read_facts, resolved
from miclab.worlds.splits import SPLITS, split_batches
from miclab.worlds.world import World, draw_world, world_from_tensors

WORDS = {"source": "small:concepts.words", "labels": 8, "noise": 0.0}
SPEECH = {"source": "small:concepts.speech", "labels": 4, "noise": 0.0, "classes": 20}
PICTURES = {"source": "small:concepts.pictures", "labels": 4, "noise": 0.0, "classes": 30}


def real_config(modalities: dict | None = None, **parts) -> RunConfig:
    """Words, speech and pictures of the small set."""
    modalities = modalities or {"words": WORDS, "speech": SPEECH, "pictures": PICTURES}
    plain = {
        "sequence": {"context": 4, "burstiness": 2},
        "optimiser": {"batch_size": 32},
        "numerics": {"mode": "eager"},
    }
    return resolved(schema.from_mapping(RunConfig, {**plain, **parts, "modalities": modalities}))


def exemplar_ids(config: RunConfig, name: str, items: torch.Tensor) -> torch.Tensor:
    """Which exemplar each item is; items have to be exemplars to the bit."""
    known = known_exemplars(config.modalities[name])
    every = known.vectors(torch.arange(len(known.data.items)))
    distance, found = torch.cdist(items.flatten(0, 1).double(), every.double()).min(1)
    assert float(distance.max()) < 1e-5
    return found.view(items.shape[:2])


def names_of(world: World, batch: Batch, name: str) -> list[list[str]]:
    names = world.sources[name].names  # type: ignore[union-attr]
    return [[names[c] for c in row] for row in batch.classes[name].tolist()]


@pytest.mark.parametrize("pairing", ["label", "concept"])
def test_a_held_out_concept_is_seen_in_training_in_no_modality(pairing):
    """Fails if training, or a split of training classes, shows an exemplar of a held-out concept in any modality, or
    `icl` shows one of a training concept."""
    modalities = {
        name: {**m, "labels": 4, "classes": 30} for name, m in zip("abc", (WORDS, SPEECH, PICTURES), strict=True)
    }
    config = real_config(modalities, sequence={"context": 4, "burstiness": 2, "pairing": pairing})
    world = draw_world(config)
    training = [training_batch(config, world, step) for step in range(4)]
    splits = {s: list(split_batches(config, world, s, SplitSizes(sequences=20, novel_sets=3))) for s in SPLITS}
    for name in config.order:
        data = known_exemplars(config.modalities[name]).data
        for batch in [*training, *(b for s in ("train", "swapped", "iwl") for _, b in splits[s])]:
            ids = exemplar_ids(config, name, batch.items[name])
            assert not data.held_out_classes[data.class_of[ids]].any()
        for _, batch in splits["icl"]:
            ids = exemplar_ids(config, name, batch.items[name])
            assert data.held_out_classes[data.class_of[ids]].all()


def test_training_shows_training_exemplars_and_evaluations_query_held_out_ones():
    """Fails if a held-out exemplar is seen in training, or an evaluation on training classes queries one that was."""
    config = real_config()
    world = draw_world(config)
    for name in config.order:
        held_out = known_exemplars(config.modalities[name]).data.held_out_exemplars
        for step in range(4):
            assert not held_out[exemplar_ids(config, name, training_batch(config, world, step).items[name])].any()
        for split in ("train", "swapped", "iwl"):
            for _, batch in split_batches(config, world, split, SplitSizes(sequences=40)):
                ids = exemplar_ids(config, name, batch.items[name])
                assert held_out[ids[:, -1]].all()
                assert not held_out[ids[:, :-1]].any()


def test_items_are_of_the_classes_and_labels_that_the_batch_says():
    """Fails if an item is of another class than its sequence says, exemplars are paired across labels, or a label is
    not that of the world."""
    config = real_config()
    world = draw_world(config)
    for here, batch in [
        (world, training_batch(config, world, 0)),
        *split_batches(config, world, "icl", SplitSizes(sequences=30, novel_sets=2)),
    ]:
        labels = torch.cat([batch.labels, batch.target[:, None]], 1)
        for name in config.order:
            source = here.sources[name]
            ids = exemplar_ids(config, name, batch.items[name])
            data = known_exemplars(config.modalities[name]).data
            assert torch.equal(data.class_of[ids], source.classes[batch.classes[name]])  # type: ignore[union-attr]
            assert torch.equal(here.tables[name].label_of[batch.classes[name]], labels)
        # The query's exemplar never stands in its context.
        for name in config.order:
            ids = exemplar_ids(config, name, batch.items[name])
            assert not (ids[:, :-1] == ids[:, -1:]).any()


def test_pairing_by_concept_pairs_the_same_concept():
    """Fails if an exemplar's items are of different concepts, in training or on novel classes, or labels disagree."""
    modalities = {"a": {**WORDS, "labels": 4}, "b": SPEECH, "c": PICTURES}
    sequence = {"context": 4, "burstiness": 2, "pairing": "concept", "leader": "b"}
    config = real_config(modalities, sequence=sequence)
    world = draw_world(config)
    batches = [(world, training_batch(config, world, 0))]
    batches += list(split_batches(config, world, "icl", SplitSizes(sequences=30, novel_sets=2)))
    for here, batch in batches:
        text = [names_of(here, batch, name) for name in config.order]
        assert text[0] == text[1] == text[2]
        labels = torch.cat([batch.labels, batch.target[:, None]], 1)
        for name in config.order:
            assert torch.equal(here.tables[name].label_of[batch.classes[name]], labels)
    few = replace(config, modalities={**config.modalities, "a": replace(config.modalities["a"], classes=10)})
    with pytest.raises(ConfigError, match=r"modalities\.a\.classes = 10.*every concept of b"):
        draw_world(few)
    with pytest.raises(ConfigError, match="same number of labels"):
        real_config({"a": WORDS, "b": SPEECH}, sequence=sequence)
    with pytest.raises(ConfigError, match=r"sequence\.pairing.*a source for m1"):
        tiny_config(2, sequence={"context": 4, "burstiness": 2, "pairing": "concept"})


def test_a_concept_that_one_modality_holds_out_is_held_out_in_the_others(monkeypatch):
    """Fails if only a modality's own marks count, or a parent's classes that are held out now are taken over."""
    config = real_config({"a": WORDS, "b": SPEECH})
    world = draw_world(config)
    seen = world.sources["a"].names[0]  # type: ignore[union-attr]
    data = load("small:concepts.speech")
    marks = data.held_out_classes.clone()
    marks[data.class_names.index(seen)] = True
    exemplars = exemplars_of("small:concepts.speech")
    marked = replace(data, held_out_classes=marks)
    monkeypatch.setattr(exemplars, "data", marked)
    plain = schema.to_mapping(config)
    for part in plain["modalities"].values():
        part |= {"content": "", "classes": 40}
    plain = schema.to_mapping(resolved(schema.from_mapping(RunConfig, plain)))
    # What planning knows of the shipped data is not what was put in their place.
    plain["modalities"]["b"]["content"] = marked.content
    other = schema.from_mapping(RunConfig, plain)
    assert seen not in draw_world(other).sources["a"].names  # type: ignore[union-attr]
    parent = {k: v for k, v in world.tensors().items() if k.endswith(".a")}
    grown = replace(other, modalities={**other.modalities, "a": config.modalities["a"]})
    with pytest.raises(RunError, match=f"trained on 1 classes of a that another modality holds out, such as '{seen}'"):
        draw_world(grown, parent)


def test_the_world_is_kept_by_classes_and_labels_and_other_data_are_noticed():
    """Fails if a stored world comes back with other classes, or data of other content pass for the same."""
    config = real_config()
    world = draw_world(config)
    again = world_from_tensors(config, world.tensors())
    for name in config.order:
        assert torch.equal(again.sources[name].classes, world.sources[name].classes)  # type: ignore[union-attr]
    one, two = training_batch(config, world, 3), training_batch(config, again, 3)
    assert all(torch.equal(one.items[name], two.items[name]) for name in config.order)
    other = replace(config, modalities={"words": replace(config.modalities["words"], content="0" * 64)})
    with pytest.raises(RunError, match="holds other data"):
        draw_world(other)
    assert schema.trajectory_hash(other) != schema.trajectory_hash(config)


def test_fewer_classes_are_among_more_and_labels_of_the_first_stay():
    """Fails if a study over the number of classes compares other classes, or deals labels anew."""
    many = draw_world(real_config({"a": {**WORDS, "classes": 40}}))
    few = draw_world(real_config({"a": {**WORDS, "classes": 16}}))
    assert few.sources["a"].names == many.sources["a"].names[:16]  # type: ignore[union-attr]
    assert torch.equal(few.tables["a"].label_of, many.tables["a"].label_of[:16])
    assert ordered(["b", "A"], 0, "x") == ([0, 1] if ordered(["a", "B"], 0, "x") == [1, 0] else [1, 0])
    counts = torch.bincount(many.tables["a"].label_of)
    assert int(counts.max() - counts.min()) <= 1


@given(st.integers(0, 10_000), st.lists(st.integers(1, 6), min_size=3, max_size=3), st.integers(1, 7))
def test_no_exemplar_twice_while_there_are_others(seed, counts, width):
    """Fails if an entry repeats one of its class while others are left, falls outside its class, or (where a class is
    used up) repeats the first, which is the query's."""
    generator = stream(seed, "test")
    classes = torch.randint(3, (20, width), generator=generator)
    sizes = torch.tensor(counts)[classes]
    slots = distinct_slots(classes, sizes, generator)
    assert ((slots >= 0) & (slots < sizes)).all()
    for row, own in zip(classes.tolist(), slots.tolist(), strict=True):
        for label in set(row):
            mine = [slot for slot, c in zip(own, row, strict=True) if c == label]
            assert len(set(mine)) >= min(len(mine), counts[label])
            if counts[label] > 1:
                assert mine[0] not in mine[1:]


def test_every_exemplar_comes_equally_often():
    """Fails if the draw without repetition favours a place: 5 standard errors of a uniform draw."""
    classes = torch.zeros(20_000, 3, dtype=torch.long)
    slots = distinct_slots(classes, torch.full_like(classes, 4), stream(0, "test"))
    for place in range(3):
        share = torch.bincount(slots[:, place], minlength=4) / 20_000
        assert float((share - 0.25).abs().max()) < 5 * (0.25 * 0.75 / 20_000) ** 0.5


def test_pictures_are_shifted_in_training_alone():
    """Fails if a shift wraps around, moves by more than it may, or reaches an evaluation."""
    picture = torch.arange(3 * 8 * 8.0).view(1, 3, 8, 8)
    moved = shifted(picture.expand(200, -1, -1, -1), 2, stream(0, "test"))
    centre = moved[:, :, 4, 4]
    assert {tuple(v) for v in centre.tolist()} == {
        tuple(picture[0, :, y, x].tolist()) for y in range(2, 7) for x in range(2, 7)
    }
    config = real_config({"a": WORDS, "b": {**PICTURES, "shift": 2}})
    world = draw_world(config)
    still = real_config({"a": WORDS, "b": PICTURES})
    assert not torch.equal(
        training_batch(config, world, 0).items["b"], training_batch(still, draw_world(still), 0).items["b"]
    )
    assert draw_world(config).evaluated().sources["b"].shift == 0  # type: ignore[union-attr]


def test_prototypes_are_the_means_of_training_exemplars():
    """Fails if a held-out exemplar goes into a class's mean."""
    config = real_config({"a": WORDS})
    source = draw_world(config).sources["a"]
    data = load("small:concepts.words")
    for index in (0, 5):
        mine = (data.class_of == source.classes[index]) & ~data.held_out_exemplars  # type: ignore[union-attr]
        wanted = data.floats(mine.nonzero()[:, 0]).mean(0)
        assert torch.allclose(source.prototypes[index], wanted, atol=1e-6)
    assert partners(replace(config, modalities=config.modalities), {"a": source}) == {}  # type: ignore[dict-item]


def test_a_mixture_is_made_of_training_exemplars_of_its_two_classes():
    """Fails if a mixture's item is not (a + b) / sqrt(2) of an exemplar of each, a held-out exemplar or concept is in
    one that training sees, a class of the data is changed by mixtures, or `icl` shows one."""
    config = real_config({"a": {**WORDS, "classes": 20, "blends": 50}})
    plain = real_config({"a": {**WORDS, "classes": 20}})
    assert schema.trajectory_hash(config) != schema.trajectory_hash(plain)
    world = draw_world(config)
    source = world.sources["a"]
    data = known_exemplars(config.modalities["a"]).data
    assert isinstance(source, MixtureSource)
    assert len(source.names) == len(world.tables["a"].label_of) == 70
    assert source.names[20:] == tuple(f"{source.names[i]} + {source.names[j]}" for i, j in source.parents[20:].tolist())
    assert world.tables["a"].label_of.bincount().min() >= 70 // 8
    known = known_exemplars(config.modalities["a"])
    for here, batch in [
        (world, training_batch(config, world, 0)),
        *split_batches(config, world, "iwl", SplitSizes(sequences=30)),
    ]:
        shown = here.sources["a"]
        kinds = set()
        for row in range(len(batch)):
            for place in range(5):
                wanted = data.held_out_exemplars == (place == 4 and here is not world)
                chosen = int(batch.classes["a"][row, place])
                candidates = [
                    known.vectors(((data.class_of == source.classes[parent]) & wanted).nonzero()[:, 0])
                    for parent in source.parents[chosen].tolist()
                ]
                made = (
                    (candidates[0][:, None] + candidates[1][None]).flatten(0, 1) / 2**0.5
                    if chosen >= 20
                    else candidates[0]
                )
                assert float((made - batch.items["a"][row, place]).norm(dim=1).min()) < 1e-5
                kinds.add(chosen >= 20)
        assert kinds == {True, False}
        assert torch.allclose(shown.prototypes[:20], source.without_mixtures().prototypes)
    first, second = source.parents[33].tolist()
    assert torch.allclose(source.prototypes[33] * 2**0.5, source.prototypes[first] + source.prototypes[second])
    for here, _ in split_batches(config, world, "icl", SplitSizes(sequences=4, novel_sets=2)):
        assert not isinstance(here.sources["a"], MixtureSource)
    assert torch.equal(world_from_tensors(config, world.tensors()).tables["a"].label_of, world.tables["a"].label_of)


@given(st.integers(3, 40), st.data())
def test_no_two_mixtures_are_of_the_same_pair(classes, data):
    """Fails if a pair comes twice or is of one class, or classes are used unevenly."""
    mixtures = data.draw(st.integers(0, classes * ((classes - 1) // 2)))
    pairs = mixture_pairs(classes, mixtures).tolist()
    assert len({frozenset(pair) for pair in pairs}) == mixtures
    assert all(len(set(pair)) == 2 for pair in pairs)
    uses = torch.tensor(pairs, dtype=torch.long).flatten().bincount(minlength=classes)
    assert int(uses.max() - uses.min()) <= 2


def test_mixtures_are_paired_by_concept_and_keep_their_labels():
    """Fails if a mixture meets another one in another modality, or carries another label there."""
    modalities = {
        name: {**m, "labels": 4, "classes": 20, "blends": 30} for name, m in zip("ab", (WORDS, SPEECH), strict=True)
    }
    config = real_config(modalities, sequence={"context": 4, "burstiness": 2, "pairing": "concept"})
    world = draw_world(config)
    batch = training_batch(config, world, 0)
    assert names_of(world, batch, "a") == names_of(world, batch, "b")
    labels = torch.cat([batch.labels, batch.target[:, None]], 1)
    for name in "ab":
        assert torch.equal(world.tables[name].label_of[batch.classes[name]], labels)


def test_what_real_data_cannot_give_is_refused():
    """Fails if a run begins that requests more labels than are held out, for fresh classes, or for shifted vectors."""
    with pytest.raises(ConfigError, match=r"novel_fraction.*no fresh classes"):
        real_config(sequence={"context": 4, "burstiness": 2, "novel_fraction": 0.5})
    many = real_config({"a": {**WORDS, "labels": 32}})
    with pytest.raises(ConfigError, match=r"modalities\.a\.labels = 32.*at most 16"):
        list(split_batches(many, draw_world(many), "icl", SplitSizes(sequences=2, novel_sets=1)))
    with pytest.raises(ConfigError, match=r"encoder.*has no pictures"):
        real_config({"a": {**WORDS, "encoder": "vit"}})
    with pytest.raises(ConfigError, match=r"blends = 5.*0 without"):
        real_config({"a": {"labels": 8, "classes": 16, "blends": 5}})
    with pytest.raises(ConfigError, match=r"blends = 200.*at most 180"):
        real_config({"a": {**WORDS, "classes": 20, "blends": 200}})
    with pytest.raises(ConfigError, match=r"shift = 1.*only pictures"):
        real_config({"a": {"labels": 8, "classes": 16, "shift": 1}})


def test_what_is_written_down_of_shipped_data_is_what_they_are():
    """Fails if data changed and `sources.json` did not; `python scripts/source_facts.py` writes it anew."""
    written = json.loads(FACTS.read_text())["manifest"]
    assert len(written) == 12
    for name in ("concepts.words", "concepts.speech", "small:glyphs", "uncentred:concepts.words"):
        facts = read_facts(name)
        assert written[name] == {"content": facts.content, "shape": list(facts.shape), "classes": facts.classes}
