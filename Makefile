# One command for each thing one does here; `make` alone lists them.
# Paths are relative, so the folder may have spaces in its name.

PY = .venv/bin/python
LOCK = .venv/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-config --no-emit-index-url --annotation-style line --custom-compile-command "make lock" --quiet

# Worker processes of the test run: as many as there are cores, but no crowd on a large machine.
TEST_WORKERS ?= auto
TESTS ?=
PYTHON ?=
export PYTHON

.DEFAULT_GOAL := help
.SUFFIXES:
.PHONY: help setup demo test lint format bench lock hooks clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

# Looks at the locks, pyproject.toml and the place of the folder; does nothing when .venv was made for them.
setup: ## Make .venv from the hashed locks (the others do it first, when needed)
	@scripts/bootstrap

demo: setup ## Sample events → SQLite → daily active users, top events and retention
	@scripts/demo

test: setup ## Run all tests (TESTS="tests/unit -k retention" for some)
	$(PY) -m pytest -n $(TEST_WORKERS) --maxprocesses 8 $(TESTS)

lint: setup ## Check format, style, types, layers and locks
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	.venv/bin/lint-imports --no-logo
	$(PY) -m pip check --disable-pip-version-check

format: setup ## Format the code and mend what can be mended
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

bench: setup ## Measure the embedded service and the import, and verify what was stored (EVENTS=100000)
	.venv/bin/eventcore bench import --events $(or $(EVENTS),100000)
	.venv/bin/eventcore bench embedded --events $(or $(EVENTS),100000)

lock: setup ## Write the hashed locks after a change of pyproject.toml (UPGRADE=1 takes newer versions)
	$(LOCK) $(if $(UPGRADE),--upgrade) --all-extras --group dev --output-file requirements/dev.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) --extra server --extra postgres --extra redis --extra nats --constraint requirements/dev.txt --output-file requirements/runtime.txt

hooks: setup ## Run the checks before each commit (pre-commit)
	.venv/bin/pre-commit install

clean: ## Remove .venv, the demo's data and all caches
	rm -rf .venv .demo .bench build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
