"""An aid in training: a term of the loss for labels that look at their own item, as a previous-token head does."""

from __future__ import annotations

from dataclasses import dataclass

from miclab.config.checks import check_whole
from miclab.config.options import LossOptions
from miclab.measures.attention import label_to_item_strength
from miclab.training.objective import LossTerm, loss_term


@dataclass(frozen=True, kw_only=True)
class AidOptions(LossOptions):
    """Options of `attention_aid`."""

    layer: int = 0
    """Layer, from 0, whose attention is aided."""

    def check(self, owner, config):
        super().check(owner, config)
        check_whole(owner, self, "layer", 0, config.decoder.layers - 1)


@loss_term("attention_aid")
class AttentionAid(LossTerm):
    """Minus the log of the attention of labels on their own item, in the best head of one layer."""

    Options = AidOptions

    def __init__(self, config, options):
        super().__init__(config, options)
        self.needs = (f"blocks.{options.layer}.attention.pattern",)

    def __call__(self, batch, logits, activations):
        pattern = activations[self.needs[0]]
        strength = label_to_item_strength(pattern, batch.roles, batch.roles.modalities[0])
        return -strength.amax(-1).clamp(min=1e-6).log().mean()
