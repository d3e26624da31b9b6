# Danzar: `make run` starts it, `make test` checks it. `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Given to danzar by `make run`, to pytest by `make test`: make run ARGS="doctor"
ARGS ?=
# A person at a terminal sees pip's progress; a log doesn't want it. (2: in $(...) 1 is a pipe.)
PIP_INSTALL = $(BIN)/python -m pip install $$([ -t 2 ] || echo --quiet)

.DEFAULT_GOAL := help
.PHONY: help run test audit lock docs bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-7s %s\n", $$1, $$2}' Makefile

# The interpreter's link: where Python itself was replaced the link dangles, and it is made anew.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo "Danzar needs Python 3.11, 3.12 or 3.13. Say which one: make run PYTHON=python3.12"; \
	  exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) can't make an environment. On Debian: apt-get install python3-venv"; exit 1; }

# Stamps: pip runs again only when pyproject.toml is newer than the last installation.
$(VENV)/.installed-demo: pyproject.toml | $(BIN)/python
	@echo "Installing Danzar into $(VENV). The first time this takes minutes and more than 6 GB: PyTorch."
	@$(PIP_INSTALL) --editable '.[demo]'
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	@echo "Installing Danzar and its tests' packages into $(VENV)."
	@$(PIP_INSTALL) --editable '.[test]'
	@touch $@ $(VENV)/.installed-demo

$(VENV)/.installed-bench: pyproject.toml | $(BIN)/python
	@echo "Installing Danzar and what it is measured against into $(VENV)."
	@$(PIP_INSTALL) --editable '.[bench]'
	@touch $@ $(VENV)/.installed-demo

run: $(VENV)/.installed-demo ## start the bot on Discord (DISCORD_TOKEN), else the local chat page
	@sh tools/system_packages.sh run
	@exec $(BIN)/danzar $(ARGS)

test: $(VENV)/.installed-test ## linter, formatter, type checker, every test
	@sh tools/system_packages.sh test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/python -m pytest -q --no-fold-skipped --durations=15 $(ARGS)

audit: $(VENV)/.installed-test ## look the locked packages up among the known vulnerabilities
	@$(BIN)/python tools/audit.py requirements/vision.txt

# For every Python and system that Danzar runs on; the image is installed from these files alone.
LOCK = $(BIN)/python -m uv pip compile --quiet --no-config --universal --fork-strategy fewest \
  --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url \
  --custom-compile-command "make lock"
lock: $(VENV)/.installed-test ## write requirements/ from pyproject.toml (LOCK_ARGS=--upgrade: newest)
	@$(PIP_INSTALL) uv
	@$(LOCK) $(LOCK_ARGS) pyproject.toml --output-file requirements/bot.txt
	@$(LOCK) $(LOCK_ARGS) pyproject.toml --extra vision --output-file requirements/vision.txt
	@$(BIN)/python -c 'import tomllib; \
	  print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
	  | $(LOCK) $(LOCK_ARGS) - --output-file requirements/build.txt

docs: $(VENV)/.installed-demo ## write docs/configuration.md from the models of bot/settings.py
	@$(BIN)/python -m bot.settings_docs > docs/configuration.md.new
	@mv docs/configuration.md.new docs/configuration.md

bench: $(VENV)/.installed-bench ## measure against plain ways, write docs/performance.md (10 minutes)
	@sh tools/system_packages.sh test
	@$(BIN)/python -m benchmarks $(ARGS)

clean: ## remove the environment and what tools leave behind; data/ and models/ stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis docs/*.new
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
