"""What the stream of the decoder says of the answer: logit lens by role, and what each part adds to the logits.

The logit lens reads the residual stream after each layer as if it were the last: the last norm, then the readout. It is
taken at every position, so it shows at which role and layer the query's label can be read. See nostalgebraist (2020),
"interpreting GPT: the logit lens". Direct logit attribution splits the logits at the query into what each part wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from miclab.circuits.effect_shares import set_means
from miclab.circuits.find import head_name
from miclab.circuits.patching import role_masks
from miclab.config.run import RunConfig
from miclab.errors import RunError
from miclab.model.decoder import EPSILON, Decoder, Parameters
from miclab.statistics.intervals import Interval, clustered_interval
from miclab.worlds.sequences import Batch

Seen = tuple[str, str]
"""The layer after which the stream is read (`input`: the embedding), and the role of the positions."""


@torch.no_grad()
def lens_values(config: RunConfig, parameters: Parameters, batch: Batch) -> dict[Seen, Float[Tensor, " sequence"]]:
    """The logit of the query's label minus the mean logit of the context's other labels, by layer and role. Each number
    is a mean over the positions of the role. Sequences whose context has no example of the query's label, or no other
    label, are left out.
    """
    own = batch.labels == batch.target[:, None]
    kept = (own.any(1) & ~own.all(1)).nonzero().flatten()
    batch, own = batch.rows(kept), own[kept]
    names = {"input": "embedding"} | {str(i): f"blocks.{i}.residual" for i in range(config.decoder.layers)}
    decoder = Decoder(config)
    streams = decoder.trace(parameters, batch, capture=tuple(names.values())).activations
    masks, others = role_masks(batch.roles, own), (~own).float()
    found: dict[Seen, Tensor] = {}
    for where, name in names.items():
        logits = decoder.read(parameters, streams[name])
        right = logits.gather(2, batch.target[:, None, None].expand(-1, logits.shape[1], 1))[..., 0]
        each = logits.gather(2, batch.labels[:, None].expand(-1, logits.shape[1], -1))
        ahead = right - (each * others[:, None]).sum(-1) / others.sum(1)[:, None]
        for role, mask in masks.items():
            found[where, role] = (ahead * mask).sum(1) / mask.sum(1)
    return found


def lens_intervals(by_set: Sequence[Mapping[Seen, Tensor]]) -> dict[Seen, Interval]:
    """Means of `lens_values`, with intervals by set of novel classes. Sets without any sequence are left out."""
    sets = [{seen: value.double().numpy() for seen, value in one.items()} for one in by_set]
    known = [one for one in sets if all(len(value) for value in one.values())]
    return {seen: clustered_interval([set_means([one[seen] for one in known])]) for seen in known[0]} if known else {}


@torch.no_grad()
def direct_logits(config: RunConfig, parameters: Parameters, batch: Batch) -> dict[str, Float[Tensor, "batch label"]]:
    """What each part of the decoder writes at the query directly into the logits: `embedding`, `head LAYER.HEAD`,
    `mlp LAYER`. The scale of the last norm is that of the sequence, so that the parts add up to the logits.

    Raises:
        RunError: the last norm subtracts a mean and adds a bias.
    """
    if config.decoder.norm == "layernorm":
        raise RunError("Direct logits are given for rmsnorm and for no norm: layernorm adds a bias of its own.")
    decoder = Decoder(config)
    layers = range(config.decoder.layers)
    names = ["embedding", *(f"blocks.{i}.attention.heads" for i in layers), f"blocks.{layers[-1]}.residual"]
    if config.decoder.mlp != "none":
        names += [f"blocks.{i}.mlp.output" for i in layers]
    kept = decoder.trace(parameters, batch, capture=tuple(names)).activations
    written = {"embedding": kept["embedding"][:, -1]}
    for i in layers:
        heads = kept[f"blocks.{i}.attention.heads"][:, :, -1]
        output = parameters.get(f"decoder.blocks.{i}.attention.output", torch.eye(decoder.width))
        for j, own in enumerate(output.split(heads.shape[-1])):
            written[f"head {head_name((i, j))}"] = heads[:, j] @ own
        if config.decoder.mlp != "none":
            written[f"mlp {i}"] = kept[f"blocks.{i}.mlp.output"][:, -1]
    last = kept[f"blocks.{layers[-1]}.residual"][:, -1]
    readout = parameters["decoder.readout"]
    if config.decoder.norm == "rmsnorm":
        scale = torch.rsqrt(last.square().mean(-1, keepdim=True) + EPSILON)
        return {name: x * scale * parameters["decoder.norm.gain"] @ readout for name, x in written.items()}
    return {name: x @ readout for name, x in written.items()}
