"""The packages of the wheel; all else stands in pyproject.toml."""

from setuptools import find_packages, setup

# The studies and their rows lie beside the package in a clone, and inside it in a wheel.
STUDIES = {"miclab.study_files": "studies"}
setup(packages=[*find_packages(include=["miclab*"]), *STUDIES], package_dir=STUDIES)
