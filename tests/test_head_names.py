"""What heads are called, by pattern and need; patterns replaced; what measures come to under uniform attention."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import lively_parameters, tiny_config

from miclab.circuits.effects import Effect
from miclab.circuits.find import HALFWAY, PATTERNS, CircuitHeads
from miclab.circuits.head_names import AVERAGING, OTHER, Named, names_of, names_table, need_word, pattern_word, words_of
from miclab.circuits.patterns import pattern_point, set_patterns
from miclab.circuits.running_mean import AveragingLayer
from miclab.config.options import ATTENTION
from miclab.errors import ConfigError
from miclab.measures.attention import strengths
from miclab.measures.baselines import baselines, levels, uniform_by_head, uniform_levels
from miclab.measures.layer import causal
from miclab.model.decoder import Decoder
from miclab.statistics.intervals import Interval
from miclab.worlds.roles import sequence_roles
from miclab.worlds.sequences import config_roles, training_batch
from miclab.worlds.world import draw_world


def sure(value: float, half: float = 0.0) -> Interval:
    """An estimate with an interval of this half width."""
    return Interval(value, value - half, value + half, "set", 8)


# -- words ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("uniform", [0.0, 0.17, 0.25])
def test_a_pattern_is_named_from_halfway_on_with_its_whole_interval(uniform):
    """Fails if halfway is taken from 0 instead of from uniform attention, or the estimate alone decides."""
    line = uniform + HALFWAY * (1 - uniform)
    for place in ("previous token", "induction"):
        name = f"{place.replace(' ', '-')} head"
        assert pattern_word(place, sure(line + 0.03, 0.02), uniform, sure(0.9)) == name
        assert pattern_word(place, sure(line + 0.01, 0.02), uniform, sure(0.9)) == AVERAGING
        assert pattern_word(place, sure(uniform), uniform, sure(1.0)) == AVERAGING
        assert pattern_word(place, sure(uniform), uniform, sure(0.2)) == OTHER
        assert pattern_word(place, sure(uniform), uniform, None) == OTHER


def test_a_pattern_is_needed_by_its_whole_interval_and_beyond_random_heads():
    """Fails if the drop's estimate decides, or a drop that any heads cause counts."""
    assert need_word(sure(0.31, 0.02), None) == "needed"
    assert need_word(sure(0.31, 0.02), sure(0.2, 0.1)) == "needed"
    assert need_word(sure(0.12, 0.05), None) == "need undecided"
    assert need_word(sure(0.31, 0.02), sure(0.1, 0.2)) == "need undecided"
    assert need_word(sure(0.31, 0.02), sure(-0.1, 0.05)) == "redundant"
    assert need_word(sure(-0.006, 0.003), None) == "redundant"


class Stub:
    """Interventions with known answers: accuracy is lost by how many of the needed heads lose their pattern."""

    def __init__(self, own: dict, needed: set, cost: float):
        self.config, self.needed, self.cost = tiny_config(1, decoder={"heads": 3, "width": 24}), needed, cost
        shape = (4, 2, 3)
        measures = {name: np.zeros(shape) for name in ("label_to_item.m1", "induction_total")}
        measures |= {name: np.ones(shape) for name in ("entropy", "label_row_entropy")}
        for (name, head), value in own.items():
            measures[name][:, *head] = value
        self.before = np.full((4, 50), 0.9)
        self.untouched = SimpleNamespace(strengths=measures, correct=self.before)

    def knocked(self, name, heads, baseline):
        lost = self.cost if self.needed <= set(heads) else 0.0
        return Effect(name, heads, self.before - lost, self.before, self.before)

    def drawn(self, name, chosen, baseline):
        correct = [self.knocked(name, heads, baseline).correct for heads in chosen.draws]
        return Effect(name, (), np.mean(correct, 0), self.before, self.before, chosen.draws) if correct else None


def circuit() -> CircuitHeads:
    return CircuitHeads((1, 0), (0, 0), tuple(h for h in product(range(2), range(3)) if h not in ((0, 0), (1, 0))))


def test_one_of_two_redundant_heads_is_redundant_and_both_together_are_needed():
    """Fails if a group is not cut together, holds a head without the pattern or behind the induction head, or a
    head's name comes from another place."""
    label, right = "label_to_item.m1", "induction_total"
    own = {(label, (0, 0)): 0.9, (label, (0, 2)): 0.8, (label, (1, 1)): 0.9, (right, (1, 0)): 0.3, (right, (1, 1)): 0.2}
    found = names_of(Stub(own, {(0, 0), (0, 2)}, 0.4), circuit())
    assert [(one.heads, one.words) for one in found] == [
        (((0, 0),), "previous-token head, redundant"),
        (((0, 0), (0, 2)), "previous-token heads together, needed"),
        (((1, 0),), "averaging head, redundant"),
    ]
    assert found[1].looks.mean == pytest.approx(0.8)
    assert found[0].uniform == pytest.approx(uniform_levels(tiny_config(1))[label])
    shown = names_table(["a"], [found])
    assert [str(row[0]) for row in shown.rows] == ["0.0", "0.0, 0.2", "1.0"]
    alone = names_of(Stub({}, {(0, 0)}, 0.4), circuit())
    assert [one.words for one in alone] == ["averaging head, needed", "averaging head, redundant"]
    assert alone[0].beyond is not None
    assert alone[0].beyond.mean == pytest.approx(0.4)
    bare = Named("induction", ((1, 0),), AVERAGING, sure(0.2), 0.0, sure(0.4), None)
    assert str(names_table(["a"], [[bare]]).rows[0][-1]) == "no other heads"


# -- uniform attention ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [1, 2, 3])
def test_uniform_levels_are_sums_over_places(count):
    """Fails if a level is not the mean of 1/(i+1) of its definition."""
    config = tiny_config(count)
    levels, length, per = uniform_levels(config), config.sequence_length, count + 1
    assert levels["previous_token_1"] == pytest.approx(np.mean([1 / (i + 1) for i in range(1, length)]), abs=1e-5)
    labels = [per * n + count for n in range(4)]
    for modality in config.order:
        assert levels[f"label_to_item.{modality}"] == pytest.approx(np.mean([1 / (i + 1) for i in labels]), abs=1e-5)
    assert levels["total_label_attention"] == pytest.approx(4 / length, abs=1e-5)
    assert (levels["entropy"], levels["induction_total"]) == pytest.approx((1, 0), abs=1e-5)


@pytest.mark.parametrize("name", sorted(ATTENTION))
def test_uniform_attention_of_a_layer_is_over_what_it_may_see(name):
    """Fails if a mechanism that hides nothing has other levels than the causal mask gives."""
    config = tiny_config(1, decoder={"attention": name, "heads": 2, "positions": "none"})
    plain, found = uniform_levels(config), uniform_by_head(config)
    assert {values.shape for values in found.values()} == {(2, 2)}
    hidden = any(not torch.equal(Decoder(config).visible(i)[0], causal(config.sequence_length)) for i in range(2))
    assert hidden == any((values != plain[label]).any() for label, values in found.items())


def test_a_window_raises_the_level_of_its_own_layer_and_heads_are_named_by_it():
    """Fails if the level in a window of two is not 1/2, if it leaks to the other layer, or names ignore it."""
    config = tiny_config(1, decoder={"attention": "sliding_window:window=2,layers=[0]", "heads": 2})
    plain, found = uniform_levels(config), uniform_by_head(config)
    for name in ("previous_token_1", "label_to_item.m1"):
        # Every position but the first sees itself and the one before, which is the item of a label.
        assert found[name].tolist() == [[0.5] * 2, [plain[name]] * 2]
        one = baselines(config, [name])[name]
        assert (one.uniform, one.by_layer) == (None, (0.5, plain[name]))
        assert "layer 0: 0.500" in str(one.shown("uniform"))
        guides = " ".join(text for _, text in levels(name, config))
        assert ", layer 0: 0.5" in guides
        assert ", layer 1: " in guides
    assert found["entropy"].tolist() == [[1, 1]] * 2
    strengths = {"label_to_item.m1": np.full((4, 2, 2), 0.7)}
    words = words_of(strengths, found, "previous token", product(range(2), range(2)))
    # Halfway is 0.75 in the window, and 0.62 or less without it.
    assert [words[head][0] for head in words] == [OTHER, OTHER, "previous-token head", "previous-token head"]


# -- patterns ---------------------------------------------------------------------------------------------------------
def test_replaced_patterns_are_what_they_are_called():
    """Fails if a replacement has other answers than those worked out by hand: x1 x'1 l1 x2 x'2 l2 xq x'q."""
    roles = sequence_roles(("m1", "m2"), 2)
    length = len(roles.kind)
    drawn = torch.rand(3, 2, length, length, generator=torch.Generator().manual_seed(0)).tril() + 0.1 * torch.eye(
        length
    )
    pattern = drawn / drawn.sum(-1, keepdim=True)
    past = causal(length)[None]
    done = {kind: set_patterns([(0, 1)], kind, roles, lambda _: past)[pattern_point(0)](pattern) for kind in PATTERNS}
    for kind, found in done.items():
        assert torch.equal(found[:, 0], pattern[:, 0]), kind
        assert (found.triu(1) == 0).all(), kind
        torch.testing.assert_close(found.sum(-1), torch.ones(3, 2, length))
    mine = {kind: found[:, 1] for kind, found in done.items()}
    assert mine["uniform"][0, 3].tolist() == pytest.approx([0.25] * 4 + [0] * 4)
    assert mine["previous_token"][1].argmax(-1).tolist() == [0, 0, 1, 2, 3, 4, 5, 6]
    assert mine["own_item"][0, 2].tolist() == pytest.approx([0.5, 0.5] + [0] * 6)
    assert mine["own_item"][0, 5].tolist() == pytest.approx([0, 0, 0, 0.5, 0.5, 0, 0, 0])
    others = [0, 1, 3, 4, 6, 7]
    assert torch.equal(mine["own_item"][:, others], pattern[:, 1, others])
    assert torch.equal(mine["shuffled"].sort(-1).values, pattern[:, 1].sort(-1).values)
    assert not torch.equal(mine["shuffled"][:, -1], pattern[:, 1, -1])
    assert torch.equal(mine["other_sequence"], pattern[[2, 0, 1], 1])
    own = strengths(done["own_item"], roles, torch.tensor([[0, 1]] * 3), torch.zeros(3, dtype=torch.long))
    assert own["label_to_item.m1"][:, 1].tolist() == pytest.approx([0.5] * 3)
    with pytest.raises(ConfigError, match="uniform"):
        set_patterns([(0, 0)], "unifrom", roles, lambda _: past)


def test_patterns_stay_within_a_window():
    """Fails if a replaced pattern of a windowed layer spreads over the whole past, or the other layer gets a window."""
    config = tiny_config(1, decoder={"attention": "sliding_window:window=3,layers=[0]", "positions": "none"})
    decoder, parameters = Decoder(config), lively_parameters(config)
    batch, roles = training_batch(config, draw_world(config), 0), config_roles(config)
    seen, points = decoder.visible(0)[0], [pattern_point(layer) for layer in range(2)]
    plain = decoder.trace(parameters, batch, capture=tuple(points)).activations[points[0]]
    done = {
        kind: decoder.trace(
            parameters, batch, capture=tuple(points), edits=set_patterns([(0, 0), (1, 0)], kind, roles, decoder.visible)
        ).activations
        for kind in ("uniform", "shuffled")
    }
    for one in done.values():
        assert (one[points[0]][..., ~seen] == 0).all()
        torch.testing.assert_close(one[points[0]].sum(-1), torch.ones(len(batch), 1, len(seen)))
    assert done["uniform"][points[0]][0, 0, -1].tolist() == pytest.approx([0.0] * 6 + [1 / 3] * 3)
    assert done["uniform"][points[1]][0, 0, -1].tolist() == pytest.approx([1 / 9] * 9)
    assert torch.equal(done["shuffled"][points[0]].sort(-1).values, plain.sort(-1).values)
    assert not torch.equal(done["shuffled"][points[0]], plain)
    averaging = AveragingLayer(decoder, parameters, 0)
    for kind in ("falling", "equal", "rising"):
        weights = averaging.weighted(kind)[points[0]](plain)
        assert (weights[..., ~seen] == 0).all()
        torch.testing.assert_close(weights.sum((-2, -1)), torch.full((len(batch), 1), float(len(seen))))
    torch.testing.assert_close(averaging.weighted("falling")[points[0]](plain), done["uniform"][points[0]])


@pytest.mark.parametrize("name", sorted(ATTENTION))
def test_every_mechanism_with_a_pattern_can_have_it_replaced(name):
    """Fails if a mechanism names its pattern but attends by something else, or a replacement touches another head."""
    config = tiny_config(1, decoder={"attention": name, "heads": 2, "positions": "none"})
    decoder, parameters = Decoder(config), lively_parameters(config)
    if not decoder.gives_patterns:
        pytest.skip("no pattern to replace")
    batch, point = training_batch(config, draw_world(config), 0).rows(slice(0, 4)), pattern_point(0)
    roles = config_roles(config)
    plain = decoder.trace(parameters, batch, capture=(point,))
    for kind in PATTERNS:
        edits = set_patterns([(0, 1)], kind, roles, decoder.visible)
        found = decoder.trace(parameters, batch, capture=(point,), edits=edits)
        assert torch.equal(found.activations[point][:, 0], plain.activations[point][:, 0]), kind
    edits = set_patterns([(0, 1)], "uniform", roles, decoder.visible)
    uniform = decoder.trace(parameters, batch, capture=(point,), edits=edits)
    measured = strengths(uniform.activations[point], roles, batch.labels, batch.target)
    level = uniform_by_head(config)["label_to_item.m1"][0, 1]
    assert measured["label_to_item.m1"][:, 1].tolist() == pytest.approx([level] * 4, abs=1e-5)
    if name != "previous_token":
        assert not torch.equal(uniform.logits, plain.logits)
