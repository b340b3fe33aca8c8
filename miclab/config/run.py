"""The configuration of a run: everything that determines a result, checked across its parts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace

from miclab.config.checks import check_whole
from miclab.config.decoder import DecoderConfig
from miclab.config.frozen import check_frozen, parts_of
from miclab.config.options import ATTENTION, LOSS_TERMS, SOFTMAX, LossOptions
from miclab.config.pairing import check_pairing
from miclab.config.parts import (
    BridgeConfig,
    ModalityConfig,
    NumericsConfig,
    OptimiserConfig,
    ParentConfig,
    SequenceConfig,
)
from miclab.config.positions import POSITION_CODES, position_options
from miclab.config.registry import Registry
from miclab.config.seeds import FOLLOWS, SeedsConfig
from miclab.errors import ConfigError, nearest


def one_modality() -> dict[str, ModalityConfig]:
    """The primary modality with the paper's values."""
    return {"m1": ModalityConfig()}


def two_modalities() -> dict[str, ModalityConfig]:
    """The primary and the secondary modality with the paper's values."""
    return {"m1": ModalityConfig(), "m2": ModalityConfig(classes=256, dimension=32, labels=16)}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A trajectory: world, sequences, model, optimiser, numerics, seed and parent."""

    modalities: dict[str, ModalityConfig] = field(default_factory=one_modality)
    """Name of each modality and its configuration."""
    host: str = ""
    """Modality whose embedding space the labels live in; empty: the first one."""
    sequence: SequenceConfig = field(default_factory=SequenceConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    bridge: BridgeConfig = field(default_factory=BridgeConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    objective: dict[str, LossOptions] = field(default_factory=dict)
    """Terms of the loss beside the cross-entropy at the query, such as `NAME` or `NAME:weight=0.5,until=300`.
    `cross_entropy` itself can be given another weight; 0 leaves it out."""
    numerics: NumericsConfig = field(default_factory=NumericsConfig)
    parent: ParentConfig = field(default_factory=ParentConfig)
    frozen: tuple[str, ...] = ()
    """Parts of the model that are not trained: `decoder`, `decoder.blocks.0.mlp`, `decoder.readout`, `bridge.m2`, heads
    as LAYER.HEAD, ..."""
    seed: int = 0
    """Every random stream of the run is named and derived from this number, or from one of `seeds`."""
    seeds: SeedsConfig = field(default_factory=SeedsConfig)
    plugins: tuple[str, ...] = ()
    """Plugins that the run uses, as NAME:SHA-256 of the file; filled in (see `miclab.config.extensions`)."""

    def __post_init__(self) -> None:
        for part in fields(self):
            self.check_part(part.name)
        self.check_across_parts()

    def check_part(self, name: str) -> None:
        """Raises ConfigError for a field whose value is impossible by itself."""
        value, names = getattr(self, name), tuple(self.modalities)
        if name == "modalities":
            if not value:
                raise ConfigError("modalities", value, "at least one modality")
            for modality, part in value.items():
                if not modality.isidentifier():
                    allowed = "names made of letters, digits and _, not starting with a digit"
                    raise ConfigError("modalities", modality, allowed)
                part.check(f"modalities.{modality}")
        elif name == "host" and value and value not in names:
            raise ConfigError("host", value, nearest(value, names))
        elif name == "seed":
            check_whole("", self, "seed", 0, 2**63 - 1)
        elif name == "sequence":
            value.check(names)
        elif name == "objective":
            if not isinstance(value, dict):
                raise ConfigError("objective", value, "a mapping of terms to their options")
        elif hasattr(value, "check"):
            value.check(name)

    def check_across_parts(self) -> None:
        """Raises ConfigError for parts that contradict each other."""
        self._check_sources()
        self._check_objective()
        self._check_labels()
        check_pairing(self)
        self._check_shapes()
        check_frozen(self)

    # -- seeds --------------------------------------------------------------------------------------------------
    @property
    def world_seed(self) -> int:
        """Seed of the world."""
        return self.seed if self.seeds.world == FOLLOWS else self.seeds.world

    @property
    def weights_seed(self) -> int:
        """Seed of the initial weights."""
        return self.seed if self.seeds.weights == FOLLOWS else self.seeds.weights

    @property
    def sequences_seed(self) -> int:
        """Seed of the training sequences."""
        return self.seed if self.seeds.sequences == FOLLOWS else self.seeds.sequences

    def uses(self) -> tuple[tuple[Registry, str], ...]:
        """The registries of the model and the loss, each with a name in it that the configuration uses."""
        attention = [(ATTENTION, name) for name in self.decoder.attention.names()]
        return (
            (POSITION_CODES, self.decoder.position_name),
            *attention,
            *((LOSS_TERMS, name) for name in self.objective),
        )

    # -- derived names ------------------------------------------------------------------------------------------
    @property
    def order(self) -> tuple[str, ...]:
        """Modalities in their order inside an exemplar."""
        return self.sequence.order or tuple(self.modalities)

    @property
    def leader(self) -> str:
        """Modality that draws the classes."""
        return self.sequence.leader or tuple(self.modalities)[-1]

    @property
    def host_name(self) -> str:
        """Modality whose space the labels live in."""
        return self.host or next(iter(self.modalities))

    @property
    def item_width(self) -> int:
        """Dimension of the host's items, and so of every token before positions are added."""
        return self.bridge_width(self.host_name)

    def bridge_width(self, name: str) -> int:
        """Dimension of the input of a modality's projector: its items, or its encoder's features."""
        modality = self.modalities[name]
        return modality.dimension if modality.encoder == "none" else modality.features

    def keeps_features(self, name: str) -> bool:
        """Whether the items of a modality are its encoder's features, computed once: real items whose encoder is not
        trained. The host's encoder is never trained, since labels and prototypes live in the space of its features."""
        modality = self.modalities[name]
        if not modality.source or modality.encoder == "none" or self.is_classification:
            return False
        return name == self.host_name or f"encoder.{name}" in self.frozen

    def encodes(self, name: str) -> bool:
        """Whether a modality's encoder is a part of the model."""
        return self.modalities[name].encoder != "none" and not self.keeps_features(name)

    def item_dimension(self, name: str) -> int:
        """Dimension of a modality's items in a batch."""
        return self.bridge_width(name) if self.keeps_features(name) else self.modalities[name].dimension

    @property
    def variety(self) -> str:
        """A short description within a stage: position code and attention, or the kind of encoder."""
        if self.is_classification:
            return next(iter(self.modalities.values())).encoder
        attention = self.decoder.attention.name
        code = self.decoder.position_name
        return code if attention == SOFTMAX else f"{code}-{attention}"

    @property
    def is_classification(self) -> bool:
        """Whether this run pretrains an encoder."""
        return self.sequence.task == "classification"

    @property
    def label_count(self) -> int:
        """Labels of the readout: the host's, or the product of the groups in the joint-label task."""
        if self.sequence.task == "joint_label":
            return math.prod(self.sequence.groups)
        return self.modalities[self.host_name].labels

    @property
    def active_labels(self) -> int:
        """Labels that this task's sequences can carry."""
        return self.label_count if self.sequence.task == "joint_label" else self.modalities[self.leader].labels

    @property
    def sequence_length(self) -> int:
        """Tokens of one sequence: M N items, N labels and M query items, after a first token if there is one."""
        modalities, context = len(self.modalities), self.sequence.context
        if self.is_classification:
            return 1
        return (modalities + 1) * context + modalities + (self.sequence.first_token != "none")

    @property
    def stage(self) -> str:
        """`encoder`, `unimodal`, `multimodal` (stages 2 and 3) or `early_fusion`."""
        if self.is_classification:
            return "encoder"
        if len(self.modalities) == 1:
            return "unimodal"
        return "multimodal" if self.parent.run else "early_fusion"

    # -- checks across parts ------------------------------------------------------------------------------------
    def _check_sources(self) -> None:
        sequence = self.sequence
        for name, modality in self.modalities.items():
            owner = f"modalities.{name}"
            if modality.encoder == "vit" and len(modality.shape) < 3 and (modality.shape or not modality.source):
                raise ConfigError(f"{owner}.encoder", "vit", f"'mlp', 'cnn' or 'transformer': {name} has no pictures")
            if modality.source and sequence.novel_fraction:
                allowed = f"0 with {owner}.source: real data has no fresh classes to draw"
                raise ConfigError("sequence.novel_fraction", sequence.novel_fraction, allowed)
            if modality.shift and self.keeps_features(name):
                raise ConfigError(f"{owner}.shift", modality.shift, "0 where the encoder is not trained here")
            is_host = name == self.host_name and not self.is_classification
            if is_host and modality.encoder != "none" and not modality.source:
                raise ConfigError(f"{owner}.encoder", modality.encoder, "'none' for a host without a source")
        if self.is_classification:
            modality = next(iter(self.modalities.values()))
            if len(self.modalities) > 1 or modality.encoder == "none" or self.parent.run or self.frozen:
                allowed = "'shared_label', or one modality with an encoder, no parent and nothing frozen"
                raise ConfigError("sequence.task", sequence.task, allowed)

    def _check_objective(self) -> None:
        for name, term in self.objective.items():
            if self.is_classification:
                raise ConfigError("objective", name, "empty where an encoder is pretrained")
            if not isinstance(term, LossOptions):
                raise ConfigError(f"objective.{name}", term, "an instance of the term's options")
            term.check(f"objective.{name}", self)
        lasting = [name for name, term in self.objective.items() if term.weight and not term.until]
        if "cross_entropy" in self.objective and not lasting:
            allowed = "terms of which at least one has a weight other than 0 and counts in all steps (until: 0)"
            raise ConfigError("objective", tuple(self.objective), allowed)

    def _check_labels(self) -> None:
        sequence = self.sequence
        if sequence.task == "joint_label":
            for name, groups in zip(self.order, sequence.groups, strict=True):
                classes = self.modalities[name].classes
                is_real = bool(self.modalities[name].source)
                if type(groups) is not int or not 1 <= groups <= classes or (classes % groups and not is_real):
                    raise ConfigError("sequence.groups", sequence.groups, f"divisors of modalities.{name}.classes")
                novel = self.modalities[name].novel_classes
                if novel % groups and not is_real:
                    allowed = f"0 or a multiple of the modality's groups, {groups}"
                    raise ConfigError(f"modalities.{name}.novel_classes", novel, allowed)
            if self.label_count < 2:
                raise ConfigError("sequence.groups", sequence.groups, "a product of at least 2")
        else:
            leading = self.modalities[self.leader].labels
            for name, modality in self.modalities.items():
                if modality.labels < leading:
                    raise ConfigError(
                        f"modalities.{self.leader}.labels",
                        leading,
                        f"at most modalities.{name}.labels = {modality.labels}: each label of the leader needs classes"
                        f" in every modality",
                    )
        if self.is_classification:
            return
        if sequence.swapped_shift >= self.active_labels:
            raise ConfigError("sequence.swapped_shift", sequence.swapped_shift, f"1 to {self.active_labels - 1}")
        bursts = sequence.context // sequence.burstiness
        if sequence.distinct_labels != "off" and bursts > self.active_labels:
            raise ConfigError(
                "sequence.distinct_labels",
                sequence.distinct_labels,
                f"'off', since {bursts} context classes cannot carry distinct labels among {self.active_labels}",
            )

    def _check_shapes(self) -> None:
        host = self.modalities[self.host_name]
        if self.is_classification or (host.source and not host.content):
            # There is no decoder, or an item's dimension is not known yet.
            return
        decoder, length = self.decoder, self.sequence_length
        width = decoder.residual_width(self.item_width)
        given = decoder.input_width(self.item_width)
        if width < given and decoder.input_map == "pad":
            raise ConfigError(
                "decoder.width",
                decoder.width,
                f"0, or at least the input's {given}, or decoder.input_map = 'linear'",
            )
        if width % decoder.heads:
            divisors = [h for h in range(1, min(width, 64) + 1) if width % h == 0]
            raise ConfigError("decoder.heads", decoder.heads, f"a divisor of the width {width}: {divisors}")
        if decoder.position_facts.even == "head" and (width // decoder.heads) % 2:
            raise ConfigError(
                "decoder.positions",
                decoder.positions,
                f"a head of even width, which {width} / {decoder.heads} is not: change decoder.width or .heads",
            )
        if decoder.position_facts.even == "width" and width % 2:
            raise ConfigError("decoder.positions", decoder.positions, f"an even width, which {width} is not")
        decoder.attention.check_shape("decoder.attention", self)
        position_options(decoder.positions).check_shape("decoder.positions", width // decoder.heads)
        if decoder.position_facts.slots and length > decoder.slots:
            raise ConfigError(
                "sequence.context",
                self.sequence.context,
                f"a sequence of at most decoder.position_slots = {decoder.slots} tokens; this one has {length}"
                f" (positions without slots: rope, alibi, none)",
            )

    def parts(self) -> tuple[str, ...]:
        """Names that `frozen` may hold (see `miclab.config.frozen`)."""
        return parts_of(self)


def with_context(config: RunConfig, context: int) -> RunConfig:
    """The same run with another number of context examples.

    Raises:
        ConfigError: the position code cannot place so long a sequence, or the burstiness does not divide it.
    """
    return replace(config, sequence=replace(config.sequence, context=context))
