"""A study file, read strictly (docs/reference/study-file.md has the format)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from miclab.config import presets, schema
from miclab.config.parts import LONGEST_CONTEXT
from miclab.errors import ConfigError, ContentError, MiclabError, nearest
from miclab.studies.ladder import Ladder, read_ladder
from miclab.studies.parameters import Values, filled

Analysis = Literal["knockout", "mean_knockout", "uniform_knockout", "uniform_pattern", "ablation", "context", "oracles",
                   "entropy", "transplant", "drift", "circuit_overlap", "circuit", "cuts", "joining",
                   "running_mean"]  # fmt: skip
Fields = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of the grid: every combination of the axes of `product`, each with every place along `zip`.

    Arguments:
        product: values by axis (dotted field of the configuration); axes vary independently, the last one fastest.
        zip: values by axis; all of one length, they go together, and vary slower than those of `product`.
        config: fields for this block alone.
        stage: of its runs; None: that of the study.
    """

    product: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    zip: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    config: Fields = field(default_factory=dict)
    stage: presets.Stage | None = None

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes."""
        return (*self.zip, *self.product)

    @property
    def shape(self) -> tuple[int, ...]:
        """Length along `zip` (1 if there is none), then of each axis of `product`."""
        zipped = len(next(iter(self.zip.values()))) if self.zip else 1
        return (zipped, *(len(values) for values in self.product.values()))

    def __len__(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Parent:
    """The stage-1 runs of a multimodal study.

    Arguments:
        config: fields that differ from those of the multimodal configuration.
        request: fields of the request; `steps` is the length of stage 1 and the checkpoint that children start from.
    """

    config: Fields = field(default_factory=dict)
    request: Fields = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study with one of its presets.

    Arguments:
        name: the file's name without its ending.
        file: where it was read from.
        profile: `quick` or `paper`.
        title: a line.
        answers: claims that it answers.
        stage: whose preset `config` changes.
        config: fields that all points share.
        request: fields of the request that all points share.
        grid: blocks; the study is their union.
        seeds: every point is trained with each.
        parent: stage 1 of a multimodal study; of 0 steps: from scratch.
        encoder: how encoders are pretrained, of modalities whose `encoder_step` says for how many steps; `modality` in
            its `config` holds fields of the modality.
        ladder: of a study of kind `threshold`: the axis on which thresholds are sought; its grid has every rung.
        probes: analyses after training.
        probe_contexts: context lengths for the analysis `context`.
        parameters: the given values of its parameters, by name.
    """

    name: str
    file: Path
    profile: presets.Profile
    title: str = ""
    answers: tuple[str, ...] = ()
    stage: presets.Stage = "unimodal"
    config: Fields = field(default_factory=dict)
    request: Fields = field(default_factory=dict)
    grid: tuple[Block, ...] = (Block(),)
    seeds: tuple[int, ...] = (0,)
    ladder: Ladder | None = None
    parent: Parent = field(default_factory=Parent)
    encoder: Parent = field(default_factory=Parent)
    probes: tuple[Analysis, ...] = ()
    probe_contexts: tuple[int, ...] = ()
    parameters: Values = field(default_factory=dict)

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes of all blocks, in their order."""
        return tuple(dict.fromkeys(axis for block in self.grid for axis in block.axes))

    @property
    def stages(self) -> tuple[presets.Stage, ...]:
        """The stages of its blocks, in their order."""
        return tuple(dict.fromkeys(block.stage or self.stage for block in self.grid))

    @property
    def analysis_names(self) -> tuple[str, ...]:
        """Names of the analyses, `context` with each of its lengths."""
        lengths = tuple(f"context.{n}" for n in self.probe_contexts)
        return tuple(name for analysis in self.probes for name in (lengths if analysis == "context" else (analysis,)))


def _mapping(value: Any, where: str, known: tuple[str, ...] | None = None) -> Fields:
    if value is None:
        value = {}
    if not isinstance(value, Mapping):
        raise ConfigError(where, value, "a mapping of names to values")
    for name in value:
        if known is not None and name not in known:
            raise ConfigError(f"{where}.{name}", value[name], f"a known key: {nearest(str(name), known)}")
    return {str(name): part for name, part in value.items()}


def _items(value: Any, where: str, kind: type | None = None) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ConfigError(where, value, "a list")
    for entry in value:
        if kind is not None and type(entry) is not kind:
            raise ConfigError(where, entry, f"values of type {kind.__name__}")
    return tuple(value)


def _block(value: Any, where: str) -> Block:
    data = _mapping(value, where, ("product", "zip", "config", "stage"))
    axes: dict[str, dict[str, tuple[Any, ...]]] = {}
    for way in ("product", "zip"):
        place = f"{where}.{way}"
        axes[way] = {axis: _items(v, f"{place}.{axis}") for axis, v in _mapping(data.get(way), place).items()}
        for axis, values in axes[way].items():
            if not values:
                raise ConfigError(f"{place}.{axis}", [], "at least one value")
    lengths = {axis: len(values) for axis, values in axes["zip"].items()}
    if len(set(lengths.values())) > 1:
        raise ConfigError(f"{where}.zip", lengths, "axes of one length, since they go together")
    both = set(axes["product"]) & set(axes["zip"])
    if both:
        raise ConfigError(f"{where}.zip", sorted(both), "axes that are not in the product too")
    if "stage" in data:
        _check_stage(data["stage"], f"{where}.stage")
    config = _mapping(data.get("config"), f"{where}.config")
    return Block(product=axes["product"], zip=axes["zip"], config=config, stage=data.get("stage"))


def _check_stage(stage: Any, where: str) -> None:
    if stage not in get_args(presets.Stage):
        raise ConfigError(where, stage, nearest(str(stage), get_args(presets.Stage)))


def _grid(value: Any, where: str) -> tuple[Block, ...]:
    if isinstance(value, Mapping):
        value = [value]
    return tuple(_block(block, f"{where}[{i}]") for i, block in enumerate(_items(value, where))) or (Block(),)


def _parent(value: Any, where: str) -> Parent:
    data = _mapping(value, where, ("config", "steps", "request"))
    request = _mapping(data.get("request"), f"{where}.request")
    if "steps" in data:
        request["steps"] = data["steps"]
    return Parent(config=_mapping(data.get("config"), f"{where}.config"), request=request)


def laid_over(base: Fields, change: Fields) -> Fields:
    """Nested fields with others laid over them."""
    merged = dict(base)
    for name, value in change.items():
        old = merged.get(name)
        merged[name] = laid_over(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


KINDS = ("grid", "threshold")
KEYS = (
    "title",
    "answers",
    "parameters",
    "kind",
    "ladder",
    "stage",
    "config",
    "grid",
    "parent",
    "encoder",
    "probes",
    "probe_contexts",
    "profiles",
)


def load_study(file: Path | str, profile: str, parameters: Values | None = None) -> Study:
    """A study file with one of its presets.

    Arguments:
        parameters: values of its parameters, by name.

    Raises:
        ContentError: the file cannot be read, or something in it is unknown or of the wrong kind, or a parameter is
            unknown. Fields of the configuration are checked when the study is planned.
        MiclabError: a parameter is missing.
    """
    data, file = read_study_file(Path(file)), Path(file)
    try:
        data = filled(_mapping(data, "study", KEYS), parameters or {})
        return replace(_study(data, file, profile), parameters=dict(parameters or {}))
    except ConfigError as error:
        raise ContentError.of_field(file, error) from error
    except MiclabError as error:
        raise MiclabError(f"{file}: {error}") from error


def presets_of(file: Path | str) -> tuple[str, ...]:
    """The presets that a study file has, of which it is read with one.

    Raises:
        ContentError: the file cannot be read.
    """
    data = read_study_file(Path(file))
    found = data.get("profiles") if isinstance(data, Mapping) else None
    return tuple(str(name) for name in found) if isinstance(found, Mapping) else ()


def read_study_file(file: Path) -> Any:
    """The content of a study file, not checked yet.

    Raises:
        ContentError: it cannot be read, or it is empty.
    """
    from miclab.config.strict_yaml import read_yaml

    data = read_yaml(file)
    if not data:
        raise ContentError(file, "expected a study; it is empty (docs/reference/study-file.md)")
    return data


def _study(data: Fields, file: Path, profile: str) -> Study:
    stage = data.get("stage", "unimodal")
    _check_stage(stage, "stage")
    if profile not in get_args(presets.Profile):
        raise ConfigError("preset", profile, nearest(profile, get_args(presets.Profile)))
    known = _mapping(data.get("profiles"), "profiles", get_args(presets.Profile))
    if profile not in known:
        raise ConfigError("preset", profile, f"one that the study has: {', '.join(known) or 'it has none'}")
    where = f"profiles.{profile}"
    chosen = _mapping(known[profile], where, ("seeds", "request", "config", "grid", "parent", "encoder"))
    seeds = _items(chosen.get("seeds", [0]), f"{where}.seeds", int)
    if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**63 for seed in seeds):
        raise ConfigError(f"{where}.seeds", list(seeds), "at least one seed from 0 to 2^63 - 1, none twice")
    place = f"{where}.grid" if "grid" in chosen else "grid"
    grid = _grid(chosen.get("grid", data.get("grid", [])), place)
    ladder = _ladder(data)
    if ladder is not None:
        grid = tuple(_with_rungs(block, ladder, f"{place}[{i}]") for i, block in enumerate(grid))
    stages = {block.stage or stage for block in grid}
    if not stages.intersection(presets.GROWN) and ("parent" in data or "parent" in chosen):
        raise ConfigError("parent", data.get("parent"), "only in a study whose stage is multimodal or continued")
    first, second = _parent(data.get("parent"), "parent"), _parent(chosen.get("parent"), f"{where}.parent")
    encoder = _parent(data.get("encoder"), "encoder")
    trained = _parent(chosen.get("encoder"), f"{where}.encoder")
    probes = _items(data.get("probes", []), "probes")
    for analysis in probes:
        if analysis not in get_args(Analysis):
            raise ConfigError("probes", analysis, nearest(str(analysis), get_args(Analysis)))
    contexts = _items(data.get("probe_contexts", []), "probe_contexts", int)
    if ("context" in probes) != bool(contexts):
        raise ConfigError("probe_contexts", list(contexts), "a list with the analysis `context`, and only with it")
    for context in contexts:
        if not 2 <= context <= LONGEST_CONTEXT:
            raise ConfigError("probe_contexts", context, f"numbers of examples from 2 to {LONGEST_CONTEXT:,}")
    if not isinstance(data.get("title", ""), str):
        raise ConfigError("title", data["title"], "a line of text")
    return Study(
        name=file.stem,
        file=file,
        profile=profile,  # type: ignore[arg-type]
        title=data.get("title", ""),
        answers=_items(data.get("answers", []), "answers", str),
        stage=stage,
        config=laid_over(_mapping(data.get("config"), "config"), _mapping(chosen.get("config"), f"{where}.config")),
        request=_mapping(chosen.get("request"), f"{where}.request"),
        grid=grid,
        ladder=ladder,
        seeds=seeds,
        parent=Parent(config=laid_over(first.config, second.config), request=laid_over(first.request, second.request)),
        encoder=Parent(
            config=laid_over(encoder.config, trained.config), request=laid_over(encoder.request, trained.request)
        ),
        probes=tuple(dict.fromkeys(probes)),
        probe_contexts=tuple(dict.fromkeys(contexts)),
    )


def _ladder(data: Fields) -> Ladder | None:
    kind = data.get("kind", "grid")
    if kind not in KINDS:
        raise ConfigError("kind", kind, nearest(str(kind), KINDS))
    if kind == "grid":
        if "ladder" in data:
            raise ConfigError("ladder", data["ladder"], "only in a study of kind: threshold")
        return None
    if "ladder" not in data:
        raise ConfigError("ladder", None, "axis and values of the ladder, in a study of kind: threshold")
    return read_ladder(data["ladder"], "ladder")


def _with_rungs(block: Block, ladder: Ladder, where: str) -> Block:
    """A block with every rung of the ladder."""
    if ladder.axis in block.axes:
        raise ConfigError(where, ladder.axis, "axes other than the ladder's, which is the axis of all blocks")
    return replace(block, product={**block.product, ladder.axis: ladder.values})


def nested(axes: Mapping[str, Any]) -> Fields:
    """Dotted names, none of them part of another one, as nested fields."""
    found: Fields = {}
    for axis, value in axes.items():
        place, names = found, axis.split(".")
        for name in names[:-1]:
            place = place.setdefault(name, {})
        place[names[-1]] = value
    return found


def value_at(config: Any, axis: str) -> Any:
    """The value of a dotted field of a configuration; None where it has no such field."""
    for part in axis.split("."):
        config = config.get(part) if isinstance(config, Mapping) else getattr(config, part, None)
    return schema.to_mapping(config) if config is not None else None
