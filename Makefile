# Two commands do everything on a fresh machine with Python 3.11 and make:
#   make run    builds the environment and runs the main job, ending with the receipt
#   make test   builds the environment and runs lint, types, import rules and tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKDIR ?= runs
SPEC ?= pipelines/examples/newsroom-ner.yaml

.PHONY: run test lint soak soak-storage soak-badinput soak-training soak-examples environment lock images clean

run: $(VENV)/.installed
	$(BIN)/suanli run $(SPEC) --workdir $(WORKDIR)

# A worker a core, each with whole test files; `pytest` alone runs them one after the other.
test: $(VENV)/.installed lint
	$(BIN)/pytest --numprocesses logical --maxprocesses 4 --dist loadfile

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# A thousand kill -9 over put, get, sweep and gc, two hundred with a store on a faulty network, every
# file and name of the bad-input collections through the whole ingest step, twenty kills of a training
# run at random moments, and every example in full; CI runs fifty and three of the kills in the tests.
soak: soak-storage soak-badinput soak-training soak-examples

soak-storage: $(VENV)/.installed
	$(BIN)/python -m tests.faults.storage_soak --kills 1000
	$(BIN)/python -m tests.faults.object_soak --kills 200

soak-badinput: $(VENV)/.installed
	SUANLI_FULL_BADINPUT=1 $(BIN)/pytest tests/faults/test_ingest_badinput.py

soak-training: $(VENV)/.installed
	SUANLI_SOAK=20 $(BIN)/pytest -m '' tests/faults/test_train_survival.py

soak-examples: $(VENV)/.installed
	SUANLI_FULL_GUIDES=1 $(BIN)/pytest tests/integration/test_guides.py

environment: $(VENV)/.installed

# One environment serves both commands; it is built again only when the pins change.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)) and "suanli needs Python 3.11 or 3.12: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[offline,dev]"
	touch $@

# Writes what pip resolved, so that everyone installs the same versions.
lock: $(VENV)/.installed
	$(BIN)/python -m pip freeze --exclude-editable --exclude suanli | sed 's/+cpu$$//' > constraints.txt

# Container images of the three families, with docker, buildah or podman (see images/README.md).
images:
	images/build

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
