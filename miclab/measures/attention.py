"""Strengths of attention heads (arXiv 2601.20796, section 4), for one layer's attention and the roles of its positions.

Every function takes attention [batch, head, query position, key position] and returns one value for each sequence and
head [batch, head]. Means, intervals and comparisons are computed elsewhere, in one place. "From the last position" is
the last row of attention: the query's last item, where the model answers.
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from miclab.config.run import RunConfig
from miclab.measures.layer import Layer, take
from miclab.measures.registry import chosen, measure
from miclab.worlds.roles import Roles

Attention = Float[Tensor, "batch head query key"]
PerHead = Float[Tensor, "batch head"]
Visible = Bool[Tensor, "*any query key"]


def _ceiling(config: RunConfig) -> list[tuple[float, str]]:
    """1/B: each of B copies of the right class gets an equal part, and no other context class carries its label."""
    level = 1 / config.sequence.burstiness
    return [(level, f"ceiling 1/B = {level:.3g}")]


def _right_items(config: RunConfig) -> list[tuple[float, str]]:
    level = 1 / config.sequence.burstiness
    return [(level, f"all on the right items: 1/B = {level:.3g}")]


def _zero(config: RunConfig) -> list[tuple[float, str]]:
    return [(0.0, "as much on wrong labels")]


def _span_attention(attention: Attention, spans: Float[Tensor, "*batch key exemplar"]) -> Tensor:
    """Attention of the last position on each exemplar's span, summed over the span [batch, head, exemplar]."""
    return attention[:, :, -1] @ spans


of_pattern = partial(measure, needs=("pattern",), always=True)
"""`measure` for measures of the attention pattern alone, which every metric row has."""


def _masked_mean(values: Float[Tensor, "batch head exemplar"], mask: Bool[Tensor, "batch exemplar"]) -> PerHead:
    """Mean over the exemplars in `mask`; 0 where there is none."""
    weight = mask.to(values.dtype)
    return (values * weight[:, None]).sum(-1) / weight.sum(-1).clamp(min=1)[:, None]


def previous_token_strength(attention: Attention, offset: int = 1) -> PerHead:
    """PHStrength(offset): mean over positions i >= offset of A[i, i - offset]."""
    return attention.diagonal(-offset, -2, -1).mean(-1)


@of_pattern(
    "previous_token_1",
    range=(0, 1),
    title="Previous token",
    words="mean attention of each position on the one before it",
)
def previous_token_1(pattern: Attention) -> PerHead:
    """PHStrength(1)."""
    return previous_token_strength(pattern, 1)


@of_pattern(
    "previous_token_2",
    range=(0, 1),
    title="Two tokens back",
    words="mean attention of each position on the one two before it",
)
def previous_token_2(pattern: Attention) -> PerHead:
    """PHStrength(2)."""
    return previous_token_strength(pattern, 2)


@of_pattern(
    "label_to_item",
    range=(0, 1),
    title="Label looks at its own item",
    words="mean attention of each context label on its own exemplar's item",
)
def label_to_item_strength(pattern: Attention, roles: Roles, modality: str) -> PerHead:
    """Attention of the context's labels to their own exemplar's item of `modality`, as a mean over labels. This is the
    part of the previous-token pattern that an induction circuit uses."""
    labels, items = roles.label_spans(), roles.item_spans(modality)
    # An axis for the heads, where the sequences have roles of their own.
    own = (labels @ items.transpose(-1, -2)).unsqueeze(-3)
    return (pattern * own).sum((-1, -2)) / labels.sum((-1, -2)).unsqueeze(-1)


@of_pattern(
    "induction",
    range=(-1, 1),
    title="Induction strength",
    words="from the query: mean attention on the right context labels minus mean attention on the wrong ones",
    guides=_ceiling,
)
def induction_strength(
    pattern: Attention, roles: Roles, labels: Int[Tensor, "batch context"], target: Int[Tensor, " batch"]
) -> PerHead:
    """IndStrength: mean attention on context labels equal to the target minus mean attention on the other context
    labels (0 if there is none). At most 1/B when each class stands B times in the context."""
    values, right = _span_attention(pattern, roles.label_spans()), labels == target[:, None]
    return _masked_mean(values, right) - _masked_mean(values, ~right)


@of_pattern(
    "induction_total",
    range=(-1, 1),
    title="Induction strength, summed",
    words="from the query: total attention on the right context labels minus total on the wrong ones",
    guides=_zero,
)
def induction_total(
    pattern: Attention, roles: Roles, labels: Int[Tensor, "batch context"], target: Int[Tensor, " batch"]
) -> PerHead:
    """The summed form: total attention on the right labels minus total on the wrong ones; comparable across B."""
    values = _span_attention(pattern, roles.label_spans())
    sign = (labels == target[:, None]).to(values.dtype) * 2 - 1
    return (values * sign[:, None]).sum(-1)


@of_pattern(
    "induction_all_positions",
    range=(-1, 1),
    title="Induction strength against all positions",
    words="from the query: mean attention on the right context labels minus mean attention on all other positions",
)
def induction_all_positions(
    pattern: Attention, roles: Roles, labels: Int[Tensor, "batch context"], target: Int[Tensor, " batch"]
) -> PerHead:
    """The released code's form for production models: mean attention on the positions of the right labels minus mean
    attention on ALL other positions."""
    spans, right = roles.label_spans(), (labels == target[:, None]).float()
    mine = (spans @ right.unsqueeze(-1)).squeeze(-1) if spans.dim() == 3 else right @ spans.T
    last = pattern[:, :, -1]
    other = 1 - mine
    on_right = (last * mine[:, None]).sum(-1) / mine.sum(-1).clamp(min=1)[:, None]
    return on_right - (last * other[:, None]).sum(-1) / other.sum(-1).clamp(min=1)[:, None]


@of_pattern(
    "target_label_attention",
    range=(0, 1),
    title="Right labels",
    words="from the query: mean attention on the right context labels",
    guides=_ceiling,
)
def target_label_attention(
    pattern: Attention, roles: Roles, labels: Int[Tensor, "batch context"], target: Int[Tensor, " batch"]
) -> PerHead:
    """TILA: from the last position, mean attention on context labels equal to the target."""
    return _masked_mean(_span_attention(pattern, roles.label_spans()), labels == target[:, None])


@of_pattern(
    "target_item_attention",
    range=(0, 1),
    title="Right items",
    words="from the query: mean attention on context items of the right label",
    guides=_right_items,
)
def target_item_attention(
    pattern: Attention,
    roles: Roles,
    labels: Int[Tensor, "batch context"],
    target: Int[Tensor, " batch"],
    modality: str,
) -> PerHead:
    """TIIA: from the last position, mean attention on context items of `modality` whose label is the target."""
    return _masked_mean(_span_attention(pattern, roles.item_spans(modality)), labels == target[:, None])


@of_pattern(
    "total_label_attention",
    range=(0, 1),
    title="All labels",
    words="from the query: total attention on context labels, right or wrong",
)
def total_label_attention(pattern: Attention, roles: Roles) -> PerHead:
    """TLA: from the last position, total attention on all context labels."""
    return _span_attention(pattern, roles.label_spans()).sum(-1)


@of_pattern(
    "entropy",
    range=(0, 1),
    title="Entropy of the query's attention",
    words="0 is all on one position, 1 is uniform",
    assumes=("softmax",),
)
def attention_entropy(pattern: Attention, visible: Visible) -> PerHead:
    """Entropy of the last row, in units of the log of the positions that it may see: 0 is sharp, 1 is uniform."""
    seen = visible[..., -1, :].sum(-1).double().log().clamp(min=1e-9).to(pattern.dtype)
    return torch.special.entr(pattern[:, :, -1]).sum(-1) / seen


@of_pattern(
    "label_row_entropy",
    range=(0, 1),
    title="Entropy of the labels' attention",
    words="0 is all on one position, 1 is uniform",
    assumes=("softmax",),
)
def label_row_entropy(pattern: Attention, roles: Roles, visible: Visible) -> PerHead:
    """Mean entropy of the label rows, each in units of the log of the positions that it may see."""
    seen = visible.sum(-1).float().log().clamp(min=1e-9)
    mask = roles.is_label.float()
    if mask.dim() == 1:
        rows = roles.is_label.nonzero().squeeze(-1)
        return (torch.special.entr(pattern[:, :, rows]).sum(-1) / seen[..., rows]).mean(-1)
    entropies = torch.special.entr(pattern).sum(-1) / seen
    return (entropies * mask[:, None]).sum(-1) / mask.sum(-1).clamp(min=1)[:, None]


@measure(
    "learnt_weight",
    needs=("weight",),
    range=(-1, 1),
    title="Weight of the mechanism",
    words="by how much attention departs from plain softmax, as its mechanism says (a share, a gain, a logit)",
    always=True,
)
def learnt_weight(weight: Float[Tensor, " head"]) -> Float[Tensor, " head"]:
    """The present value of a mechanism's initial weight (`miclab.model.attention.share`)."""
    return weight


@measure(
    "key_constant",
    needs=("keys",),
    range=(0, 1),
    title="Constant part of the keys",
    words="squared norm of the mean key at a position over the mean squared norm of keys, before rotation",
)
def key_constant(keys: Float[Tensor, "batch pair position dimension"], head_count: int) -> Float[Tensor, " head"]:
    """Share of the keys that is the same in all sequences, by position, averaged over positions. It is unbiased: keys
    without a constant part have mean 0 for any number of sequences. A single sequence gives 0.

    Heads that share keys have the same value.
    """
    batch = len(keys)
    norms = keys.square().sum(-1).mean((0, 2))
    means = keys.mean(0).square().sum(-1).mean(-1)
    share = (batch * means - norms) / max(batch - 1, 1) / norms.clamp(min=torch.finfo(keys.dtype).tiny)
    return share.repeat_interleave(head_count // keys.shape[1])


def strengths(
    attention: Attention,
    roles: Roles,
    labels: Int[Tensor, "batch context"],
    target: Int[Tensor, " batch"],
    visible: Visible | None = None,
) -> dict[str, PerHead]:
    """The measures of every evaluation that attention alone gives, by name. Names that belong to one modality end in
    `.<modality>`.

    Arguments:
        visible: whether a query may see a key; None: plain causal.
    """
    layer = Layer(roles, labels, target, attention.shape[1], {"attention.pattern": attention}, visible=visible)
    return take(chosen(True), layer)[0]


def context_label_predictions(
    logits: Float[Tensor, "batch label"], labels: Int[Tensor, "batch context"]
) -> Bool[Tensor, " batch"]:
    """CLA, by sequence: whether the predicted label is one of those in the context."""
    return (logits.argmax(-1)[:, None] == labels).any(-1)
