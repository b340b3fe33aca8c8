"""Checkpoints of the code that the paper's authors released (arXiv 2601.20796): names, shapes and world.

    layers.0.attn.wq.weight [output, input]      decoder.blocks.0.attention.query [input, output]
    layers.0.mlp.fc1, fc2, fc3                   decoder.blocks.0.mlp.gate, value, out
    layers.0.attn_norm, mlp_norm                 decoder.blocks.0.norm1, norm2
    norm, out, projector.fc1                     decoder.norm, decoder.readout, bridge.m2.0

With one-hot positions a token there is the slots and then the item, and here the item and then the slots. So the
dimensions of the residual stream are put in another order.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from miclab import storage
from miclab.config.run import RunConfig
from miclab.errors import ConfigError, ContentError, MiclabError, RunError, nearest
from miclab.model.decoder import Decoder
from miclab.model.projector import DEPTH, secondary_modalities

CODES = ("rope_released", "onehot", "alibi")
"""Position codes of the released code. Its hybrid code rotates by `rope_released`, and miclab's by `rope`."""
CONVERSION = (
    "python -c 'import sys, torch; from safetensors.torch import save_file;"
    ' save_file(torch.load(sys.argv[1], map_location="cpu", weights_only=True), sys.argv[2])\''
    " {} {}"
)
"""The line that makes a safetensors file of a pickle."""
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
PARTS = {"gate": "fc1", "value": "fc2", "out": "fc3"}
"""Maps of an MLP, there."""


class CheckpointError(ContentError):
    """A checkpoint whose content does not fit the configuration."""


# -- the file -----------------------------------------------------------------------------------------------------
def read_checkpoint(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, in float32.

    Raises:
        MiclabError: it is a pickle, or cannot be read.
        ContentError: it is no safetensors file, or a tensor holds no finite numbers.
    """
    try:
        content = storage.read_file(file)
    except OSError as error:
        raise MiclabError(f"Cannot read {file}: {error.strerror or error}.") from error
    if file.suffix.lower() in PICKLES or content[:4] == b"PK\x03\x04" or content[:1] == b"\x80":
        convert = CONVERSION.format(file.name, f"{file.stem}.safetensors")
        raise MiclabError(f"{file} may be a pickle, which can run any code, and is not read. Convert it: {convert}")
    found = storage.tensors_from(content, file)
    for name, value in found.items():
        if not value.is_floating_point() or not bool(value.isfinite().all()):
            raise CheckpointError(file, f"expected finite numbers, found {value.dtype}", name)
    return {name: value.float() for name, value in found.items()}


# -- what can be imported -----------------------------------------------------------------------------------------
def check_importable(config: RunConfig) -> None:
    """Refuses a configuration that is none of the released code, where the shapes of weights do not show it.

    Raises:
        ConfigError: the message names the field.
    """
    decoder, code = config.decoder, config.decoder.position_name
    if code not in CODES:
        why = "; its hybrid without rotation is `onehot` with decoder.position_slots = 66" if code == "hybrid" else ""
        raise ConfigError("decoder.positions", decoder.positions, f"for the released code {nearest(code, CODES)}{why}")
    if code == "alibi" and decoder.heads & (decoder.heads - 1):
        allowed = "a power of 2 with alibi: for others the released code has other slopes"
        raise ConfigError("decoder.heads", decoder.heads, allowed)
    wanted = {
        "attention.name": "softmax", "centre_keys": "off", "attention_bias": "none", "token_constant": 0.0,
        "placement": "random", "mlp": "released", "mlp_bias": "on", "input_map": "pad", "output_projection": "auto",
    }  # fmt: skip
    for name, value in wanted.items():
        found = decoder.attention.name if name == "attention.name" else getattr(decoder, name)
        if found != value:
            raise ConfigError(f"decoder.{name}", found, f"{value!r}, which the released code has")
    if decoder.norm == "layernorm":
        raise ConfigError("decoder.norm", "layernorm", "'rmsnorm' or 'none', which the released code has")
    if decoder.residual_width(config.item_width) != decoder.input_width(config.item_width):
        raise ConfigError("decoder.width", decoder.width, "0: the width of the released code is that of its tokens")
    if decoder.mlp_hidden not in (0, decoder.residual_width(config.item_width)):
        raise ConfigError("decoder.mlp_hidden", decoder.mlp_hidden, "0: the hidden layer there is as wide as a token")
    for name, modality in config.modalities.items():
        if modality.source:
            raise ConfigError(f"modalities.{name}.source", modality.source, "empty: only Gaussian classes are imported")
        if modality.prototype_correlation:
            raise ConfigError(f"modalities.{name}.prototype_correlation", modality.prototype_correlation, "0")
        if modality.encoder != "none":
            allowed = "'none': the encoders of the released code are other networks, and are not imported"
            raise ConfigError(f"modalities.{name}.encoder", modality.encoder, allowed)
    if len(config.modalities) > 2:
        raise ConfigError("modalities", tuple(config.modalities), "one or two")
    if config.sequence.pairing != "label":
        raise ConfigError("sequence.pairing", config.sequence.pairing, "'label', as in the released code")
    if config.order[0] != config.host_name:
        raise ConfigError("sequence.order", config.order, f"{config.host_name} first, as in the released code")
    if config.sequence.first_token != "none" or config.sequence.jitter:
        raise ConfigError("sequence.first_token or jitter", "given", "'none' and 0: the released code has neither")


def released_shapes(config: RunConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released code's state dict."""
    width, decoder = config.decoder.residual_width(config.item_width), config.decoder
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in (f"layers.{i}" for i in range(decoder.layers)):
        projections = ("wq", "wk", "wv", "wo")[: 4 if decoder.has_output_projection else 3]
        shapes |= {f"{layer}.attn.{name}.weight": (width, width) for name in projections}
        shapes |= {f"{layer}.mlp.{name}.weight": (width, width) for name in PARTS.values()}
        shapes |= {f"{layer}.mlp.{name}.bias": (width,) for name in PARTS.values()}
        if decoder.norm == "rmsnorm":
            shapes |= {f"{layer}.attn_norm.weight": (width,), f"{layer}.mlp_norm.weight": (width,)}
    if decoder.norm == "rmsnorm":
        shapes["norm.weight"] = (width,)
    shapes["out.weight"] = (config.label_count, width)
    for name in secondary_modalities(config):
        for layer in range(DEPTH[config.bridge.projector]):
            given = config.bridge_width(name) if layer == 0 else config.item_width
            shapes[f"projector.fc{layer + 1}.weight"] = (config.item_width, given)
    return shapes


def check_state(config: RunConfig, state: Mapping[str, Tensor], file: Path) -> None:
    """Raises CheckpointError for names that are missing or too many, and for other shapes."""
    wanted = released_shapes(config)
    missing = [name for name in wanted if name not in state]
    more = [name for name in state if name not in wanted]
    if missing or more:
        parts = [f"lacks {_some(missing)}"] * bool(missing) + [f"has {_some(more)}"] * bool(more)
        hint = "layers, heads, norm, modalities and projector of --config decide the names"
        raise CheckpointError(file, f"it {' and '.join(parts)} ({hint})")
    for name, shape in wanted.items():
        if tuple(state[name].shape) != shape:
            raise CheckpointError(file, f"expected shape {shape}, found {tuple(state[name].shape)}", name)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(names[:5])}{more}"


# -- weights ------------------------------------------------------------------------------------------------------
def from_released(config: RunConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters of miclab's decoder with the weights of a state dict that `check_state` accepts."""
    items = config.item_width
    slots = config.decoder.residual_width(items) - items
    # Entry j is the dimension there of our dimension j of the residual stream.
    order = torch.cat([torch.arange(slots, slots + items), torch.arange(slots)])
    found = {"decoder.readout": state["out.weight"].T[order]}
    if "norm.weight" in state:
        found["decoder.norm.gain"] = state["norm.weight"][order]
    for i in range(config.decoder.layers):
        theirs, ours = f"layers.{i}", f"decoder.blocks.{i}"
        own = {name.removeprefix(f"{theirs}."): value for name, value in state.items() if name.startswith(f"{theirs}.")}
        for norm, name in (("norm1", "attn_norm"), ("norm2", "mlp_norm")):
            if f"{name}.weight" in own:
                found[f"{ours}.{norm}.gain"] = own[f"{name}.weight"][order]
        for part, name in (("query", "wq"), ("key", "wk"), ("value", "wv")):
            found[f"{ours}.attention.{part}"] = own[f"attn.{name}.weight"].T[order]
        if "attn.wo.weight" in own:
            found[f"{ours}.attention.output"] = own["attn.wo.weight"].T[:, order]
        else:
            # Without a projection the values are written into the residual stream as they are.
            found[f"{ours}.attention.value"] = found[f"{ours}.attention.value"][:, order]
        for part, name in PARTS.items():
            weight, bias = own[f"mlp.{name}.weight"].T, own[f"mlp.{name}.bias"]
            found[f"{ours}.mlp.{part}.weight"] = weight[:, order] if part == "out" else weight[order]
            found[f"{ours}.mlp.{part}.bias"] = bias[order] if part == "out" else bias
    for name in secondary_modalities(config):
        for layer in range(DEPTH[config.bridge.projector]):
            found[f"bridge.{name}.{layer}"] = state[f"projector.fc{layer + 1}.weight"].T
    wanted = Decoder(config).shapes()
    if {name: tuple(value.shape) for name, value in found.items()} != wanted:
        raise RunError(f"The imported weights are not those of the decoder: {sorted(set(found) ^ set(wanted))}.")
    return {name: found[name].contiguous() for name in wanted}


# -- world --------------------------------------------------------------------------------------------------------
def drawn_world(config: RunConfig, seed: int = 0) -> dict[str, Tensor]:
    """Tensors of the world that the released code draws with a seed of NumPy: the embeddings of the labels, then the
    prototypes of each modality.

    Raises:
        ConfigError: the task is another, whose world is drawn otherwise; or the seed is none of NumPy's.
    """
    if config.sequence.task != "shared_label":
        allowed = "'shared_label', or a world given by --world"
        raise ConfigError("sequence.task", config.sequence.task, allowed)
    if not 0 <= seed < 2**32:
        raise ConfigError("world_seed", seed, f"0 to {2**32 - 1}")
    generator = np.random.RandomState(seed)

    def vectors(count: int, dimension: int) -> Tensor:
        return torch.tensor(generator.normal(size=(count, dimension)) / np.sqrt(dimension)).float()

    found = {"label_embeddings": vectors(config.label_count, config.item_width)}
    for name in config.order:
        modality = config.modalities[name]
        found[f"prototypes.{name}"] = vectors(modality.classes, modality.dimension)
    return found
