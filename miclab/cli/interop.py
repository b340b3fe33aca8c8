"""`miclab export` and `miclab import`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from miclab.cli.options import CheckpointOptions, RunName, output_folder
from miclab.cli.terminal import parse, print_result
from miclab.runs.find import find


@dataclass(frozen=True, kw_only=True)
class ExportOptions(CheckpointOptions):
    """Write a checkpoint as a folder that other tools load. The folder has the network as readable Python, which needs
    no miclab, the weights as safetensors, and an example with what miclab gives on it. Before it is written, the
    exported module has given the same."""

    run: RunName
    """Path, name, or start of a name or hash."""
    to: Literal["torch", "huggingface", "transformer-lens", "onnx"] = "torch"
    """`torch`: a plain `torch.nn.Module`. `huggingface`: a model for `AutoModel.from_pretrained`. `transformer-lens`: a
    `HookedRootModule` of TransformerLens 4. `onnx` is refused, with what to do instead."""
    output: Annotated[str, tyro.conf.arg(metavar="FOLDER")]
    """Folder to write, new or empty, in an existing directory."""


def run_export(arguments: list[str]) -> int:
    """`miclab export RUN --to TARGET --output FOLDER`."""
    options = parse(ExportOptions, "export", arguments)
    from miclab.interop.export import check_target, export

    check_target(options.to)
    folder = output_folder(options.output)
    run = find(options.run, options.runs)
    return print_result(export(run, options.to, folder, options.checkpoint), [run], options.json)
