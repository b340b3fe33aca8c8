"""The parts of a run's configuration: frozen dataclasses that reject what cannot work.

A field's default is the value of arXiv 2601.20796 where the paper has one. Fields at their default stay out of
the hash that names a run (`miclab.config.schema.trajectory_hash`), so a new field renames no old run.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Literal, get_args

from miclab.errors import ConfigError, nearest

Encoder = Literal["none", "mlp", "cnn", "transformer", "vit"]
Positions = Literal["none", "onehot", "learned", "sinusoidal", "rope", "rope_released", "alibi", "hybrid"]
ABSOLUTE_POSITIONS = ("onehot", "learned", "sinusoidal", "hybrid")
CONCATENATED_POSITIONS = ("onehot", "hybrid")
ROTARY_POSITIONS = ("rope", "rope_released", "hybrid")


def check_number(
    owner: str, config: object, name: str, low: float, high: float = math.inf, *, open_low: bool = False
) -> None:
    """Raises ConfigError unless field `name` of `config` is a finite number from `low` to `high`."""
    value = getattr(config, name)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # NaN is in no range; a whole number too large for a float is compared as it is.
    if not is_number or not low <= value <= min(high, sys.float_info.max) or (open_low and value == low):
        edge = "above" if open_low else "at least"
        top = "" if high == math.inf else f" and at most {high:g}"
        where = f"{owner}.{name}" if owner else name
        raise ConfigError(where, value, f"a finite number {edge} {low:g}{top}")


def check_whole(owner: str, config: object, name: str, low: int, high: float = math.inf) -> None:
    """Raises ConfigError unless field `name` of `config` is a whole number from `low` to `high`."""
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{owner}.{name}" if owner else name, value, f"a whole number, {low} or more")
    if not low <= value <= min(high, sys.float_info.max):
        check_number(owner, config, name, low, high)


def check_known(owner: str, config: object, name: str, known: tuple[str, ...]) -> None:
    """Raises ConfigError unless field `name` of `config` is one of `known`."""
    value = getattr(config, name)
    if value not in known:
        raise ConfigError(f"{owner}.{name}" if owner else name, value, nearest(str(value), known))


@dataclass(frozen=True, kw_only=True)
class ModalityConfig:
    """One modality: a Gaussian mixture of classes, or real data with its own classes and exemplars."""

    classes: int = 8192
    """Number of classes, K. A multiple of `labels`. With a source: as many of its training classes, or all of them
    where it has fewer."""
    dimension: int = 64
    """Dimension of an item, D. With a source: that of its items, whatever is asked for."""
    noise: float = 0.1
    """Within-class noise, epsilon, relative to the norm of a prototype, or to that of a source's items (1)."""
    zipf_exponent: float = 0.0
    """Exponent alpha of the class frequencies p(k) ~ k^-alpha."""
    labels: int = 32
    """Number of labels, L: label(k) = k mod L."""
    novel_classes: int = 0
    """Classes in one set of novel classes; 0: the paper's rule (see `miclab.worlds.world.novel_class_count`)."""
    source: str = ""
    """Real data set that the items come from (`miclab data list`); empty: the Gaussian mixture."""
    content: str = ""
    """SHA-256 of the source's content; filled in, so that other data under the same name is another run."""
    shape: tuple[int, ...] = ()
    """Shape of one item of the source; filled in."""
    blends: int = 0
    """Further training classes, each made of two of the source's (see `miclab.worlds.mixtures`)."""
    shift: int = 0
    """Pictures of a source are shifted in training by up to so many pixels along either axis."""
    encoder: Encoder = "none"
    """What turns an item into features before the projector (see `miclab.model.encoders`)."""
    features: int = 32
    """Dimension of the encoder's features."""
    encoder_run: str = ""
    """Trajectory hash of the run that pretrained the encoder; empty: its first weights are random."""
    encoder_step: int = 0
    """Checkpoint of that run. In a study, without `encoder_run`: the steps of the pretraining that is planned."""

    def check(self, owner: str) -> None:
        """Raises ConfigError, naming the fields `owner.*`."""
        check_whole(owner, self, "labels", 2)
        check_whole(owner, self, "shift", 0, 1000)
        check_known(owner, self, "encoder", get_args(Encoder))
        check_whole(owner, self, "features", 1, 65_536)
        check_whole(owner, self, "encoder_step", 0)
        if self.encoder == "none" and (self.encoder_run or self.encoder_step):
            field = "encoder_run" if self.encoder_run else "encoder_step"
            raise ConfigError(f"{owner}.{field}", getattr(self, field), f"empty or 0 without {owner}.encoder")
        check_whole(owner, self, "blends", 0, self.classes * ((self.classes - 1) // 2))
        if self.blends and not self.source:
            raise ConfigError(f"{owner}.blends", self.blends, f"0 without {owner}.source")
        if self.shift and not self.source:
            raise ConfigError(f"{owner}.shift", self.shift, f"0 without {owner}.source: only pictures can be shifted")
        if any(type(size) is not int or size < 1 for size in self.shape):
            raise ConfigError(f"{owner}.shape", self.shape, "sizes of 1 or more")
        check_whole(owner, self, "classes", self.labels, 10_000_000)
        check_whole(owner, self, "dimension", 1, 65_536)
        check_number(owner, self, "noise", 0.0, 1e6)
        check_number(owner, self, "zipf_exponent", 0.0, 20.0)
        check_whole(owner, self, "novel_classes", 0)
        # Real data has the classes that it has.
        if self.source:
            return
        if self.classes % self.labels:
            raise ConfigError(f"{owner}.classes", self.classes, f"a multiple of {owner}.labels = {self.labels}")
        if self.novel_classes % self.labels:
            raise ConfigError(
                f"{owner}.novel_classes",
                self.novel_classes,
                f"0 or a multiple of {owner}.labels = {self.labels}",
            )


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """How labelled examples and a query become one sequence (see `miclab.worlds.sequences`)."""

    context: int = 8
    """Labelled examples in the context, N."""
    burstiness: int = 4
    """Copies of each context class, B. Divides `context` and is smaller than it."""
    bursty_fraction: float = 1.0
    """Fraction of bursty sequences in training, p_B."""
    novel_fraction: float = 0.0
    """Fraction of training sequences made of novel classes that are redrawn every batch, p_C."""
    distinct_labels: Literal["off", "on", "released"] = "off"
    """`on`: no two context classes of a bursty sequence share a label. `released`: the same, but the class
    frequencies are ignored, as in the released code."""
    order: tuple[str, ...] = ()
    """Modalities in the order in which they stand inside an exemplar; empty: the order of `modalities`."""
    leader: str = ""
    """Modality that draws the classes; the others follow by its label. Empty: the last one of `modalities`."""
    task: Literal["shared_label", "joint_label", "classification"] = "shared_label"
    """`joint_label`: the label is made of one group per modality, so that every modality is needed. `classification`:
    one item and no context, whose class is asked for: how encoders are pretrained."""
    pairing: Literal["label", "concept"] = "label"
    """`concept`: the items of an exemplar are of classes of the same name. Every modality needs a source for that."""
    groups: tuple[int, ...] = ()
    """Joint-label task: number of groups of each modality, in the order of `order`; class k has group k mod G."""
    unpaired_independent: bool = False
    """Released code: in sequences that are not bursty the followers ignore the leader's label."""
    swapped_shift: int = 1
    """Shift of the labels in the `swapped` split. The released joint-label code shifts by 2."""
    first_token: Literal["none", "learnt"] = "none"
    """`learnt`: every sequence starts with one learnt vector, which is no item and no label."""
    token_noise: float = 0.0
    """Norm of fresh Gaussian noise on every token, in training alone; 0: none."""
    jitter: int = 0
    """Frozen random vectors of norm 1, of which each sequence adds one to all of its tokens, in training and in
    evaluation, as an absolute code at random placement adds one of its shifts; 0: none."""

    def check(self, names: tuple[str, ...], owner: str = "sequence") -> None:
        """Raises ConfigError. `names` are the modalities of the world."""
        check_whole(owner, self, "context", 2, 100_000)
        check_whole(owner, self, "burstiness", 1)
        check_number(owner, self, "bursty_fraction", 0.0, 1.0)
        check_number(owner, self, "novel_fraction", 0.0, 1.0)
        check_known(owner, self, "distinct_labels", ("off", "on", "released"))
        check_known(owner, self, "task", ("shared_label", "joint_label", "classification"))
        check_known(owner, self, "pairing", ("label", "concept"))
        check_whole(owner, self, "swapped_shift", 1)
        check_known(owner, self, "first_token", ("none", "learnt"))
        check_number(owner, self, "token_noise", 0.0, 1e6)
        check_whole(owner, self, "jitter", 0, 1_000_000)
        if self.task == "classification":
            for name, default in (("first_token", "none"), ("token_noise", 0.0), ("jitter", 0)):
                if getattr(self, name) != default:
                    allowed = f"{default!r} where sequence.task = 'classification': there is no sequence"
                    raise ConfigError(f"{owner}.{name}", getattr(self, name), allowed)
        if self.burstiness >= self.context:
            raise ConfigError(f"{owner}.burstiness", self.burstiness, f"less than {owner}.context = {self.context}")
        if self.context % self.burstiness:
            raise ConfigError(f"{owner}.burstiness", self.burstiness, f"a divisor of {owner}.context = {self.context}")
        for name in self.order:
            if name not in names:
                raise ConfigError(f"{owner}.order", name, nearest(name, names))
        if self.order and sorted(self.order) != sorted(names):
            raise ConfigError(f"{owner}.order", self.order, f"each of {', '.join(names)} once, or empty")
        if self.leader and self.leader not in names:
            raise ConfigError(f"{owner}.leader", self.leader, nearest(self.leader, names))
        if self.task == "joint_label" and len(self.groups) != len(names):
            raise ConfigError(f"{owner}.groups", self.groups, f"{len(names)} numbers, one for each modality")
        if self.task != "joint_label" and self.groups:
            raise ConfigError(f"{owner}.groups", self.groups, "empty, unless sequence.task = 'joint_label'")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The causal transformer."""

    layers: int = 2
    """Number of blocks."""
    heads: int = 1
    """Attention heads of each block; divides the width."""
    width: int = 0
    """Width of the residual stream; 0: the width of the input (items, and one-hot positions if any)."""
    input_map: Literal["pad", "linear"] = "pad"
    """Where the width is not the input's: zero-pad (nothing learnt is added) or a learnt linear map."""
    positions: Positions = "rope"
    """Position code."""
    position_slots: int = 0
    """Slots of an absolute code; each sequence starts at a random one. 0: 65, and 66 for `hybrid`."""
    rope_theta: float = 10000.0
    """Base of the rotary frequencies."""
    mlp: Literal["released", "swiglu", "none"] = "released"
    """`released`: W3 SiLU(W1 x * W2 x) with biases. `swiglu`: W3 (SiLU(W1 x) * W2 x) without."""
    mlp_hidden: int = 0
    """Hidden width of the MLP; 0: the width."""
    norm: Literal["rmsnorm", "layernorm", "none"] = "rmsnorm"
    """Normalisation before attention, before the MLP and before the readout."""
    output_projection: Literal["auto", "on", "off"] = "auto"
    """Projection after attention. `auto`: only with more than one head, as in the released code."""
    initial_std: float = 0.02
    """Standard deviation of the initial attention projections, projectors and readout."""
    placement: Literal["random", "fixed"] = "random"
    """Where in the slots of an absolute code a sequence starts: at a random slot, or always at the first one."""
    token_constant: float = 0.0
    """Initial norm of one learnt vector that is added to every token; 0: there is none."""
    token_constant_on: Literal["all", "items", "labels"] = "all"
    """Tokens that the constant is added to."""
    attention_bias: Literal["none", "query", "key", "both"] = "none"
    """Learnt biases of the query and key projections, before any rotation."""
    attention_bias_layers: tuple[int, ...] = ()
    """Layers, from 0, that have these biases; empty: all of them."""
    attention_bias_std: float = 0.02
    """Standard deviation of these biases at the start."""
    centre_keys: Literal["off", "all", "position"] = "off"
    """Keys, before any rotation, minus their mean over the batch and all positions (`all`), or over the batch at each
    position (`position`), in training and in evaluation."""
    mlp_bias: Literal["on", "off"] = "on"
    """Biases of the MLP `released`."""

    def check(self, owner: str = "decoder") -> None:
        """Raises ConfigError for what can be judged without the world."""
        check_whole(owner, self, "layers", 1, 24)
        check_whole(owner, self, "heads", 1, 1024)
        check_whole(owner, self, "width", 0, 65_536)
        check_whole(owner, self, "position_slots", 0, 1_000_000)
        check_whole(owner, self, "mlp_hidden", 0, 1_000_000)
        check_number(owner, self, "rope_theta", 1.0, open_low=True)
        check_number(owner, self, "initial_std", 0.0, 100.0)
        check_known(owner, self, "input_map", ("pad", "linear"))
        check_known(owner, self, "positions", get_args(Positions))
        check_known(owner, self, "mlp", ("released", "swiglu", "none"))
        check_known(owner, self, "norm", ("rmsnorm", "layernorm", "none"))
        check_known(owner, self, "output_projection", ("auto", "on", "off"))
        check_known(owner, self, "placement", ("random", "fixed"))
        check_known(owner, self, "token_constant_on", ("all", "items", "labels"))
        check_known(owner, self, "attention_bias", ("none", "query", "key", "both"))
        check_known(owner, self, "centre_keys", ("off", "all", "position"))
        check_known(owner, self, "mlp_bias", ("on", "off"))
        check_number(owner, self, "token_constant", 0.0, 1e6)
        check_number(owner, self, "attention_bias_std", 0.0, 100.0)
        self._check_constants(owner)

    def _check_constants(self, owner: str) -> None:
        """Raises ConfigError for constants and biases that would do nothing, or on layers that are not there."""
        layers = self.attention_bias_layers
        if len(set(layers)) < len(layers) or any(type(i) is not int or not 0 <= i < self.layers for i in layers):
            allowed = f"layers from 0 to {self.layers - 1}, each once"
            raise ConfigError(f"{owner}.attention_bias_layers", layers, allowed)
        if layers and self.attention_bias == "none":
            raise ConfigError(f"{owner}.attention_bias_layers", layers, f"empty without {owner}.attention_bias")
        if self.token_constant_on != "all" and not self.token_constant:
            allowed = f"'all' without {owner}.token_constant"
            raise ConfigError(f"{owner}.token_constant_on", self.token_constant_on, allowed)
        if self.centre_keys != "off" and self.attention_bias in ("key", "both"):
            allowed = f"'off' with {owner}.attention_bias = {self.attention_bias!r}: centring takes a key's bias away"
            raise ConfigError(f"{owner}.centre_keys", self.centre_keys, allowed)
        if self.placement == "fixed" and self.positions not in ABSOLUTE_POSITIONS:
            allowed = f"'random' with {owner}.positions = {self.positions!r}: only an absolute code has slots"
            raise ConfigError(f"{owner}.placement", self.placement, allowed)
        if self.mlp_bias == "off" and self.mlp != "released":
            raise ConfigError(f"{owner}.mlp_bias", "off", f"'on' with {owner}.mlp = {self.mlp!r}, which has none")

    def biased(self, layer: int) -> tuple[str, ...]:
        """Projections of a layer, from 0, that have a bias: of `query` and `key`."""
        if self.attention_bias == "none" or (self.attention_bias_layers and layer not in self.attention_bias_layers):
            return ()
        return ("query", "key") if self.attention_bias == "both" else (self.attention_bias,)

    @property
    def slots(self) -> int:
        """Slots of an absolute position code."""
        return self.position_slots or (66 if self.positions == "hybrid" else 65)

    def input_width(self, item_width: int) -> int:
        """Width of a token before it meets the residual stream: item and concatenated position."""
        return item_width + (self.slots if self.positions in CONCATENATED_POSITIONS else 0)

    def residual_width(self, item_width: int) -> int:
        """Width of the residual stream."""
        return self.width or self.input_width(item_width)

    @property
    def has_output_projection(self) -> bool:
        """Whether attention ends with a projection."""
        return self.output_projection == "on" or (self.output_projection == "auto" and self.heads > 1)


@dataclass(frozen=True, kw_only=True)
class BridgeConfig:
    """How a secondary modality enters the embedding space of the host."""

    projector: Literal["small", "large", "linear"] = "small"
    """`small`: Linear GELU Linear. `large`: one more layer. `linear`: one layer. No biases."""

    def check(self, owner: str = "bridge") -> None:
        """Raises ConfigError."""
        check_known(owner, self, "projector", ("small", "large", "linear"))


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """One optimiser and its learning-rate schedule."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    """Update rule. Plain SGD has no momentum."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 1e-6
    """Decay per step: added to the gradient (sgd, adam) or to the update (adamw)."""
    beta1: float = 0.9
    """Decay of the mean of gradients (adam, adamw)."""
    beta2: float = 0.999
    """Decay of the mean of squared gradients (adam, adamw)."""
    batch_size: int = 128
    """Sequences in a batch."""
    schedule: Literal["constant", "cosine"] = "constant"
    """`cosine`: after the warm-up, falls to 0 at `decay_steps`."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    decay_steps: int = 0
    """Step at which a cosine schedule reaches 0."""

    def check(self, owner: str = "optimiser") -> None:
        """Raises ConfigError."""
        check_known(owner, self, "name", ("sgd", "adam", "adamw"))
        check_number(owner, self, "learning_rate", 0.0, open_low=True)
        check_number(owner, self, "weight_decay", 0.0)
        for beta in ("beta1", "beta2"):
            check_number(owner, self, beta, 0.0)
            if getattr(self, beta) >= 1:
                raise ConfigError(f"{owner}.{beta}", getattr(self, beta), "a number from 0 to below 1")
        check_whole(owner, self, "batch_size", 1, 1_000_000)
        check_known(owner, self, "schedule", ("constant", "cosine"))
        check_whole(owner, self, "warmup_steps", 0)
        check_whole(owner, self, "decay_steps", 0)
        if self.schedule == "cosine" and self.decay_steps <= self.warmup_steps:
            raise ConfigError(
                f"{owner}.decay_steps",
                self.decay_steps,
                f"more than {owner}.warmup_steps = {self.warmup_steps} when {owner}.schedule = 'cosine'",
            )


@dataclass(frozen=True, kw_only=True)
class NumericsConfig:
    """What else moves the last bits of a result."""

    mode: Literal["auto", "compiled", "eager"] = "auto"
    """`auto`: compiled for 2,500 steps or more where a C++ compiler works, else eager; what was used is recorded."""
    threads: int = 1
    """Threads of one training process. Two processes of one thread beat one of two."""
    device: Literal["cpu"] = "cpu"
    """Where the training step runs; other devices are not supported yet."""

    def check(self, owner: str = "numerics") -> None:
        """Raises ConfigError."""
        check_known(owner, self, "mode", ("auto", "compiled", "eager"))
        check_known(owner, self, "device", ("cpu",))
        check_whole(owner, self, "threads", 1, 1024)


@dataclass(frozen=True, kw_only=True)
class ParentConfig:
    """The stage-1 run that a stage-2 run starts from."""

    run: str = ""
    """Trajectory hash of the parent; empty: none (stage 1, or early fusion)."""
    step: int = 0
    """Checkpoint of the parent."""

    def check(self, owner: str = "parent") -> None:
        """Raises ConfigError."""
        check_whole(owner, self, "step", 0)
