# Set-up makes .venv from requirements.lock; every target works alone on a machine with python3 (>= 3.11), venv and make.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2

.PHONY: demo test lint docs bench resilience clean

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("miclab needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: .venv/installed
	$(BIN)/miclab demo

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

# The site, read from disk: build/site/index.html. Warnings are errors.
docs: .venv/installed
	$(BIN)/python -m sphinx -W --keep-going -q -b html -d build/doctrees docs build/site
	@echo "build/site/index.html"

bench: .venv/installed
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.measures
	$(BIN)/python -m benchmarks.start

resilience: .venv/installed
	$(BIN)/python -m benchmarks.resilience

clean:
	rm -rf .venv build *.egg-info docs/claims docs/reference/api docs/reference/cli.md docs/reference/config.md
