"""Position codes: what a score may depend on, and where a sequence is placed."""

from __future__ import annotations

import math

import numpy as np
import own_doors  # noqa: F401  (its codes are in the registry)
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle_numpy import rotated
from tiny import tiny_config

from miclab.config.positions import KNOWN, POSITION_CODES, facts, position_options
from miclab.model.positions import build_positions

ABSOLUTE_POSITIONS = [name for name in POSITION_CODES if facts(name).slots]
ROTARY_POSITIONS = [name for name in POSITION_CODES if facts(name).rotates and name != "pope"]


def code_of(positions: str, heads: int = 1, context: int = 8, **decoder):
    """A position code for sequences of length 2 * context + 1."""
    options = {"positions": positions, "heads": heads, "width": 80, **decoder}
    return build_positions(tiny_config(sequence={"context": context, "burstiness": 1}, decoder=options))


def rotated_everywhere(code, heads: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """The same query and the same key at every position [1, head, position, dimension]."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 1, heads, 1, 80 // heads)
    query, key = torch.randn(shape, generator=generator).expand(-1, -1, -1, code.length, -1)
    return code.queries(query, slice(None), {}), code.keys(key, slice(None), {})


def spread_along_diagonals(scores: torch.Tensor) -> float:
    """Largest difference between two scores of one offset."""
    length = scores.shape[-1]
    return max(float(np.ptp(scores.diagonal(k, -2, -1).numpy(), axis=-1).max()) for k in range(1 - length, length))


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("positions", ["rope", "hybrid"])
def test_rotary_scores_depend_on_the_offset_alone(positions, heads):
    """Fails if dimensions are paired with another's angle: then one offset gives several scores, or norms change."""
    code = code_of(positions, heads)
    query, key = rotated_everywhere(code, heads)
    scores = query @ key.transpose(-1, -2)
    assert spread_along_diagonals(scores) < 1e-4
    torch.testing.assert_close(query.norm(dim=-1), query[:, :, :1].norm(dim=-1).expand(-1, -1, code.length))
    # The offset does matter: no two of the first offsets give the same score.
    assert scores[0, :, 0].std(-1).min() > 0.5


@pytest.mark.parametrize("heads", [1, 2])
def test_released_rotary_scores_depend_on_absolute_positions(heads):
    """Fails if `rope_released` were mended: the released code's scores at one offset and its norms both change."""
    code = code_of("rope_released", heads)
    query, key = rotated_everywhere(code, heads)
    assert spread_along_diagonals(query @ key.transpose(-1, -2)) > 1
    assert query.norm(dim=-1).std() > 0.1


@pytest.mark.parametrize("positions", ROTARY_POSITIONS)
def test_rotation_agrees_with_its_formula(positions):
    """Fails if an angle, a sign or the base is wrong: complex multiplication for `rope`, the paper's line for the
    released code; also where only the last rows are rotated."""
    code = code_of(positions, heads=2, rope_theta=500.0)
    x = torch.randn(3, 2, code.length, 40, generator=torch.Generator().manual_seed(1))
    own = position_options(positions)
    wanted = [[[rotated(positions, v, i, 500.0, own) for i, v in enumerate(h)] for h in b] for b in x.double().numpy()]
    everywhere = code.rotate(x, slice(None), {})
    np.testing.assert_allclose(everywhere.numpy(), np.array(wanted), atol=2e-5)
    torch.testing.assert_close(code.rotate(x[:, :, -1:], slice(-1, None), {}), everywhere[:, :, -1:])


@pytest.mark.parametrize(("heads", "slopes"), [(1, [2**-8]), (2, [2**-4, 2**-8]), (8, [2**-h for h in range(1, 9)])])
def test_alibi_falls_with_the_distance_by_the_slopes_of_its_paper(heads, slopes):
    """Fails if the bias grows with the distance, is not linear, or a head has another's slope."""
    bias = code_of("alibi", heads).bias({})
    last = bias[:, -1]
    assert (last.diff(dim=-1) > 0).all()
    assert (last[:, -1] == 0).all()
    torch.testing.assert_close(last.diff(dim=-1), torch.tensor(slopes)[:, None].expand(-1, last.shape[1] - 1))
    # The bias is a function of the distance alone.
    torch.testing.assert_close(bias[:, 1:, 1:], bias[:, :-1, :-1])


@given(st.floats(0, 1, exclude_max=True, width=32), st.sampled_from([2, 8, 31, 32]))
def test_a_sequence_lies_whole_within_the_slots(placement, context):
    """Fails if a placement near 1 puts the last token beyond the last slot, or tokens do not stand side by side."""
    code = code_of("onehot", context=context)
    slots = code.slot(torch.tensor([placement, 0.0]))
    assert slots.min() >= 0
    assert slots.max() < code.slots
    assert (slots.diff(dim=-1) == 1).all()


@pytest.mark.parametrize("positions", ABSOLUTE_POSITIONS)
def test_every_offset_is_used_equally(positions):
    """Fails if sequences always start at the same slot, or if the last offset is never reached."""
    code = code_of(positions, context=8)
    free = code.slots - code.length + 1
    first = code.slot(torch.arange(100 * free) / (100 * free) + 1e-6)[:, 0]
    assert torch.bincount(first, minlength=free).tolist() == [100] * free


def test_one_hot_is_one_slot_beside_the_untouched_token():
    """Fails if the code changes the token, marks several slots, or marks another than the position's."""
    code = code_of("onehot")
    tokens, placement = torch.randn(3, code.length, 8), torch.tensor([0.0, 0.5, 0.99])
    coded = code.concatenate(tokens, placement)
    assert torch.equal(coded[..., :8], tokens)
    assert torch.equal(coded[..., 8:].argmax(-1), code.slot(placement))
    assert torch.equal(coded[..., 8:].sum(-1), torch.ones(3, code.length))
    assert set(coded[..., 8:].unique().tolist()) == {0.0, 1.0}


def test_sinusoidal_codes_have_the_norm_of_an_item():
    """Fails if the code is not scaled: with norm sqrt(width / 2) it swamps the items. Codes of two slots differ."""
    code = code_of("sinusoidal")
    table = code.add(torch.zeros(1, code.length, 80), torch.zeros(1), {})[0]
    torch.testing.assert_close(table.norm(dim=-1), torch.ones(code.length))
    similarity = table @ table.T
    assert similarity.fill_diagonal_(0).max() < 0.99
    # Dimension 0 turns by one radian a slot, dimension width - 1 hardly at all.
    torch.testing.assert_close(table[:, 0], torch.arange(code.length).float().sin() / math.sqrt(40))
    assert table[:, -1].diff().abs().max() < 1e-4


@pytest.mark.parametrize("name", KNOWN)
def test_what_the_configuration_knows_of_a_code_is_so(name):
    """Fails if the table that is read without torch says something else of a code than its class."""
    assert POSITION_CODES[name].facts() == KNOWN[name]


def test_codes_do_only_what_they_are_for():
    """Fails if a code leaks into another's place: each touches tokens, scores or neither."""
    tokens, placement = torch.randn(2, 17, 80), torch.tensor([0.1, 0.7])
    found = {}
    for name in POSITION_CODES:
        code = code_of(name)
        learnt = {part: torch.ones(shape) for part, shape in code.shapes().items()}
        heads = torch.randn(2, 1, 17, 80)
        found[name] = (
            code.concatenate(tokens[..., :8], placement).shape[-1] > 8,
            not torch.equal(code.add(tokens, placement, learnt), tokens),
            not torch.equal(code.queries(heads, slice(None), learnt), heads),
            code.bias(learnt) is not None,
        )
    nothing = (False, False, False, False)
    assert found == {
        "none": nothing,
        "onehot": (True, False, False, False),
        "learned": (False, True, False, False),
        "sinusoidal": (False, True, False, False),
        "rope": (False, False, True, False),
        "rope_released": (False, False, True, False),
        "alibi": (False, False, False, True),
        "hybrid": (True, False, True, False),
        "t5_bias": (False, False, False, True),
        "fire": (False, False, False, True),
        "partial_rope": (False, False, True, False),
        "pope": (False, False, True, False),
        "yarn": (False, False, True, False),
    }
