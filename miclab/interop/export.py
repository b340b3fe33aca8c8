"""A checkpoint as a folder that others load: plain PyTorch, Hugging Face, TransformerLens, or ONNX.

config.json           sizes and options
model.safetensors     weights; for onnx they are in the graph
decoder.py            the network, a plain `torch.nn.Module` that needs no miclab
decoder.onnx          onnx: the network and its weights, instead of decoder.py
hooked.py             transformer-lens: the same with hook points
modeling_miclab.py    huggingface: the same as a `PreTrainedModel`, and configuration_miclab.py
example.safetensors   some sequences, and the logits and patterns that miclab gives on them
README.md             how it is loaded
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from miclab import __version__, storage
from miclab.config.request import SplitSizes
from miclab.errors import ConfigError, MiclabError, RunError, nearest
from miclab.interop import readme
from miclab.interop.exported import decoder as exported
from miclab.interop.graph import check_packages, graph_bytes
from miclab.interop.network import network_config, network_tensors
from miclab.model.decoder import Decoder
from miclab.runs.run import Run
from miclab.tables import Table, Tabled, table
from miclab.worlds.sequences import Batch
from miclab.worlds.splits import split_batches
from miclab.worlds.world import world_from_tensors

Target = Literal["torch", "huggingface", "transformer-lens", "onnx"]
SOURCES = Path(exported.__file__).parent
"""Folder of the Python files that are copied."""
FILES: dict[str, tuple[str, ...]] = {
    "torch": ("decoder.py",),
    "transformer-lens": ("decoder.py", "hooked.py"),
    "huggingface": ("decoder.py", "configuration_miclab.py", "modeling_miclab.py"),
    "onnx": (),
}
"""Python files of each target."""
EXAMPLES = 8
"""Sequences in the example."""
CLOSE = 1e-6
"""Allowed difference in float64 of a pattern, and of logits relative to the largest."""


@dataclass(frozen=True)
class Exported(Tabled):
    """What `export` wrote.

    Arguments:
        folder: where.
        target: for which tool.
        run: name of the run's directory.
        step: training step of the checkpoint.
        files: names of the files.
        logits: largest difference of logits between the exported module and the decoder, on the example, in float32.
        attention: likewise of patterns.
    """

    folder: Path
    target: str
    run: str
    step: int
    files: tuple[str, ...]
    logits: float
    attention: float

    def tables(self) -> tuple[Table, ...]:
        """A row for the folder."""
        columns = ["folder", "for", "run", "step", "logits differ by", "attention differs by"]
        differences = [f"{self.logits:.1e}", f"{self.attention:.1e}"]
        row = [str(self.folder), self.target, self.run, self.step, *differences]
        return (table("", columns, [row], [", ".join(self.files)]),)

    def as_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "folder": str(self.folder),
            "to": self.target,
            "run": self.run,
            "step": self.step,
            "files": list(self.files),
            "difference": {"logits": self.logits, "attention": self.attention},
        }


def export(run: Run, target: str, folder: Path | str, step: int | None = None) -> Exported:
    """Writes a checkpoint as a folder for another tool, after the exported module has given what the decoder gives.

    Arguments:
        target: `torch`, `huggingface`, `transformer-lens` or `onnx`.
        folder: a new or empty folder in an existing one.
        step: training step of the checkpoint; None: the last good one.

    Raises:
        ConfigError: there is no such target or checkpoint, or the decoder has a part that is not exported.
        RunError: the run has no decoder, or the folder cannot be written.
        MiclabError: the folder holds something, or a package is missing that writes ONNX.
    """
    # An absolute path has a name, which `.` has not.
    folder = Path(os.path.abspath(folder))
    check_target(target)
    check_free(folder)
    network = network_config(run.config)
    found, parameters = run.parameters(step)
    world = world_from_tensors(run.config, run.world_tensors())
    tensors = network_tensors(run.config, parameters, world.label_embeddings)
    sizes = SplitSizes(sequences=EXAMPLES, novel_sets=1)
    batch = next(iter(split_batches(run.config, world, "icl", sizes)))[1]
    # Judged in float64, where only a difference in what is computed is left.
    double = compare(run, network, parameters, tensors, batch, torch.float64)
    if max(double) > CLOSE:
        raise RunError(f"{run.path} is not exported: the module differs from the decoder by {max(double):.1e}.")
    example = example_tensors(run, parameters, batch)
    logits, attention = compare(run, network, parameters, tensors, batch, torch.float32)
    if target == "onnx":
        weights = {"decoder.onnx": graph_bytes(network, tensors, example)}
    else:
        weights = {"model.safetensors": storage.tensor_bytes(_named(target, tensors))}
    content = {
        **weights,
        "example.safetensors": storage.tensor_bytes(example),
        "config.json": _json(_config(target, network)),
        "README.md": readme.text(target, run, found, network).encode(),
        **{name: source(name, target).encode() for name in FILES[target]},
    }
    _write(folder, content)
    return Exported(folder, target, run.path.name, found, tuple(sorted(content)), logits, attention)


def check_target(target: str) -> None:
    """Raises ConfigError for an unknown target, MiclabError if a package is missing that it needs."""
    if target not in get_args(Target):
        raise ConfigError("to", target, nearest(target, tuple(FILES)))
    if target == "onnx":
        check_packages()


def check_free(folder: Path) -> None:
    """Raises MiclabError unless a folder is new or empty."""
    if folder.is_dir() and any(folder.iterdir()):
        raise MiclabError(f"--output {folder}: this folder is not empty. Name a new one, or delete it.")
    if folder.exists() and not folder.is_dir():
        raise MiclabError(f"--output {folder}: this is a file. Name a folder.")


# -- what is compared ---------------------------------------------------------------------------------------------
def _patterns(run: Run) -> list[str]:
    return [f"blocks.{layer}.attention.pattern" for layer in range(run.config.decoder.layers)]


def example_tensors(run: Run, parameters: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """The inputs of a batch, and what the decoder makes of them."""
    with torch.no_grad():
        trace = Decoder(run.config).trace(parameters, batch, capture=tuple(_patterns(run)))
    found = {f"items.{name}": value for name, value in batch.items.items()}
    found |= {"labels": batch.labels, "placement": batch.placement, "target": batch.target, "logits": trace.logits}
    return found | {f"pattern.{i}": trace.activations[name] for i, name in enumerate(_patterns(run))}


def compare(
    run: Run,
    network: Mapping[str, Any],
    parameters: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    batch: Batch,
    dtype: torch.dtype,
) -> tuple[float, float]:
    """Largest differences between the exported module and the decoder: of logits, relative to the largest if that is
    above 1, and of patterns."""
    module = exported.Decoder(dict(network)).to(dtype)
    module.load_state_dict({name: value.to(dtype) for name, value in tensors.items()})
    cast = {name: value.to(dtype) for name, value in parameters.items()}
    items = {name: value.to(dtype) for name, value in batch.items.items()}
    vectors, names = batch.label_vectors.to(dtype), [f"blocks.{i}.attn.hook_pattern" for i in range(network["layers"])]
    whole = Batch(
        items, vectors, batch.labels, batch.target, batch.classes, batch.placement, batch.roles, batch.token_noise
    )
    with torch.no_grad():
        trace = Decoder(run.config).trace(cast, whole, capture=tuple(_patterns(run)))
        logits, kept = module.activations(names, items, batch.labels, batch.placement)
    scale = max(1.0, float(trace.logits.abs().max()))
    pairs = zip(_patterns(run), names, strict=True)
    attention = max(float((trace.activations[one] - kept[other]).abs().max()) for one, other in pairs)
    found = float((logits - trace.logits).abs().max()) / scale, attention
    # NaN compares as no difference.
    return (math.inf, math.inf) if any(math.isnan(one) for one in found) else found


# -- what is written ----------------------------------------------------------------------------------------------
def source(name: str, target: str) -> str:
    """A Python file as it stands in a folder, where files import one another as the target needs it."""
    dot = "." if target == "huggingface" else ""
    return (SOURCES / name).read_text().replace("from miclab.interop.exported.", f"from {dot}")


def _named(target: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"decoder.{name}": value for name, value in tensors.items()} if target == "huggingface" else dict(tensors)


def _config(target: str, network: Mapping[str, Any]) -> dict[str, Any]:
    if target != "huggingface":
        return dict(network)
    return {
        "architectures": ["MiclabDecoder"],
        "auto_map": {
            "AutoConfig": "configuration_miclab.MiclabConfig",
            "AutoModel": "modeling_miclab.MiclabDecoder",
        },
        "model_type": "miclab",
        "miclab_version": __version__,
        "network": dict(network),
    }


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def _write(folder: Path, content: Mapping[str, bytes]) -> None:
    """All files or none."""
    temporary = storage.temporary_beside(folder)
    try:
        for name, value in content.items():
            storage.write_bytes(temporary / name, value)
        with storage.explained(folder):
            # An empty folder is replaced.
            temporary.replace(folder)
            storage.sync_directory(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
