"""The command `miclab`: parse, call, print. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

import importlib
import sys

from miclab.cli.streams import lasting_standard_error
from miclab.errors import GONE, MiclabError, is_out_of_memory, is_working_directory_gone, visible
from miclab.runs import interrupts

COMMANDS = {
    "demo": (
        "miclab.cli.demo",
        "train, join a second modality, find and cut the circuit, compare with the paper",
    ),
    "train": (
        "miclab.cli.train",
        "train a decoder or an encoder: `train unimodal`, `multimodal`, `encoder`",
    ),
    "resume": ("miclab.cli.train", "go on with a run, or extend a finished one"),
    "runs": ("miclab.cli.runs", "list the runs"),
    "show": ("miclab.cli.runs", "one run: configuration, state, metric rows, integrity of its files"),
    "study": ("miclab.cli.study", "a grid of runs from a file: `study run`, `status`, `plan`, `rows`"),
    "claims": ("miclab.cli.claims", "the ledger: verdict on every claim from the committed rows, beside the paper"),
    "reproduce": ("miclab.cli.claims", "train what claims still need, then print the ledger"),
    "figure": ("miclab.cli.claims", "the paper's figure of a claim from our rows, as PDF and SVG"),
    "data": ("miclab.cli.data", "real data and embeddings of your own: `data list`, `show`, `check`, `embed`"),
    "evaluate": (
        "miclab.cli.analyses",
        "accuracy on every split with intervals and oracles; other context lengths",
    ),
    "circuits": ("miclab.cli.analyses", "strength of every head, with intervals"),
    "knockout": ("miclab.cli.analyses", "knock out heads, with random heads as control"),
    "ablate": ("miclab.cli.analyses", "zero the items of a modality, the labels, or both"),
    "patch": ("miclab.cli.patch", "causal tracing: put activations of clean sequences into corrupted ones"),
    "paths": ("miclab.cli.paths", "path patching: which edges and paths between heads and MLPs carry the answer"),
    "attribute": ("miclab.cli.attribute", "effects of edges by gradients (EAP, EAP-IG), beside exact ones"),
    "circuit": ("miclab.cli.circuit", "a small set of edges that keeps in-context learning, with controls"),
    "weights": ("miclab.cli.weights", "what the weights of heads say: copying, matching, composition, ranks"),
    "transplant": ("miclab.cli.refined", "put weights of stage 1 back into stage 2, and the other way round"),
    "drift": ("miclab.cli.refined", "how far stage 2 moved each part's weights, beside a sibling"),
    "circuit-overlap": ("miclab.cli.refined", "edges that the circuits of stage 1 and stage 2 share, beyond chance"),
    "running-mean": ("miclab.cli.running_mean", "replace a layer's attention by a running mean: what is still read"),
    "align": ("miclab.cli.analyses", "alignment of a secondary modality with the host (CKA, with its null)"),
    "diagnose": ("miclab.cli.analyses", "which signs of failure a run shows, and what to change"),
    "export": ("miclab.cli.interop", "a checkpoint for PyTorch, Hugging Face, TransformerLens or ONNX"),
    "import": ("miclab.cli.interop", "a run from a checkpoint of the code that the paper's authors released"),
    "mllm": ("miclab.cli.mllm", "the protocol on production models of Hugging Face (extra `mllm`)"),
    "report": ("miclab.cli.report", "one HTML file on runs or on a study, readable without a network"),
}
OLDER_NAMES = {"--profile": "--preset"}
"""Options that are still accepted under an older name."""


def usage() -> str:
    """The text of `miclab --help`."""
    lines = [
        "usage: miclab COMMAND [options]",
        "",
        "A laboratory for multimodal in-context learning.",
        "",
        "commands:",
    ]
    lines += [f"  {name:<15} {summary}" for name, (_, summary) in COMMANDS.items()]
    lines += [
        "",
        "`miclab COMMAND --help` shows the options of a command with their defaults.",
        "--plugin FILE.py, with any command: loads a file of yours that adds attention, position codes, loss terms,",
        "measures, sources, claims or corruptions; it may be repeated.",
        "A RUN is a path, a name, or the start of a name or hash; a name is a directory's under --runs, or --name's.",
        "exit status: 0 done; 1 a run diverged, failed or was stopped, or a check found damage; 2 the command could",
        "not be carried out.",
    ]
    return "\n".join(lines)


def with_plugins(arguments: list[str]) -> list[str]:
    """The arguments without `--plugin FILE.py`, which every command takes. These files and installed extensions are
    loaded, since other arguments may use their names.

    Raises:
        MiclabError: an extension cannot be loaded.
    """
    from miclab.config.extensions import load_installed, load_plugin

    load_installed()
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option != "--plugin":
            rest.append(word)
            continue
        value = value if equals else next(words, "")
        if not value:
            raise MiclabError("--plugin needs the path of a Python file, for example --plugin my_attention.py.")
        load_plugin(value)
    return rest


def with_new_names(arguments: list[str]) -> list[str]:
    """The arguments with present names of renamed options."""

    def renamed(word: str) -> str:
        option, equals, value = word.partition("=")
        return f"{OLDER_NAMES.get(option, option)}{equals}{value}"

    return [renamed(word) for word in arguments]


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    with lasting_standard_error():
        try:
            with interrupts.noted():
                status = _run(list(sys.argv[1:] if arguments is None else arguments))
                interrupts.heed()
                return status
        except KeyboardInterrupt:
            print("miclab: interrupted", file=sys.stderr)
            return 1


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    try:
        arguments = with_new_names(with_plugins(arguments))
    except MiclabError as error:
        print(f"miclab: {error}", file=sys.stderr)
        return 2
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    if name in ("-V", "--version"):
        from miclab import __version__

        print(f"miclab {__version__}")
        return 0
    try:
        if name not in COMMANDS:
            from miclab.errors import nearest

            raise MiclabError(f"{name!r} is no command: {nearest(name, COMMANDS)}")
        if is_working_directory_gone():
            # Libraries of the processor's maker end the process when they are loaded there.
            raise MiclabError(GONE)
        module = importlib.import_module(COMMANDS[name][0])
        interrupts.heed()
        return int(getattr(module, f"run_{name.replace('-', '_')}")(rest) or 0)
    except MiclabError as error:
        print(f"miclab: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        why = str(error).partition("\n")[0] or "no more can be had"
        advice = "Use less at once: a shorter context, fewer sequences or rows, or a smaller batch"
        print(f"miclab: there is too little memory ({visible(why)}). {advice}.", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of the output has closed it, as `miclab runs | head` does.
        sys.stderr.close()
        return 0
    except OSError as error:
        # An unexplained error of the system: it refuses a file, or the working directory is gone.
        place = f"{visible(error.filename)}: " if error.filename else ""
        print(f"miclab: {place}{visible(error.strerror or error)}. {_advice()}", file=sys.stderr)
        return 2


def _advice() -> str:
    """What to do after the system refused a file."""
    if is_working_directory_gone():
        return GONE
    return "Free some space, change the permissions, or choose another place with --runs or --output."
