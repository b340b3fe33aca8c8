"""The end of a production model: its residual stream, the final norm, and the unembedding.

The logit lens applies both to the stream of any layer. What a model does to the unembedding's logits belongs to it: a
factor, or a soft cap. Both are checked against the model's own logits.

For direct logit attribution the norm is linearised: its scale is that of the last layer's stream. So the parts of the
stream have logits that add up.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from miclab.mllm.errors import ModelError
from miclab.mllm.layers import AttentionLayer, decoder_of
from miclab.mllm.loading import Production
from miclab.mllm.passes import forward
from miclab.mllm.reading import Encoded

NORMS = ("norm", "final_layer_norm", "final_layernorm", "ln_f")
"""Names of the norm before the unembedding."""
FEED_FORWARD = ("mlp", "fc2", "feed_forward", "block_sparse_moe")
"""Names of the module of a block that writes the feed-forward part into the stream."""
EXACT = 1e-2
"""Largest relative difference between a norm and its linear form, or a stream and the sum of its parts. It has to allow
for weights in bfloat16; another form of norm differs by far more."""


OWN = {torch.float32: 1e-4, torch.float64: 1e-4}
"""The same between logits of the lens and the model's own, by the type of the weights; of other types `EXACT`."""
CAP = "final_logit_softcapping"
"""The field of a configuration that holds the largest logit, to which a tangent bends the others."""


class NoAttributionError(ModelError):
    """A model whose parts do not add up in its logits."""


def first_of(output: Any) -> Tensor:
    """A module's output, or the first of several."""
    return output[0] if isinstance(output, tuple) else output


def _differ(a: Tensor, b: Tensor, most: float = EXACT) -> bool:
    return not bool((a - b).norm() <= most * b.norm().clamp(min=1e-12))


@dataclass(frozen=True)
class Readout:
    """The final norm and the unembedding of a model, and the blocks that write into its stream.

    Arguments:
        norm: the final norm.
        unembedding: from normed stream to logits.
        blocks: the block of each attention layer, by the layer's index.
        factor: of the unembedding's logits.
        cap: the largest logit that a soft cap allows; 0: there is none.
    """

    norm: nn.Module = field(repr=False)
    unembedding: nn.Module = field(repr=False)
    blocks: dict[int, nn.Module] = field(repr=False)
    factor: float = 1.0
    cap: float = 0.0

    def logits(self, stream: Float[Tensor, "position dimension"]) -> Float[Tensor, "position vocabulary"]:
        """The logit lens: logits of any layer's stream."""
        found = self.unembedding(self.norm(stream)).float() * self.factor
        return torch.tanh(found / self.cap) * self.cap if self.cap else found

    def settled(self, production: Production, encoded: Encoded) -> Readout:
        """The readout with the factor or the cap that the model applies to its logits, as a pass over a batch shows.

        Raises:
            ModelError: the model's own logits are neither.
        """
        streams: list[Tensor] = []
        place = encoded.readings[0].last
        handle = self.norm.register_forward_pre_hook(lambda _, arguments: streams.append(arguments[0]))
        try:
            logits = forward(production.model, encoded.to(production.model), torch.tensor([place]))
        finally:
            handle.remove()
        own = logits[0, 0].float()
        plain = replace(self, factor=1.0, cap=0.0).logits(streams[-1][:1, place])[0].to(own.device)
        # Tokens that a model rules out have no logit to compare.
        known = own.isfinite() & plain.isfinite()
        own, plain = own[known].double(), plain[known].double()
        factor = float(own @ plain / (plain @ plain).clamp(min=1e-30))
        most = OWN.get(production.model.dtype, EXACT)
        config = getattr(production.model.config, "text_config", None) or production.model.config
        cap = float(getattr(config, CAP, None) or 0.0)
        for one in [replace(self, factor=1.0, cap=cap)] * bool(cap) + [
            replace(self, factor=1.0, cap=0.0), replace(self, factor=factor, cap=0.0)
        ]:  # fmt: skip
            made = plain * one.factor
            if not _differ(torch.tanh(made / one.cap) * one.cap if one.cap else made, own, most):
                return one
        raise ModelError(
            f"{type(production.model).__name__} makes its logits from those of its unembedding in an unknown way: "
            f"neither as they are, nor times a factor, nor with a cap that its configuration names `{CAP}`. So there "
            "is no logit lens."
        )

    def direction(
        self, stream: Float[Tensor, "row dimension"], right: Int[Tensor, " row"], other: list[Int[Tensor, " other"]]
    ) -> tuple[Float[Tensor, "row dimension"], Float[Tensor, " row"]]:
        """The gradient of a logit difference to the stream where the norm's scale is held, and the part that does not
        depend on the stream. Parts of the stream contribute their product with it.

        Arguments:
            stream: of the last layer.
            right: token of the right answer.
            other: tokens of other answers, over which the mean is taken.

        Raises:
            NoAttributionError: the norm has another form than RMSNorm or LayerNorm, or the logits are capped.
        """
        if self.cap:
            raise NoAttributionError(
                f"A soft cap of {self.cap:g} bends the final logits, so what heads add to them does not sum up. There "
                "is no direct logit attribution."
            )
        stream = stream.float()
        gain, bias, centred = self._form(stream)
        eps = float(getattr(self.norm, "variance_epsilon", getattr(self.norm, "eps", 0.0)) or 0.0)
        inner = stream - stream.mean(-1, keepdim=True) if centred else stream
        scale = torch.rsqrt(inner.square().mean(-1, keepdim=True) + eps)
        weight: Any = self.unembedding.weight
        rows = torch.stack([weight[int(r)].float() - weight[o].float().mean(0)
                            for r, o in zip(right, other, strict=True)])  # fmt: skip
        constant = rows @ bias
        own: Any = getattr(self.unembedding, "bias", None)
        if own is not None:
            constant = constant + torch.stack([own[int(r)].float() - own[o].float().mean()
                                               for r, o in zip(right, other, strict=True)])  # fmt: skip
        towards, constant = rows * gain * scale * self.factor, constant * self.factor
        # Centring is a projection, and its own transpose.
        return towards - towards.mean(-1, keepdim=True) if centred else towards, constant

    def _form(self, stream: Tensor) -> tuple[Tensor, Tensor, bool]:
        """Gain and bias of the norm, and whether it centres the stream."""
        found: Any = self.norm
        if getattr(found, "weight", None) is None:
            raise self._no_form()
        weight = found.weight.float()
        bias = found.bias.float() if getattr(found, "bias", None) is not None else torch.zeros_like(weight)
        eps = float(getattr(found, "variance_epsilon", getattr(found, "eps", 0.0)) or 0.0)
        wanted = found(stream.to(found.weight.dtype)).float()
        for gain, centred in ((weight, False), (1 + weight, False), (weight, True)):
            inner = stream - stream.mean(-1, keepdim=True) if centred else stream
            made = inner * torch.rsqrt(inner.square().mean(-1, keepdim=True) + eps) * gain + bias
            if not _differ(made, wanted):
                return gain, bias, centred
        raise self._no_form()

    def _no_form(self) -> NoAttributionError:
        return NoAttributionError(
            f"The final norm {type(self.norm).__name__} is neither an RMSNorm nor a LayerNorm, so there is no direct "
            "logit attribution."
        )


def readout_of(production: Production) -> Readout:
    """The readout of a model.

    Raises:
        ModelError: its final norm or its unembedding is not found.
    """
    model = production.model.get_base_model() if hasattr(production.model, "get_base_model") else production.model
    decoder = decoder_of(model)
    norm = next((one for name in NORMS if isinstance(one := getattr(decoder, name, None), nn.Module)), None)
    unembedding = model.get_output_embeddings()
    if norm is None or unembedding is None or getattr(decoder, "project_out", None) is not None:
        raise ModelError(
            f"{type(model).__name__} has no final norm and unembedding of a known form. Looked for a module "
            f"{', '.join(NORMS)} of the decoder, followed by the output embeddings alone."
        )
    return Readout(norm, unembedding, blocks_of(production))


def blocks_of(production: Production) -> dict[int, nn.Module]:
    """The block around each attention layer, by the layer's index. A layer without a block is missing."""
    model = production.model.get_base_model() if hasattr(production.model, "get_base_model") else production.model
    attention = {id(layer.module): layer.index for layer in production.layers}
    return {
        attention[id(child)]: module
        for module in decoder_of(model).modules()
        for child in module.children()
        if id(child) in attention
    }


def feed_forward_of(block: nn.Module) -> nn.Module | None:
    """The module of a block that writes the feed-forward part."""
    return next((one for name in FEED_FORWARD if isinstance(one := getattr(block, name, None), nn.Module)), None)


def by_head(layer: AttentionLayer, outputs: Float[Tensor, "row width"]) -> Float[Tensor, "row head dimension"]:
    """What each head writes into the stream, without the projection's bias.

    Arguments:
        layer: of attention.
        outputs: of its heads, concatenated, as the output projection reads them.
    """
    rows, heads, size = len(outputs), layer.heads, layer.head_size
    alone = torch.zeros(rows, heads + 1, heads, size, dtype=outputs.dtype, device=outputs.device)
    split = outputs.view(rows, heads, size)
    for head in range(heads):
        alone[:, head, head] = split[:, head]
    # The last row holds no head, so that it is the bias.
    written = layer.output_projection(alone.flatten(0, 1).flatten(1)).float().view(rows, heads + 1, -1)
    return written[:, :-1] - written[:, -1:]


def check_sum(block: nn.Module, parts: Tensor, whole: Tensor) -> None:
    """Raises NoAttributionError if a block's attention and feed-forward part are not all that it adds to its stream."""
    if _differ(parts, whole):
        raise NoAttributionError(
            f"{type(block).__name__} does not add the outputs of attention and feed-forward part to its stream as they "
            "are: a norm or a factor stands between. So its heads have no direct logit attribution."
        )
