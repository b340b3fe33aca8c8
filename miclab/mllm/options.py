"""Options of models, episodes, knockouts and fine-tuning, for the library and the command line. Nothing heavy is
imported here, so that a command can show its help, or report that the extra is missing."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

from miclab.errors import ConfigError
from miclab.mllm.words import SYLLABLES, WordPart

T = TypeVar("T")
Dtype = Literal["float32", "bfloat16", "float16"]
PromptForm = Literal["auto", "turns", "chat", "plain"]
DeviceMap = Literal["none", "auto", "balanced", "sequential"]
Baseline = Literal["zero", "mean", "uniform", "previous_token", "own_item"]
OUTPUTS = ("zero", "mean")
"""Baselines that replace a head's output; the others replace its pattern."""
Judging = Literal["exact", "benchmark"]
Part = Literal["training", "held-out exemplars", "held-out classes", "all"]
PREVIOUS_TOKEN, INDUCTION = "previous_token_1", "induction_all_positions"
"""The measures that the paper ranks the heads of production models by."""
LEAST_DRAWS = 20


def chosen(kind: type[T], among: Any) -> T:
    """The options of a kind from an object that also has others."""
    return kind(**{field.name: getattr(among, field.name) for field in fields(kind)})  # pyright: ignore[reportArgumentType]


def last_name(place: str) -> str:
    """The last part of a folder's path, also of `.` and `..`, or of a hub id."""
    return os.path.basename(os.path.abspath(place))


def at_least(options: Any, **least: int) -> None:
    """Raises ConfigError if an option is below its least value."""
    for name, lowest in least.items():
        if getattr(options, name) < lowest:
            raise ConfigError(name, getattr(options, name), f"{lowest} and more")


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How a model is loaded."""

    dtype: Dtype = "float32"
    """Type of the weights."""
    four_bit: bool = False
    """Linear maps in 4 bits (NF4; needs bitsandbytes and a GPU)."""
    eight_bit: bool = False
    """Linear maps in 8 bits (needs bitsandbytes and a GPU)."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto: a GPU if there is one."""
    device_map: DeviceMap = "none"
    """Layers over several GPUs, and over the CPU where these are full: auto, balanced, sequential; none: one device."""
    revision: str = ""
    """Branch, tag or commit of a hub id, such as a checkpoint of training (also MODEL@REVISION); empty: the newest."""
    base: str = ""
    """Base of an adapter: folder, hub id, `tiny` or `tiny-marks`; empty: as the adapter's configuration names it."""
    max_pixels: int = 0
    """Most pixels of a picture; larger ones are shrunk. 0: the processor's own limit."""
    background: str = "white"
    """Colour that transparent parts of pictures show: a name, or #RRGGBB."""
    prompt: PromptForm = "auto"
    """turns: a user's and an assistant's turn for each example; chat: one user's turn; plain: no chat template. The
    choice auto is turns if the chat template marks them, chat with any other template, else plain."""
    offline: bool = False
    """Use no network; take hub ids from the cache."""

    def __post_init__(self) -> None:
        from miclab.data.pictures import background_colour

        at_least(self, max_pixels=0)
        background_colour(self.background)
        if self.four_bit and self.eight_bit:
            raise ConfigError("eight_bit", True, "4 bits or 8, not both")
        if self.device_map != "none" and self.device != "auto":
            raise ConfigError("device_map", self.device_map, "none with --device: a map chooses the devices itself")

    @property
    def torch_device(self) -> str:
        """Name of the device.

        Raises:
            ConfigError: it is a GPU, and torch can use none.
        """
        import torch

        there = torch.cuda.is_available()
        if self.device.startswith("cuda") and not there:
            raise ConfigError("device", self.device, "cpu or auto: this torch finds no GPU of that kind")
        return ("cuda" if there else "cpu") if self.device == "auto" else self.device


@dataclass(frozen=True, kw_only=True)
class EpisodeOptions:
    """The episodes to make."""

    data: str = "glyphs"
    """glyphs, concepts.pictures, or folder:PATH of yours (PATH/CLASS/PICTURE)."""
    part: Part = "held-out classes"
    """Part of the exemplars."""
    words: WordPart = "held-out"
    """Part of the invented names. Those of the two parts differ, so that a model can be trained on one part."""
    ways: int = 2
    """Classes of an episode."""
    shots: int = 2
    """Examples of each class."""
    episodes: int = 200
    """Number of episodes."""
    side: int = 0
    """Side to which pictures are enlarged, in pixels, without smoothing; 0: unchanged."""
    seed: int = 0
    """Seed of all draws."""
    instruction: str = ""
    """Text before the first example."""
    template: str = ""
    """Template of an example; empty: {item}, then `Answer: {answer}`."""

    def __post_init__(self) -> None:
        at_least(self, ways=2, shots=1, episodes=1, side=0, seed=0)
        if self.ways > len(SYLLABLES) // 2:
            raise ConfigError("ways", self.ways, f"at most {len(SYLLABLES) // 2}: names differ in their first syllable")


@dataclass(frozen=True, kw_only=True)
class KnockoutOptions:
    """The heads to knock out."""

    top: int = 5
    """Number of strongest heads of each kind."""
    previous_token: str = PREVIOUS_TOKEN
    """Measure that ranks previous-token heads."""
    induction: str = INDUCTION
    """Measure that ranks induction heads; the default is the paper's."""
    baseline: Baseline = "zero"
    """Replacement of a head's output: zeros, or its mean over the positions of the prompts. Or of its pattern: uniform
    (all earlier positions alike), previous_token, own_item (labels attend to their own items)."""
    draws: int = LEAST_DRAWS
    """Draws of random heads for each control."""
    layers: Literal["top", "all", "none"] = "top"
    """Whole layers that are knocked out too: those that hold top heads, all, none."""
    seed: int = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        at_least(self, top=1)
        if self.draws < LEAST_DRAWS:
            raise ConfigError("draws", self.draws, f"{LEAST_DRAWS} and more: fewer make no control")


@dataclass(frozen=True, kw_only=True)
class EdgeOptions:
    """The edges of attention to cut."""

    edges: tuple[str, ...] = ()
    """Kinds as SOURCE:TARGET, such as own-item:label; default: the usual ones."""
    window: int = 0
    """Adjacent layers that are cut together; 0: as few as give at most 8 windows."""
    draws: int = 5
    """Draws of as many random edges for each control; 0: no control."""
    seed: int = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        at_least(self, window=0, draws=0)


@dataclass(frozen=True, kw_only=True)
class PatchOptions:
    """What is patched, and between which prompts."""

    corruption: str = "labels_swapped"
    """The one thing in which corrupted prompts differ: labels_swapped, items_swapped or query_other."""
    direction: Literal["restore", "corrupt"] = "restore"
    """restore puts clean activations into the corrupted prompt (denoising), corrupt the other way round (noising)."""
    parts: tuple[str, ...] = ()
    """Parts of a layer: residual, attention, mlp, and of each head head, query, key, value; default: the first
    three."""
    layers: tuple[int, ...] = ()
    """Layers that are patched; default: all."""
    window: int = 0
    """Adjacent layers whose attention or mlp is patched together; 0: as few as give at most 8 windows."""

    def __post_init__(self) -> None:
        at_least(self, window=0)


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """The prompts between which edges are patched."""

    corruption: str = "labels_swapped"
    """The one thing in which corrupted prompts differ: labels_swapped, items_swapped or query_other."""
    direction: Literal["restore", "corrupt"] = "restore"
    """restore puts what senders add to the clean prompt into the corrupted one, corrupt the other way round."""


@dataclass(frozen=True, kw_only=True)
class PathOptions(PairOptions):
    """The edges that are patched exactly."""

    sender: tuple[str, ...] = ()
    """Senders: heads as LAYER.HEAD, 'mlp LAYER', embedding; default: all heads."""
    receiver: tuple[str, ...] = ()
    """Receivers: LAYER.HEAD:query, :key or :value, 'mlp LAYER', logits; default: all that come after a sender."""
    layers: tuple[int, ...] = ()
    """Layers whose heads send; default: all."""
    top: int = 50
    """Edges that are patched at most: those with the largest effects as EAP-IG estimates them. 0: all."""

    def __post_init__(self) -> None:
        at_least(self, top=0)
        if self.sender and self.layers:
            raise ConfigError("layers", self.layers, "none with --sender, which names the senders itself")


@dataclass(frozen=True, kw_only=True)
class AttributeOptions(PairOptions):
    """How effects of edges are estimated."""

    interpolations: int = 5
    """Gradients that EAP-IG averages; EAP takes one, of the prompt that is patched."""
    check: int = 20
    """Edges that are also patched exactly: half those with the largest estimates, half others at random."""

    def __post_init__(self) -> None:
        at_least(self, interpolations=1, check=2)


@dataclass(frozen=True, kw_only=True)
class VectorOptions:
    """The function vector to add."""

    top: int = 5
    """Number of strongest induction heads whose mean outputs are added."""
    induction: str = INDUCTION
    """Measure that ranks them; the default is the paper's."""
    layers: tuple[int, ...] = ()
    """Layers after which the vector is added, one at a time; default: at most 8, evenly spaced."""
    scale: float = 1.0
    """Factor of the vector."""
    draws: int = LEAST_DRAWS
    """Draws of random heads for the control."""
    seed: int = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        at_least(self, top=1)
        if self.draws < LEAST_DRAWS:
            raise ConfigError("draws", self.draws, f"{LEAST_DRAWS} and more: fewer make no control")
        if not math.isfinite(self.scale):
            raise ConfigError("scale", self.scale, "a finite number")


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """Options of fine-tuning; defaults are the paper's."""

    steps: int = 500
    """Optimiser's steps."""
    every: int = 50
    """Steps from one evaluation to the next."""
    train_batch: int = 4
    """Episodes of a step."""
    rank: int = 16
    """Rank of the adapters."""
    alpha: int = 32
    """Their scale times the rank."""
    dropout: float = 0.05
    """Dropout on their input."""
    learning_rate: float = 2e-5
    """Constant learning rate of AdamW."""
    top: int = 5
    """Heads followed of each measure: the strongest before the first step."""
    seed: int = 0
    """Seed of adapters, order and dropout."""

    def __post_init__(self) -> None:
        at_least(self, steps=1, every=1, train_batch=1, rank=1, alpha=1, top=1)
        if not 0 <= self.dropout < 1:
            raise ConfigError("dropout", self.dropout, "0 to below 1")
        if not self.learning_rate > 0:
            raise ConfigError("learning_rate", self.learning_rate, "more than 0")
