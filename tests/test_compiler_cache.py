"""The folder of compiled steps: the user's own, found by a second process, and never one that others can change."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from miclab.training import compiler_cache


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The user's cache folder, and no folder named by the user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # What the function sets is taken back after the test.
    monkeypatch.setenv(compiler_cache.VARIABLE, "")
    monkeypatch.setattr(compiler_cache.sys, "platform", "linux")
    compiler_cache.use_own_folder.cache_clear()
    yield tmp_path / "miclab" / "compiled" / compiler_cache.machine_kind()
    compiler_cache.use_own_folder.cache_clear()


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX permissions")
def test_the_folder_is_the_users_and_nobody_elses(cache):
    assert compiler_cache.use_own_folder() == str(cache) == os.environ[compiler_cache.VARIABLE]
    assert stat.S_IMODE(cache.stat().st_mode) == stat.S_IMODE(cache.parent.stat().st_mode) == 0o700


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX permissions")
@pytest.mark.parametrize("open_to", ["group", "all", "parent", "link", "file"])
def test_what_others_can_change_is_never_loaded(cache, open_to, tmp_path):
    """Its content is machine code and pickles. A new folder stands in for it."""
    cache.parent.parent.mkdir(mode=0o700)
    cache.parent.mkdir(mode=0o700)
    if open_to == "link":
        (tmp_path / "elsewhere").mkdir()
        cache.symlink_to(tmp_path / "elsewhere")
    elif open_to == "file":
        cache.write_text("")
    else:
        cache.mkdir()
        (cache.parent if open_to == "parent" else cache).chmod(0o770 if open_to == "group" else 0o777)
    used = Path(compiler_cache.use_own_folder())
    assert used != cache
    assert compiler_cache.is_private(used)
    assert os.environ[compiler_cache.VARIABLE] == str(used)
    used.rmdir()


def test_machines_of_another_kind_have_a_folder_of_their_own(cache, monkeypatch):
    """Fails if code for one processor, or for one setting of PyTorch's instructions, is loaded on another: with code of
    AVX-512 a compiled step under AVX2 was seen to give losses of NaN."""
    kinds = {compiler_cache.machine_kind()}
    for name in ("DEFAULT", "AVX2", "AVX512", "NO AVX"):
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda name=name: name)
        kinds.add(compiler_cache.machine_kind())
    monkeypatch.setattr(compiler_cache, "processor_flags", lambda: "fpu vme")
    kinds.add(compiler_cache.machine_kind())
    assert len(kinds) == 5
    assert all(kind.replace("-", "").isalnum() for kind in kinds)
    assert Path(compiler_cache.use_own_folder()).name == compiler_cache.machine_kind()


def test_a_folder_that_the_user_names_is_used_by_kind_of_machine(cache, monkeypatch, tmp_path):
    """Fails if machines of two kinds share code there, or a process and those it starts use other folders."""
    used = []
    for capability in ("AVX2", "AVX512"):
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda name=capability: name)
        monkeypatch.setenv(compiler_cache.VARIABLE, str(tmp_path / "somewhere"))
        for _ in ("this process", "one that it starts"):
            compiler_cache.use_own_folder.cache_clear()
            used.append(compiler_cache.use_own_folder())
            assert used[-1] == os.environ[compiler_cache.VARIABLE]
    assert used[0] == used[1] != used[2] == used[3]
    assert {Path(folder).parent for folder in used} == {tmp_path / "somewhere"}
    assert not cache.exists()


def test_the_folder_that_pytorch_names_itself_is_not_the_users(cache, monkeypatch):
    """Fails if a process that has trained in eager mode keeps compiled steps where PyTorch does."""
    monkeypatch.setenv(compiler_cache.VARIABLE, os.path.abspath(default_cache_dir()))
    assert compiler_cache.use_own_folder() == str(cache) == os.environ[compiler_cache.VARIABLE]


COMPILE = """
import json, os
from miclab.training.numerics import why_not_compiled
assert why_not_compiled() == ""
from torch._dynamo.utils import counters
found = {name: sum(count for key, count in part.items() if key.endswith("cache_" + name))
         for name in ("hit", "miss") for part in [{**counters["inductor"], **counters["aot_autograd"]}]}
print(json.dumps([found["hit"], found["miss"]]))
"""


@pytest.mark.slow
def test_a_second_process_finds_what_the_first_compiled(cache, run_python):
    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        pytest.skip("no C++ compiler was found")
    # Nothing is compiled in this process: the first one would find it.
    first, second = run_python(COMPILE), run_python(COMPILE)
    assert first[0] == 0 < first[1]
    assert second[1] == 0 < second[0]
    assert any(cache.iterdir())
