# One command for each thing one does here; `make` alone lists them.
# Paths are relative, so the folder may have spaces in its name.

PY = .venv/bin/python
LOCK = .venv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes \
	--no-config --no-emit-index-url --annotation-style line --custom-compile-command "make lock" --quiet

# Worker processes of the test run: as many as there are cores, but no crowd on a large machine.
TEST_WORKERS ?= auto
TESTS ?=
PYTHON ?=
export PYTHON

.DEFAULT_GOAL := help
.SUFFIXES:
.PHONY: help setup demo test mutants lint format bench lock settings hooks clean up down logs health import-sample

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

# Looks at the locks, pyproject.toml and the place of the folder; does nothing when .venv was made for them.
setup: ## Make .venv from the hashed locks (the others do it first, when needed)
	@scripts/bootstrap

demo: setup ## Sample events → SQLite → daily active users, top events and retention
	@scripts/demo

test: setup ## Run all tests (TESTS="tests/unit -k retention" for some)
	$(PY) -m pytest -n $(TEST_WORKERS) --maxprocesses 8 $(TESTS)

mutants: setup ## Plant known bugs in a copy, one at a time, and see the tests fail (BUGS="fold 202" for some)
	$(PY) scripts/mutants.py $(BUGS)

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
	$(LOCK) $(if $(UPGRADE),--upgrade) pyproject.toml --all-extras --group dev --output-file requirements/dev.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) --group build --constraint requirements/dev.txt --output-file requirements/build.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) pyproject.toml --extra server --extra postgres --extra redis --extra nats --constraint requirements/dev.txt --output-file requirements/runtime.txt

settings: setup ## Write the table of settings in README.md after a change of the settings class
	$(PY) -m scripts.settings_table --write

hooks: setup ## Run the checks before each commit (pre-commit)
	.venv/bin/pre-commit install

up: .env ## Start the server stack of docker-compose.yml and wait until it is healthy
	docker compose up --build --detach --wait

down: ## Stop the server stack; its data stays
	docker compose down

logs: ## Follow the logs of the server stack
	docker compose logs --follow

health: ## Ask the API of the server stack how it is
	docker compose exec -T api python -c "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/health').read().decode())"

import-sample: ## Send a hundred thousand sample events through the server stack's store
	docker compose exec -T api sh -c 'eventcore sample --events 100000 | eventcore import -'

.env:
	@echo "make: secrets are missing: cp .env.example .env, and put some into it" >&2; exit 1

clean: ## Remove .venv, the demo's data and all caches
	rm -rf .venv .demo .bench build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
