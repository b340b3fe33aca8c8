"""Encoders: from an item of a secondary modality, of any shape, to features for a projector.

    mlp          Linear(D -> 64) ReLU Linear(64 -> features)
    cnn          5 stages of convolution, GroupNorm, ReLU; the mean over places; Linear. Along the item of a vector,
                 along both axes of a picture
    transformer  2 layers on segments of 128 numbers; the mean over segments; Linear
    vit          3 layers on patches of 4 x 4 pixels; the mean over patches; Linear

The sizes of `mlp`, `cnn` (5 stages) and `transformer` are those of arXiv 2601.20796, section 3. Our additions: inputs
have variance 1 in each dimension, and features have length 1, as the host's items have.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from miclab.config.parts import Encoder, ModalityConfig
from miclab.config.run import RunConfig
from miclab.seeds import stream_seed

SEGMENT = 128
"""Numbers in a segment of the transformer, and its width."""
PATCH = 4
"""Side of a patch of the ViT in pixels."""
CHANNELS = {1: (16, 32, 32, 64, 64), 2: (32, 48, 64, 96, 128)}
"""Channels of the convolutional stages, for vectors and for pictures."""


class _Stages(nn.Module):
    """The convolutional encoder."""

    def __init__(self, shape: tuple[int, ...], features: int):
        super().__init__()
        axes = len(shape) - 1
        self.shape = shape
        convolution = (nn.Conv1d, nn.Conv2d)[axes - 1]
        given, stages = shape[0], []
        for index, channels in enumerate(CHANNELS[axes]):
            # The first stage has stride 1, the later ones stride 2.
            stride, kernel = (1 if index == 0 else 2), (5 if axes == 1 else 3)
            stages += [convolution(given, channels, kernel, stride, kernel // 2), nn.GroupNorm(4, channels), nn.ReLU()]
            given = channels
        self.stages, self.out = nn.Sequential(*stages), nn.Linear(given, features)

    def forward(self, items: Tensor) -> Tensor:
        return self.out(self.stages(items.view(-1, *self.shape)).flatten(2).mean(2))


class _Tokens(nn.Module):
    """The transformers: tokens with learnt positions, layers, the mean over tokens."""

    def __init__(self, count: int, given: int, width: int, layers: int, features: int):
        super().__init__()
        self.embed = nn.Linear(given, width)
        self.positions = nn.Parameter(torch.randn(count, width) * 0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, features)

    def cut(self, items: Tensor) -> Tensor:
        """Tokens of items."""
        raise NotImplementedError

    def forward(self, items: Tensor) -> Tensor:
        x = self.embed(self.cut(items)) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.out(self.norm(x).mean(1))


class _Segments(_Tokens):
    """The transformer on a vector cut into segments, the last one filled with zeros."""

    def __init__(self, dimension: int, features: int):
        count = -(-dimension // SEGMENT)
        super().__init__(count, SEGMENT, SEGMENT, 2, features)
        self.missing = count * SEGMENT - dimension

    def cut(self, items: Tensor) -> Tensor:
        return F.pad(items, (0, self.missing)).unflatten(1, (-1, SEGMENT))


class _Patches(_Tokens):
    """The ViT; pictures are filled with zeros to whole patches."""

    def __init__(self, shape: tuple[int, ...], features: int):
        channels, height, width = shape
        self.missing = (0, -width % PATCH, 0, -height % PATCH)
        count = -(-height // PATCH) * -(-width // PATCH)
        super().__init__(count, channels * PATCH**2, 96, 3, features)
        self.shape = shape

    def cut(self, items: Tensor) -> Tensor:
        pictures = F.pad(items.view(-1, *self.shape), self.missing)
        patches = pictures.unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH)).permute(0, 2, 4, 1, 3, 5)
        return patches.flatten(3).flatten(1, 2)


def _build(kind: Encoder, dimension: int, shape: tuple[int, ...], features: int) -> nn.Module:
    if kind == "mlp":
        return nn.Sequential(nn.Linear(dimension, 64), nn.ReLU(), nn.Linear(64, features))
    if kind == "cnn":
        return _Stages(shape if len(shape) == 3 else (1, dimension), features)
    return _Segments(dimension, features) if kind == "transformer" else _Patches(shape, features)


_Key = tuple[Encoder, int, tuple[int, ...], int]
_shells: dict[_Key, nn.Module] = {}


def _shell(key: _Key) -> nn.Module:
    """An encoder without weights, as a function of weights."""
    # Made before a step is compiled, since the compiler can look it up but not build it.
    if key not in _shells:
        with torch.device("meta"):
            _shells[key] = _build(*key)
    return _shells[key]


def _key(modality: ModalityConfig) -> _Key:
    return modality.encoder, modality.dimension, modality.shape, modality.features


def encoder_shapes(config: RunConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of every encoder that is a part of the model."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, modality in config.modalities.items():
        if config.encodes(name):
            weights = _shell(_key(modality)).state_dict()
            shapes |= {f"encoder.{name}.{part}": tuple(weight.shape) for part, weight in weights.items()}
    return shapes


def initial_encoder(modality: ModalityConfig, name: str, seed: int) -> dict[str, Tensor]:
    """Initial weights of an encoder, PyTorch's defaults; a function of the seed, the modality's name and the kind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "parameters", "encoder", name))
        weights = _build(*_key(modality)).state_dict()
    return {f"encoder.{name}.{part}": weight for part, weight in weights.items()}


def encode(
    modality: ModalityConfig, parameters: Mapping[str, Tensor], name: str, items: Float[Tensor, "*shape dimension"]
) -> Float[Tensor, "*shape features"]:
    """Features of items, of length 1."""
    start = f"encoder.{name}."
    weights = {part.removeprefix(start): value for part, value in parameters.items() if part.startswith(start)}
    flat = items.reshape(-1, items.shape[-1]) * items.shape[-1] ** 0.5
    features = torch.func.functional_call(_shell(_key(modality)), weights, (flat,))
    return F.normalize(features, dim=-1).view(*items.shape[:-1], -1)
