"""The numeric mode of a training process: threads, device, compiled or eager, and the mode in effect."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import shutil
import warnings
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from miclab.config.run import RunConfig
from miclab.errors import ConfigError
from miclab.training import compiler_cache

PAYS_FROM = 2500
"""Steps from which compiling pays where nothing was compiled before. It takes about a minute of one core, and an eager
step takes two to three times as long as a compiled one (`python -m benchmarks.step`)."""
COMPILER_OPTIONS: dict[str, Any] = {"cpp_wrapper": True}
"""Matrix products are called from C++: from Python, some dozen calls would cost some percent of a step."""


GRAPH_OPTIONS: dict[str, Any] = {"triton.cudagraphs": True}
"""A group's step on an NVIDIA GPU is one CUDA graph: its hundreds of short kernels start at once."""


def group_options(device: str) -> dict[str, Any]:
    """Options with which the step of a group is compiled for a device."""
    return GRAPH_OPTIONS if device.startswith("cuda") else COMPILER_OPTIONS if device == "cpu" else {}


@lru_cache(maxsize=8)
def why_not_compiled(device: str = "cpu") -> str:
    """Empty where `torch.compile` works on a device of this machine; otherwise the reason, in a line."""
    names = [os.environ.get("CXX", ""), "g++", "clang++", "c++"]
    if device == "cpu" and not any(shutil.which(name) for name in names if name):
        return "no C++ compiler was found"
    compiler_cache.use_own_folder()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = torch.compile(lambda x: x.sin() + 1, dynamic=False, options=group_options(device))
            trial(torch.zeros(8, device=device))
    except Exception as error:  # The compiler's failures have no common type.
        return f"torch.compile failed ({str(error).strip().splitlines()[0][:100]})"
    finally:
        torch._dynamo.reset()
    return ""


def devices() -> tuple[str, ...]:
    """The devices of this machine, as `numerics.device` names them."""
    found = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return (*found, *(("mps",) if torch.backends.mps.is_available() else ()), "cpu")


def is_here(device: str) -> bool:
    """Whether this machine has a device that a run's hash names."""
    return (f"{device}:0" if device == "cuda" else device) in devices()


def device_here(wanted: str) -> str:
    """A device as it is named in a run's hash: `auto` is the best of this machine.

    Raises:
        ConfigError: it is not here.
    """
    here = devices()
    if wanted == "auto":
        return here[0].removesuffix(":0")
    if not is_here(wanted):
        why = "" if torch.backends.cuda.is_built() else "; this build of PyTorch is for CPUs alone"
        raise ConfigError("numerics.device", wanted, f"a device of this machine, which are {', '.join(here)}{why}")
    return wanted


def memory_of(device: str) -> int:
    """Bytes of a GPU's own memory; 0 where the device uses the machine's, or is not here."""
    if not device.startswith("cuda") or not is_here(device):
        return 0
    return torch.cuda.get_device_properties(device).total_memory


def check_lane_step(device: str) -> None:
    """Raises ConfigError if the step of a group cannot be compiled for a device of this machine."""
    # One call for a CPU, whoever needs it: a second trial would drop the steps that are compiled already.
    if reason := why_not_compiled() if device == "cpu" else why_not_compiled(device):
        raise ConfigError("numerics.lane_step", "compiled", f"'eager' here: {reason}")


def resolved(config: RunConfig, steps: int = PAYS_FROM) -> tuple[RunConfig, str]:
    """The configuration with the device and the mode in effect for this many steps, and a warning if no compiler was
    found.

    Raises:
        ConfigError: the device is not here, or a compiled step is requested and no compiler works.
    """
    numerics = replace(config.numerics, device=device_here(config.numerics.device))
    line = ""
    if numerics.mode == "auto" and steps < PAYS_FROM:
        numerics = replace(numerics, mode="eager")
    elif numerics.mode in ("auto", "compiled"):
        reason = why_not_compiled()
        if reason and numerics.mode == "compiled":
            raise ConfigError("numerics.mode", "compiled", f"'eager' or 'auto' here: {reason}")
        line = f"Training in eager mode, two to three times as slow: {reason}." if reason else ""
        numerics = replace(numerics, mode="eager" if reason else "compiled")
    if numerics.lane_step == "compiled":
        if numerics.mode != "lanes":
            # `auto` became the mode of a single run, in which it is no part.
            numerics = replace(numerics, lane_step="eager")
        else:
            check_lane_step(numerics.device)
    return config if numerics == config.numerics else replace(config, numerics=numerics), line


def environment(config: RunConfig) -> dict[str, Any]:
    """Versions and mode, for the record; a run is resumed only where `mode`, `threads` and `device` are the same."""
    device = config.numerics.device
    is_gpu = device.startswith("cuda") and torch.cuda.is_available()
    return {
        "mode": config.numerics.mode,
        "threads": config.numerics.threads,
        "device": device,
        "dtype": "float32",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": torch.cuda.get_device_name(device) if is_gpu else torch.backends.cpu.get_cpu_capability(),
    }


def prepare(config: RunConfig) -> None:
    """Sets what holds for the whole process: threads, and on a GPU deterministic algorithms and the precision of
    products."""
    torch.set_num_threads(config.numerics.threads)
    keep_freed_memory()
    if config.numerics.device != "cpu":
        # cuBLAS reads it when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.set_float32_matmul_precision("high" if config.numerics.tf32 == "on" else "highest")


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory instead of giving it back at every step. The page faults of fresh buffers cost a
    fifth of a training step. Does nothing elsewhere."""
    trim_threshold, mmap_threshold = -1, -3
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(trim_threshold, 1 << 30)
        library.mallopt(mmap_threshold, 1 << 30)
