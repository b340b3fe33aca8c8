"""Strengths of attention heads (arXiv 2601.20796, section 4), for one layer's attention and the roles of its positions.

Every function takes attention [batch, head, query position, key position] and returns one value for each sequence and
head [batch, head], so that means, intervals and comparisons are made in one place. "From the last position" is the
last row of attention: the query's last item, where the model answers.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from miclab.worlds.roles import Roles

Attention = Float[Tensor, "batch head query key"]
PerHead = Float[Tensor, "batch head"]


def _span_attention(attention: Attention, spans: Float[Tensor, "*batch key exemplar"]) -> Tensor:
    """Attention of the last position on each exemplar's span, summed over the span [batch, head, exemplar]."""
    return attention[:, :, -1] @ spans


def _masked_mean(values: Float[Tensor, "batch head exemplar"], mask: Bool[Tensor, "batch exemplar"]) -> PerHead:
    """Mean over the exemplars in `mask`; 0 where there is none."""
    weight = mask.to(values.dtype)
    return (values * weight[:, None]).sum(-1) / weight.sum(-1).clamp(min=1)[:, None]


def previous_token_strength(attention: Attention, offset: int = 1) -> PerHead:
    """PHStrength(offset): mean over positions i >= offset of A[i, i - offset]."""
    return attention.diagonal(-offset, -2, -1).mean(-1)


def label_to_item_strength(attention: Attention, roles: Roles, modality: str) -> PerHead:
    """Mean over the context's labels of the attention that they pay to their own exemplar's item of `modality`: the
    part of the previous-token pattern that an induction circuit uses."""
    labels, items = roles.label_spans(), roles.item_spans(modality)
    # An axis for the heads, where the sequences have roles of their own.
    own = (labels @ items.transpose(-1, -2)).unsqueeze(-3)
    return (attention * own).sum((-1, -2)) / labels.sum((-1, -2)).unsqueeze(-1)


def induction_strength(
    attention: Attention, roles: Roles, labels: Int[Tensor, "batch context"], target: Int[Tensor, " batch"]
) -> PerHead:
    """IndStrength: mean attention on context labels equal to the target minus mean attention on the other context
    labels (0 if there is none). At most 1/B when each class stands B times in the context."""
    values, right = _span_attention(attention, roles.label_spans()), labels == target[:, None]
    return _masked_mean(values, right) - _masked_mean(values, ~right)


def induction_total(
    attention: Attention, roles: Roles, labels: Int[Tensor, "batch context"], target: Int[Tensor, " batch"]
) -> PerHead:
    """The summed form: total attention on the right labels minus total on the wrong ones; comparable across B."""
    values = _span_attention(attention, roles.label_spans())
    sign = (labels == target[:, None]).to(values.dtype) * 2 - 1
    return (values * sign[:, None]).sum(-1)


def induction_all_positions(
    attention: Attention, roles: Roles, labels: Int[Tensor, "batch context"], target: Int[Tensor, " batch"]
) -> PerHead:
    """The released code's form for production models: mean attention on the positions of the right labels minus mean
    attention on ALL other positions."""
    spans, right = roles.label_spans(), (labels == target[:, None]).float()
    mine = (spans @ right.unsqueeze(-1)).squeeze(-1) if spans.dim() == 3 else right @ spans.T
    last = attention[:, :, -1]
    other = 1 - mine
    on_right = (last * mine[:, None]).sum(-1) / mine.sum(-1).clamp(min=1)[:, None]
    return on_right - (last * other[:, None]).sum(-1) / other.sum(-1).clamp(min=1)[:, None]


def target_label_attention(
    attention: Attention, roles: Roles, labels: Int[Tensor, "batch context"], target: Int[Tensor, " batch"]
) -> PerHead:
    """TILA: from the last position, mean attention on context labels equal to the target."""
    return _masked_mean(_span_attention(attention, roles.label_spans()), labels == target[:, None])


def target_item_attention(
    attention: Attention,
    roles: Roles,
    labels: Int[Tensor, "batch context"],
    target: Int[Tensor, " batch"],
    modality: str,
) -> PerHead:
    """TIIA: from the last position, mean attention on context items of `modality` whose label is the target."""
    return _masked_mean(_span_attention(attention, roles.item_spans(modality)), labels == target[:, None])


def total_label_attention(attention: Attention, roles: Roles) -> PerHead:
    """TLA: from the last position, total attention on all context labels."""
    return _span_attention(attention, roles.label_spans()).sum(-1)


def attention_entropy(attention: Attention) -> PerHead:
    """Entropy of the last row, in units of the log of the positions it may see: 0 is sharp, 1 is uniform."""
    last = attention[:, :, -1]
    return torch.special.entr(last).sum(-1) / math.log(last.shape[-1])


def label_row_entropy(attention: Attention, roles: Roles) -> PerHead:
    """Mean entropy of the label rows, each in units of the log of the positions it may see."""
    length = attention.shape[-1]
    visible = torch.arange(1, length + 1, device=attention.device).float()
    mask = roles.is_label.float()
    if mask.dim() == 1:
        rows = roles.is_label.nonzero().squeeze(-1)
        return (torch.special.entr(attention[:, :, rows]).sum(-1) / visible[rows].log().clamp(min=1e-9)).mean(-1)
    rows = torch.special.entr(attention).sum(-1) / visible.log().clamp(min=1e-9)
    return (rows * mask[:, None]).sum(-1) / mask.sum(-1).clamp(min=1)[:, None]


def strengths(
    attention: Attention, roles: Roles, labels: Int[Tensor, "batch context"], target: Int[Tensor, " batch"]
) -> dict[str, PerHead]:
    """All strengths of one layer, by name. Names that belong to one modality end in `.<modality>`."""
    found = {f"previous_token_{offset}": previous_token_strength(attention, offset) for offset in (1, 2)}
    found |= {f"label_to_item.{m}": label_to_item_strength(attention, roles, m) for m in roles.modalities}
    found["induction"] = induction_strength(attention, roles, labels, target)
    found["induction_total"] = induction_total(attention, roles, labels, target)
    found["induction_all_positions"] = induction_all_positions(attention, roles, labels, target)
    found["target_label_attention"] = target_label_attention(attention, roles, labels, target)
    found |= {
        f"target_item_attention.{m}": target_item_attention(attention, roles, labels, target, m)
        for m in roles.modalities
    }
    found["total_label_attention"] = total_label_attention(attention, roles)
    found["entropy"] = attention_entropy(attention)
    found["label_row_entropy"] = label_row_entropy(attention, roles)
    return found


def context_label_predictions(
    logits: Float[Tensor, "batch label"], labels: Int[Tensor, "batch context"]
) -> Bool[Tensor, " batch"]:
    """CLA, by sequence: whether the predicted label is one of those in the context."""
    return (logits.argmax(-1)[:, None] == labels).any(-1)
