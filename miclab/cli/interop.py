"""`miclab export` and `miclab import`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from miclab.cli.options import CheckpointOptions, Directory, File, LabelOptions, RunName, output_folder
from miclab.cli.progress import announce, forward
from miclab.cli.terminal import bar, parse, print_json, print_result, refuse_ignored
from miclab.cli.train import from_yaml
from miclab.config.request import Request, SplitSizes
from miclab.errors import visible
from miclab.runs.find import find, root_directory
from miclab.runs.run import Run


@dataclass(frozen=True, kw_only=True)
class ExportOptions(CheckpointOptions):
    """Write a checkpoint as a folder that other tools load. The folder has the network as readable Python, which needs
    no miclab, the weights as safetensors, and an example with what miclab gives on it. Before it is written, the
    exported module has given the same. For ONNX, it has one graph with the weights instead."""

    run: RunName
    """Path, name, or start of a name or hash."""
    to: Literal["torch", "huggingface", "transformer-lens", "onnx"] = "torch"
    """`torch`: a plain `torch.nn.Module`. `huggingface`: a model for `AutoModel.from_pretrained`. `transformer-lens`: a
    `HookedRootModule` of TransformerLens 4. `onnx`: a graph that also gives the patterns; it needs the extra
    `onnx`."""
    output: Annotated[str, tyro.conf.arg(metavar="FOLDER")]
    """Folder to write, new or empty, in an existing directory."""


def run_export(arguments: list[str]) -> int:
    """`miclab export RUN --to TARGET --output FOLDER`."""
    options = parse(ExportOptions, "export", arguments)
    from miclab.interop.export import check_target, export

    check_target(options.to)
    folder = output_folder(options.output)
    run = find(options.run, options.runs)
    with bar("export", 1) as on_progress:
        exported = export(run, options.to, folder, options.checkpoint)
        on_progress(1, "")
    return print_result(exported, [run], options.json)


@dataclass(frozen=True, kw_only=True)
class ImportOptions(LabelOptions):
    """Make a run of a checkpoint of the code that the paper's authors released (arXiv 2601.20796), which every analysis
    accepts. The checkpoint is its state dict as safetensors. A pickle is refused, with the line that converts it."""

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT.safetensors")]
    """The state dict."""
    config: File = ""
    """YAML file with fields of the configuration that it was trained with. The others are the paper's, with the rotary
    code of the released code."""
    step: int = 0
    """Training steps that it had."""
    world: File = ""
    """Safetensors file with the world: `label_embeddings`, and `prototypes.NAME` for each modality. Without it, the
    world is drawn as the released code does."""
    world_seed: int = 0
    """NumPy's seed of that draw. The released code has 0."""
    runs: Directory = "runs"
    """Directory of runs."""
    sequences: int = 1000
    """Sequences of each split in the metric row; of `icl`: for each set of novel classes."""
    novel_sets: int = 8
    """Independent sets of novel classes in the metric row."""
    json: bool = False
    """Print as JSON."""


def run_import(arguments: list[str]) -> int:
    """`miclab import CHECKPOINT --config FILE`."""
    options = parse(ImportOptions, "import", arguments)
    from miclab.interop.imported import imported, usual_config
    from miclab.interop.released import read_checkpoint

    if options.world:
        refuse_ignored(arguments, ("world_seed",), "the world is read from a file (--world)")
    file, sizes = Path(options.checkpoint), SplitSizes(sequences=options.sequences, novel_sets=options.novel_sets)
    label = options.label
    state = read_checkpoint(file)
    config = usual_config(state)
    if options.config:
        config, _ = from_yaml(options.config, config, Request())
    announce("import", sizes.sequences * (sizes.novel_sets + 3) * forward(config), str(root_directory(options.runs)))
    with bar("import", 1) as on_progress:
        run = imported(
            file, state, config, options.runs, step=options.step, world=Path(options.world) if options.world else None,
            world_seed=options.world_seed, sizes=sizes,
        )  # fmt: skip
        on_progress(1, "")
    if label is not None:
        run.label = label
    return _print_run(run, options.json)


def _print_run(run: Run, as_json: bool) -> int:
    rows = run.rows()
    if as_json:
        print_json(
            {"run": str(run.path), "status": run.status, "step": run.step, "reason": run.reason, "row": rows[-1]}
        )
        return 0
    print(visible(f"{run.reason}, step {run.step:,}"))
    print("  " + " ".join(f"{name} {value:.2f}" for name, value in rows[-1]["accuracy"].items()))
    print(visible(f"  {run.path}"))
    return 0
