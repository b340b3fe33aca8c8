"""The parts of a run's configuration: frozen dataclasses that reject impossible values.

A field's default is the value of arXiv 2601.20796 where the paper has one. Fields at their default stay out of
the hash that names a run (`miclab.config.schema.trajectory_hash`), so a new field renames no old run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from miclab.config.checks import check_known, check_number, check_whole
from miclab.errors import ConfigError, nearest

LONGEST_CONTEXT = 100_000
"""Most labelled examples of a context."""
WIDEST_GROUP = 4096
"""Most runs that are trained as one program."""
Encoder = Literal["none", "mlp", "cnn", "transformer", "vit"]


@dataclass(frozen=True, kw_only=True)
class ModalityConfig:
    """One modality: a Gaussian mixture of classes, or real data with its own classes and exemplars."""

    classes: int = 8192
    """Number of classes, K. A multiple of `labels`. With a source: how many of its training classes to use, at most
    all."""
    dimension: int = 64
    """Dimension of an item, D. With a source, that of its items replaces this value."""
    noise: float = 0.1
    """Within-class noise, epsilon, relative to the norm of a prototype, or to that of a source's items (1)."""
    zipf_exponent: float = 0.0
    """Exponent alpha of the class frequencies p(k) ~ k^-alpha."""
    labels: int = 32
    """Number of labels, L: label(k) = k mod L."""
    novel_classes: int = 0
    """Classes in one set of novel classes; 0: the paper's rule (see `miclab.worlds.world.novel_class_count`)."""
    prototype_correlation: float = 0.0
    """Correlation rho of prototypes with those of their partners in the primary modality, 0 to 1. Above 0 it needs
    `sequence.pairing` `class` (see `miclab.worlds.class_pairs`)."""
    source: str = ""
    """Real data set that the items come from, as NAME or NAME:ARGUMENT (`miclab data list`); empty: the Gaussian
    mixture."""
    content: str = ""
    """SHA-256 of the source's content; filled in, so that other data under the same name is another run."""
    shape: tuple[int, ...] = ()
    """Shape of one item of the source; filled in."""
    centre: Literal["off", "training"] = "off"
    """`training`: the mean of the training classes' training items is subtracted from all items of the source, which
    then have norm 1 again (see `miclab.data.items`). For sources of vectors."""
    blends: int = 0
    """Further training classes, each made of two of the source's (see `miclab.worlds.mixtures`)."""
    shift: int = 0
    """In training, pictures of a source are shifted by up to this number of pixels along either axis."""
    encoder: Encoder = "none"
    """Network from an item to features, before the projector (see `miclab.model.encoders`)."""
    features: int = 32
    """Dimension of the encoder's features."""
    encoder_run: str = ""
    """Trajectory hash of the run that pretrained the encoder; empty: its initial weights are random."""
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
        check_known(owner, self, "centre", ("off", "training"))
        if self.centre != "off" and not self.source:
            raise ConfigError(f"{owner}.centre", self.centre, f"'off' without {owner}.source")
        if self.centre != "off" and self.encoder != "none":
            raise ConfigError(f"{owner}.centre", self.centre, f"'off' with {owner}.encoder")
        if self.centre != "off" and len(self.shape) > 1:
            allowed = "'off': pictures and spectrograms always enter less their mean"
            raise ConfigError(f"{owner}.centre", self.centre, allowed)
        check_whole(owner, self, "blends", 0, self.classes * ((self.classes - 1) // 2))
        if self.blends and not self.source:
            raise ConfigError(f"{owner}.blends", self.blends, f"0 without {owner}.source")
        if self.shift and not self.source:
            raise ConfigError(f"{owner}.shift", self.shift, f"0 without {owner}.source: only pictures can be shifted")
        if self.shift and self.shape and len(self.shape) != 3:
            raise ConfigError(f"{owner}.shift", self.shift, f"0: the items of {self.source} are no pictures")
        if any(type(size) is not int or size < 1 for size in self.shape):
            raise ConfigError(f"{owner}.shape", self.shape, "sizes of 1 or more")
        if self.source and 2 <= self.classes < self.labels:
            allowed = f"at most {self.classes}: each label needs a class of its own, and a held-out class"
            raise ConfigError(f"{owner}.labels", self.labels, allowed)
        check_whole(owner, self, "classes", self.labels, 10_000_000)
        check_whole(owner, self, "dimension", 1, 65_536)
        check_number(owner, self, "noise", 0.0, 1e6)
        check_number(owner, self, "zipf_exponent", 0.0, 20.0)
        check_whole(owner, self, "novel_classes", 0)
        check_number(owner, self, "prototype_correlation", 0.0, 1.0)
        if self.prototype_correlation and self.source:
            allowed = f"0 with {owner}.source: real data has no prototypes to draw"
            raise ConfigError(f"{owner}.prototype_correlation", self.prototype_correlation, allowed)
        # Real data has a fixed number of classes.
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
    """The layout of labelled examples and a query in a sequence (see `miclab.worlds.sequences`)."""

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
    """Order of the modalities inside an exemplar; empty: the order of `modalities`."""
    leader: str = ""
    """Modality that draws the classes; the others follow by its label. Empty: the last one of `modalities`."""
    task: Literal["shared_label", "joint_label", "classification"] = "shared_label"
    """`joint_label`: the label is made of one group per modality, so that every modality is needed. `classification`:
    one item and no context, and its class is predicted: how encoders are pretrained."""
    pairing: Literal["label", "concept", "class"] = "label"
    """`concept`: the items of an exemplar are of classes of the same name. Every modality needs a source for that.
    `class`: every class of the leader has one fixed class of each other modality (see `miclab.worlds.class_pairs`). No
    modality may have a source for that."""
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
    """Number of frozen random vectors of norm 1; 0: none. Each sequence adds one of them to all of its tokens, in
    training and in evaluation. An absolute code at random placement likewise adds one of its shifts."""

    def check(self, names: tuple[str, ...], owner: str = "sequence") -> None:
        """Raises ConfigError. `names` are the modalities of the world."""
        check_whole(owner, self, "context", 2, LONGEST_CONTEXT)
        check_whole(owner, self, "burstiness", 1)
        check_number(owner, self, "bursty_fraction", 0.0, 1.0)
        check_number(owner, self, "novel_fraction", 0.0, 1.0)
        check_known(owner, self, "distinct_labels", ("off", "on", "released"))
        check_known(owner, self, "task", ("shared_label", "joint_label", "classification"))
        check_known(owner, self, "pairing", ("label", "concept", "class"))
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
class BridgeConfig:
    """The map of a secondary modality into the embedding space of the host."""

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
    """Settings that change only the last bits of a result."""

    mode: Literal["auto", "compiled", "eager", "lanes"] = "auto"
    """`auto`: compiled for 2,500 steps or more if a C++ compiler works, else eager. The mode in effect is recorded.
    `lanes`: as one of `lanes` runs of equal shapes that are trained as one program."""
    lanes: int = 0
    """Width of the group in mode `lanes`; a lane's bits depend on it, and on nothing else of the group. 0 in other
    modes."""
    lane_step: Literal["eager", "compiled"] = "eager"
    """The step of a group in mode `lanes`. `compiled`: one compiled program, on an NVIDIA GPU a CUDA graph; on a CPU
    the compiled step of a single run, lane after lane."""
    threads: int = 1
    """Threads of one training process. Two processes of one thread beat one of two."""
    device: str = "cpu"
    """Where the training step runs: `cpu`, `cuda` (the first GPU), `cuda:1`, `mps`, or `auto`, the best one here."""
    tf32: Literal["off", "on"] = "off"
    """`on`: matrix products on a GPU round their factors to 10 bits. Faster, and less exact than float32."""
    sampler: Literal["host", "device"] = "host"
    """Where sequences are drawn. `host`: on the CPU, one number after the other. `device`: where the step runs, from
    counters (see `miclab.worlds.philox`), so that many runs are sampled at once; other numbers, the same
    distributions."""

    def check(self, owner: str = "numerics") -> None:
        """Raises ConfigError."""
        check_known(owner, self, "mode", ("auto", "compiled", "eager", "lanes"))
        check_whole(owner, self, "lanes", 0, WIDEST_GROUP)
        if (self.mode == "lanes") != bool(self.lanes):
            allowed = f"1 to {WIDEST_GROUP} with {owner}.mode = 'lanes', and 0 without"
            raise ConfigError(f"{owner}.lanes", self.lanes, allowed)
        check_known(owner, self, "lane_step", ("eager", "compiled"))
        if self.lane_step == "compiled" and self.mode not in ("lanes", "auto"):
            allowed = f"'eager' with {owner}.mode = {self.mode!r}: it is the step of {owner}.mode = 'lanes'"
            raise ConfigError(f"{owner}.lane_step", self.lane_step, allowed)
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", self.device):
            raise ConfigError(f"{owner}.device", self.device, "cpu, cuda, cuda:1 (or another number), mps or auto")
        check_known(owner, self, "tf32", ("off", "on"))
        if self.tf32 == "on" and self.device in ("cpu", "mps"):
            raise ConfigError(f"{owner}.tf32", self.tf32, f"'off' with {owner}.device = {self.device!r}")
        if self.sampler == "device" and self.device == "mps":
            allowed = f"'host' with {owner}.device = 'mps', which has no float64 to draw classes with"
            raise ConfigError(f"{owner}.sampler", self.sampler, allowed)
        check_known(owner, self, "sampler", ("host", "device"))
        check_whole(owner, self, "threads", 1, 1024)


@dataclass(frozen=True, kw_only=True)
class ParentConfig:
    """The stage-1 run that a stage-2 run starts from."""

    run: str = ""
    """Trajectory hash of the parent; empty: none (stage 1, or early fusion)."""
    step: int = 0
    """Checkpoint of the parent."""
    imported: str = ""
    """SHA-256 of weights and world from elsewhere; filled in by `miclab import`. Empty: miclab trains them."""

    def check(self, owner: str = "parent") -> None:
        """Raises ConfigError."""
        check_whole(owner, self, "step", 0)
        if self.imported and not re.fullmatch("[0-9a-f]{64}", self.imported):
            raise ConfigError(f"{owner}.imported", self.imported, "empty, or the SHA-256 that `miclab import` fills in")
