"""The audit of the supply finds what it is for."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

from scripts import audit

ROOT = Path(__file__).parents[1]
HASH = "a" * 64


def test_versions_and_hashes_of_the_lock_are_compared():
    """Fails if another version or an entry without a hash passes, or a marker for another machine counts."""
    end = f" \\\n    --hash=sha256:{HASH}\n"
    text = f"a==1{end}B_c==2\nd==3 ; sys_platform == 'nowhere'{end}e==4 ; python_version >= '3'{end}"
    entries = list(audit.locked([text]))
    assert [(name, version) for name, version, _ in entries] == [("a", "1"), ("b-c", "2"), ("e", "4")]
    found = list(audit.lock_faults(entries, {"a": "1", "b-c": "2", "e": "5", "d": "9"}))
    assert found == ["b-c==2 has no hash in the lock files", "e 5 is installed, and the lock files have 4"]


def test_imports_and_declarations_agree_both_ways(tmp_path):
    """Fails for our own package, or if an import that is not declared, or a package that is not used, passes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    modules, owners = audit.imported(ROOT / "miclab"), dict(metadata.packages_distributions())
    outside = audit.imported_outside(ROOT)
    assert list(audit.declared_faults(project, modules, owners)) == []
    assert list(audit.outside_faults(project, outside, owners)) == []
    extras = {name: [one for one in group if "packaging" not in one]
              for name, group in project["optional-dependencies"].items()}  # fmt: skip
    found = list(audit.outside_faults(project | {"optional-dependencies": extras}, outside, owners))
    assert [fault.partition(" ")[0] for fault in found] == ["packaging", "packaging"]
    wrong = project | {"dependencies": [*project["dependencies"][1:], "pyarrow>=1"]}
    found = "\n".join(audit.declared_faults(wrong, modules, owners))
    assert "torch is imported" in found
    assert "pyarrow is declared" in found


def test_builds_are_pinned_and_not_isolated():
    """Fails if the backend floats, or a line of the Makefile lets pip fetch what no lock names."""
    pyproject, makefile = tomllib.loads((ROOT / "pyproject.toml").read_text()), (ROOT / "Makefile").read_text()
    assert list(audit.build_faults(pyproject, makefile)) == []
    assert list(audit.build_faults({"build-system": {"requires": ["setuptools>=1"]}}, makefile))
    assert list(audit.build_faults(pyproject, makefile.replace("--no-build-isolation ", "")))


def test_a_changed_file_of_a_package_is_found(tmp_path):
    """Fails if a file that was changed, or is gone, passes."""
    info = tmp_path / "p-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: p\nVersion: 1\n")
    (tmp_path / "p.py").write_text("")
    digest = "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"
    (info / "RECORD").write_text(f"p.py,sha256={digest},0\ngone.py,sha256={digest},0\n")
    one = metadata.Distribution.at(info)
    assert [Path(fault.split()[0]).name for fault in audit.changed_files(one)] == ["gone.py"]
    (tmp_path / "p.py").write_text("x")
    assert len(list(audit.changed_files(one))) == 2
