# llmgate: `make` says what there is.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
RUNS   := $(VENV)/.runs
READY  := $(VENV)/.ready
SEES   := $(VENV)/.sees
JOBS   ?= 2
PAGES  := README.md docs/cli.md docs/json.md docs/llmgate.1

.DEFAULT_GOAL := help
.PHONY: help demo test test-browser lint format cover bench chaos docs serve clean

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(RUNS) ## See the whole story in seconds: keys, credits, a chat, a stream, the books
	@$(BIN)/llmgate demo

test: $(READY) lint ## Check the code, then run every test
	@$(BIN)/pytest -n $(JOBS)

test-browser: $(SEES) ## See every page in Chromium; with LLMGATE_SCREENSHOTS=folder, keep the pictures
	@$(BIN)/pytest -n $(JOBS) tests/browser

lint: $(READY) ## Check style, types, the floors and the generated parts of the docs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/cog -P -I docs --check $(PAGES)

format: $(READY) ## Put the code into its form
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

cover: $(READY) ## Run every test and show what they don't reach
	@$(BIN)/pytest -n $(JOBS) --cov --cov-report=term-missing:skip-covered

bench: $(READY) ## Measure what a request costs beside a bare pass-through: some minutes
	@$(BIN)/python -m bench

chaos: $(READY) ## Break the world for some minutes: kills, locks, full disks; and see that the money holds
	@$(BIN)/python -m bench.chaos

docs: $(READY) ## Write anew what is made of the program: parts of the docs, the man page, the screens in tests
	@$(BIN)/cog -P -I docs -r $(PAGES)
	@$(BIN)/pytest -q --snapshot-update tests/cli/test_screens.py

serve: $(READY) ## Start the gateway with the config that is found here
	@$(BIN)/llmgate serve

clean: ## Remove what was made: the virtual environment, caches, build results
	rm -rf $(VENV) build dist *.egg-info htmlcov .coverage .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is made anew whenever the project's description changes: to run it, with what developers need, or with
# what drives a browser.
comma := ,
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "llmgate needs Python 3.11 or newer: make PYTHON=python3.11 …")'
	@$(PYTHON) -m venv $(VENV)
	@echo "installing llmgate into $(VENV), once: this takes a minute or so ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.$(1)'
	@touch $(RUNS) $@
endef

$(RUNS): pyproject.toml
	$(call install)

$(READY): pyproject.toml
	$(call install,[dev])

$(SEES): pyproject.toml
	$(call install,[dev$(comma)browser])
	@touch $(READY)
