"""A decoder that miclab trained, for `transformers`.

    from transformers import AutoModel
    model = AutoModel.from_pretrained("FOLDER", trust_remote_code=True)
    found = model(items=items, labels=labels, output_attentions=True)          # found.logits, found.attentions

`trust_remote_code` runs the Python files of the folder: read them first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from miclab.interop.exported.configuration_miclab import MiclabConfig
from miclab.interop.exported.decoder import Decoder


@dataclass
class MiclabOutput(ModelOutput):
    """What the decoder gives.

    Arguments:
        loss: cross-entropy at the query; None without `target`.
        logits: over the labels at the query [batch, label].
        hidden_states: the residual stream before the first block and after each [batch, position, width].
        attentions: of each layer [batch, head, query, key].
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class MiclabDecoder(PreTrainedModel):
    """The decoder.

    Arguments:
        config: its configuration.
    """

    config_class = MiclabConfig
    base_model_prefix = "decoder"

    def __init__(self, config: MiclabConfig):
        super().__init__(config)
        self.decoder = Decoder(config.network)
        self.post_init()

    def _init_weights(self, module: object) -> None:
        """Weights come from the folder."""

    def forward(
        self,
        items: dict[str, Tensor] | Tensor,
        labels: Tensor,
        placement: Tensor | None = None,
        target: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        **others: object,
    ) -> MiclabOutput:
        """Logits at the query (see `Decoder.forward` in `decoder.py` for the first three arguments).

        Arguments:
            target: label of the query [batch], for the loss.
        """
        blocks = range(self.config.network["layers"])
        patterns = [f"blocks.{layer}.attn.hook_pattern" for layer in blocks] if output_attentions else []
        residuals = ["blocks.0.hook_resid_pre", *(f"blocks.{layer}.hook_resid_post" for layer in blocks)]
        residuals = residuals if output_hidden_states else []
        logits, kept = self.decoder.activations([*patterns, *residuals], items, labels, placement)
        return MiclabOutput(
            loss=None if target is None else F.cross_entropy(logits, target),
            logits=logits,
            hidden_states=tuple(kept[name] for name in residuals) or None,
            attentions=tuple(kept[name] for name in patterns) or None,
        )
