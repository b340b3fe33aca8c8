"""Strengths of heads: exact answers on attention made by hand, and a plain loop over everything beside each."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from miclab.measures import attention as measures
from miclab.measures.layer import causal
from miclab.worlds.roles import LABEL, OTHER, Roles, sequence_roles


# -- a slow reference ---------------------------------------------------------------------------------------------
def reference(attention, kind, exemplar, names, context, labels, target) -> dict[str, float]:
    """Every strength of one head of one sequence by plain loops; attention is [query, key], the rest by position."""
    length = len(attention)
    last = attention[length - 1]
    found = {}
    for offset in (1, 2):
        found[f"previous_token_{offset}"] = np.mean([attention[i][i - offset] for i in range(offset, length)])
    label_rows = [i for i in range(length) if kind[i] == LABEL]

    def on_span(which: int, n: int) -> float:
        return sum(last[j] for j in range(length) if kind[j] == which and exemplar[j] == n)

    def mean(values: list[float]) -> float:
        return sum(values) / len(values) if values else 0.0

    right = [n for n in range(context) if labels[n] == target]
    wrong = [n for n in range(context) if labels[n] != target]
    for index, name in enumerate(names):
        own = [
            attention[i][j]
            for i in label_rows
            for j in range(length)
            if kind[j] == index and exemplar[j] == exemplar[i]
        ]
        found[f"label_to_item.{name}"] = sum(own) / len(label_rows)
        found[f"target_item_attention.{name}"] = mean([on_span(index, n) for n in right])
    on_right, on_wrong = [on_span(LABEL, n) for n in right], [on_span(LABEL, n) for n in wrong]
    found["induction"] = mean(on_right) - mean(on_wrong)
    found["induction_total"] = sum(on_right) - sum(on_wrong)
    mine = [j for j in range(length) if kind[j] == LABEL and exemplar[j] in right]
    found["induction_all_positions"] = mean([last[j] for j in mine]) - mean(
        [last[j] for j in range(length) if j not in mine]
    )
    found["target_label_attention"] = mean(on_right)
    found["total_label_attention"] = sum(on_right) + sum(on_wrong)

    def entropy(i: int) -> float:
        return -sum(a * math.log(a) for a in attention[i] if a > 0) / math.log(i + 1)

    found["entropy"] = entropy(length - 1)
    found["label_row_entropy"] = mean([entropy(i) for i in label_rows])
    return found


def random_attention(batch: int, heads: int, length: int, seed: int) -> torch.Tensor:
    """Causal rows that sum to 1."""
    scores = 2 * torch.randn(batch, heads, length, length, generator=torch.Generator().manual_seed(seed))
    return scores.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf).softmax(-1)


def spans_of_a_prompt(starts: list[int], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Roles as in a production model's prompt: text, then for each of two examples an item `picture` of 3 positions,
    a `word` of one, and a label of 2; then the query's items. Each sequence begins after another number of tokens."""
    kinds, exemplars = [], []
    for start in starts:
        kind, exemplar = [OTHER] * start, [-1] * start
        for n in range(2):
            kind += [0, 0, 0, 1, LABEL, LABEL]
            exemplar += [n] * 6
        kind += [0, 0, 0, 1]
        exemplar += [2] * 4
        kinds.append(kind + [OTHER] * (length - len(kind)))
        exemplars.append(exemplar + [-1] * (length - len(exemplar)))
    return torch.tensor(kinds), torch.tensor(exemplars)


def all_roles() -> dict[str, Roles]:
    """One, two and three modalities, spans of several positions, and sequences whose roles differ."""
    kind, exemplar = spans_of_a_prompt([1, 3, 2, 4, 1], 21)
    return {
        "one modality": sequence_roles(("m1",), 4),
        "two modalities": sequence_roles(("m1", "m2"), 4),
        "three modalities": sequence_roles(("m2", "m1", "m3"), 3),
        "several positions": Roles(("picture", "word"), 2, kind[1], exemplar[1]),
        "roles of each sequence": Roles(("picture", "word"), 2, kind, exemplar),
        # As many heads as sequences, where a slip of axes would not be noticed by shapes.
        "as many heads as sequences": Roles(("picture", "word"), 2, kind[:2], exemplar[:2]),
    }


# FAULT in miclab/measures/attention.py, `label_to_item_strength`: roles of each sequence are divided along the heads.
@pytest.mark.parametrize("name", all_roles())
@pytest.mark.parametrize("seed", [0, 1])
def test_strengths_agree_with_a_plain_loop(name, seed):
    """Fails if any measure differs from its definition for some head, label or span: random attention and labels,
    also sequences in which no label, or every label, is the target."""
    roles, heads = all_roles()[name], 2
    batched = roles.kind.dim() == 2
    batch = len(roles.kind) if batched else 6
    attention = random_attention(batch, heads, roles.kind.shape[-1], seed)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (batch, roles.context), generator=generator)
    target = torch.randint(3, (batch,), generator=generator)
    labels[0], target[0] = 1, 1
    labels[1], target[1] = 0, 2
    found = measures.strengths(attention, roles, labels, target)
    assert all(value.shape == (batch, heads) for value in found.values())
    for row in range(batch):
        kind, exemplar = (t[row] if batched else t for t in (roles.kind, roles.exemplar))
        for head in range(heads):
            wanted = reference(
                attention[row, head].double().tolist(),
                kind.tolist(),
                exemplar.tolist(),
                roles.modalities,
                roles.context,
                labels[row].tolist(),
                int(target[row]),
            )
            got = {key: float(value[row, head]) for key, value in found.items()}
            assert got == pytest.approx(wanted, abs=1e-5), (row, head)


# -- by hand ------------------------------------------------------------------------------------------------------
def test_hand_built_circuit_has_the_exact_strengths():
    """Fails if a measure is off by any factor: x1 y1 z1 l1 ... with three modalities, three examples, two heads. Head 0
    is a perfect previous-token head; head 1, from the query, puts 0.4 and 0.1 on the two right labels and 0.2 on the
    wrong one, and 0.3 on the first item of m2."""
    roles = sequence_roles(("m1", "m2", "m3"), 3)
    length = 15
    attention = torch.zeros(1, 2, length, length)
    attention[0, 0, 0, 0] = 1
    for i in range(1, length):
        attention[0, 0, i, i - 1] = 1
    attention[0, 1, :, 0] = 1
    attention[0, 1, -1] = 0
    attention[0, 1, -1, [3, 7, 11, 1]] = torch.tensor([0.4, 0.2, 0.1, 0.3])
    labels, target = torch.tensor([[5, 2, 5]]), torch.tensor([5])
    found = {k: v[0].tolist() for k, v in measures.strengths(attention, roles, labels, target).items()}
    entropy = -sum(p * math.log(p) for p in (0.4, 0.2, 0.1, 0.3)) / math.log(15)
    assert found == {
        "previous_token_1": pytest.approx([1, 1 / 14]),
        "previous_token_2": pytest.approx([0, 1 / 13]),
        "label_to_item.m1": pytest.approx([0, 1 / 3]),
        "label_to_item.m2": pytest.approx([0, 0]),
        "label_to_item.m3": pytest.approx([1, 0]),
        "induction": pytest.approx([0, 0.25 - 0.2]),
        "induction_total": pytest.approx([0, 0.5 - 0.2]),
        "induction_all_positions": pytest.approx([-1 / 13, 0.25 - 0.5 / 13]),
        "target_label_attention": pytest.approx([0, 0.25]),
        "target_item_attention.m1": pytest.approx([0, 0]),
        "target_item_attention.m2": pytest.approx([0, 0.15]),
        "target_item_attention.m3": pytest.approx([0, 0]),
        "total_label_attention": pytest.approx([0, 0.7]),
        "entropy": pytest.approx([0, entropy]),
        "label_row_entropy": pytest.approx([0, 0]),
    }


@pytest.mark.parametrize("copies", [1, 2, 4])
def test_a_perfect_induction_head_reaches_the_ceiling(copies):
    """Fails if IndStrength is not a mean (ceiling 1/B) or its summed form not a sum (ceiling 1, whatever B)."""
    roles = sequence_roles(("m1",), 8)
    labels = torch.arange(8)[None] // copies
    attention = torch.zeros(1, 1, 17, 17)
    attention[0, 0, -1, 1 : 2 * copies : 2] = 1 / copies
    target = torch.tensor([0])
    assert float(measures.induction_strength(attention, roles, labels, target)) == pytest.approx(1 / copies)
    assert float(measures.induction_total(attention, roles, labels, target)) == pytest.approx(1)
    # All of the context carries the target: no other label is subtracted.
    everywhere = torch.zeros(1, 8, dtype=torch.long)
    assert float(measures.induction_strength(attention, roles, everywhere, target)) == pytest.approx(1 / 8)


def test_uniform_attention_has_entropy_one():
    """Fails if entropy is not in units of what each row may see."""
    roles = sequence_roles(("m1", "m2"), 4)
    attention = torch.ones(14, 14).tril()[None, None]
    attention = attention / attention.sum(-1, keepdim=True)
    visible = causal(14)
    torch.testing.assert_close(measures.attention_entropy(attention, visible), torch.ones(1, 1))
    torch.testing.assert_close(measures.label_row_entropy(attention, roles, visible), torch.ones(1, 1))


def test_context_label_predictions():
    """Fails if CLA requires the target instead of any label of the context."""
    logits = torch.eye(4)[[0, 1, 2, 3]]
    labels = torch.tensor([[0, 3], [0, 3], [2, 2], [0, 3]])
    assert measures.context_label_predictions(logits, labels).tolist() == [True, False, True, True]


# -- roles --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("order", "names"),
    [
        (("m1",), "x1 l1 x2 l2 xq"),
        (("m1", "m2"), "x1 x'1 l1 x2 x'2 l2 xq x'q"),
        (("b", "a", "c"), "x1 x'1 x''1 l1 x2 x'2 x''2 l2 xq x'q x''q"),
    ],
)
def test_roles_draw_the_sequence(order, names):
    """Fails if a position has another's role: the sequence as the paper draws it, and the masks of each role."""
    roles = sequence_roles(order, 2)
    assert roles.axis_names() == names.split()
    step = len(order) + 1
    assert roles.is_label.nonzero().flatten().tolist() == [step - 1, 2 * step - 1]
    assert roles.is_query.nonzero().flatten().tolist() == list(range(2 * step, 3 * step - 1))
    for index, name in enumerate(order):
        assert roles.is_item(name).nonzero().flatten().tolist() == [index, step + index, 2 * step + index]
        assert roles.item_spans(name).nonzero().tolist() == [[index, 0], [step + index, 1]]
    assert roles.label_spans().sum() == 2
