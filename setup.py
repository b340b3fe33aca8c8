"""The packages of the wheel; all else stands in pyproject.toml."""

from setuptools import find_packages, setup

# The studies and their rows lie beside the package in a clone, and inside it in a wheel.
setup(
    packages=[*find_packages(include=["miclab*"]), "miclab.study_files"], package_dir={"miclab.study_files": "studies"}
)
