# Every target works alone on a machine with python3 (>= 3.11), venv and make. Set-up makes .venv: torch first, by its
# version (a build for CPUs and one for CUDA have different hashes), then all else from the lock files, by hash.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2
TORCH := 2.13.0
UV := 0.13.9
# As in pyproject.toml: the package is built with it, and not in isolation.
BACKEND := setuptools==84.2.1
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
FAST := $(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --no-deps

# The installer leaves modules uncompiled. Where this is set, every process would compile all that it imports, again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint docs dist lock bench gpu resilience archive audit clean

# What miclab itself needs.
.venv/core: requirements.lock pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit("miclab needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch==$(TORCH) uv==$(UV) $(BACKEND)
	$(FAST) -r requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

# Tests, documentation and the extras beside it.
.venv/installed: .venv/core requirements-development.lock
	$(FAST) -r requirements-development.lock
	@touch $@

demo: .venv/core
	$(BIN)/miclab demo

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/python -m scripts.words

# The site, read from disk: build/site/index.html. Warnings are errors.
docs: .venv/installed
	$(BIN)/python -m sphinx -W --keep-going -q -b html -d build/doctrees docs build/site
	@echo "build/site/index.html"

dist: .venv/installed
	rm -rf build/lib build/bdist* dist
	$(BIN)/python -m build --no-isolation --outdir dist .

lock: .venv/core
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m scripts.lock

bench: .venv/installed
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.lanes --device cpu --lanes 1 8 --seconds 2 --rows 8 --output build/lanes-cpu.json
	$(BIN)/python -m benchmarks.measures
	$(BIN)/python -m benchmarks.start
	$(BIN)/python -m benchmarks.end_to_end

# Lanes on the best device here for four minutes, then the paper's studies on a GPU. It uses the Python that holds torch,
# installs nothing, and ends after nine minutes. A second call goes on from build/lanes.json and build/gpu-runs.
gpu:
	start=$$(date +%s) && $(PYTHON) -m benchmarks.lanes --limit 240 --rows 8 && left=$$((540 - $$(date +%s) + start)) && \
	if [ $$left -gt 0 ]; then $(PYTHON) -m benchmarks.gpu_paper --limit $$left; fi

resilience: .venv/installed
	$(BIN)/python -m benchmarks.resilience

# All committed rows in one file for download: build/miclab-rows.zip.
archive: .venv/core
	$(BIN)/python -m scripts.archive_rows

# Supply, checked without a network; the bill of materials goes to build/materials.json.
audit: .venv/installed
	$(BIN)/python -m scripts.audit

clean:
	rm -rf .venv build dist *.egg-info docs/claims docs/reference/api docs/reference/cli.md docs/reference/config.md
