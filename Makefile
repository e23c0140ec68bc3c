# Two commands do everything: `make chat` and `make test`. What make and pip say goes to standard error, so that
# `echo 你好 | make chat` prints the reply and nothing else. README.md has the plain pip commands.

VENV ?= .venv
MODEL ?=
ARGS ?=
# the first interpreter on the path that is new enough; PYTHON=/path/to/python overrides it
CANDIDATES = python3 python3.11 python3.12 python3.13 python3.14 python
NEW_ENOUGH = import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for name in $(CANDIDATES); do "$$name" -c '$(NEW_ENOUGH)' 2>/dev/null && echo "$$name" && break; done)

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
MAKEFLAGS += --no-print-directory

.PHONY: help chat web space test check demo docs

help:
	@echo 'make chat    open the chat; MODEL=PATH_OR_ID picks a model, ARGS="--system TEXT" passes any flag'
	@echo 'make web     open the chat page in the browser; MODEL and ARGS as for the chat'
	@echo 'make test    install the test tools and run the tests; ARGS=tests/cli picks some'
	@echo 'make check   run every gate: format, lint, types, layers, documents, tests'
	@echo 'make demo    train the embedded demo model anew, from data to exported weights'
	@echo 'make docs    rewrite the generated documents'
	@echo 'make space   complete the folder spaces/, for a ModelScope studio or a Hugging Face Space'

chat: $(VENV)/.installed
	@exec $(BIN)/python -m baichuan2 chat $(if $(MODEL),--model '$(MODEL)') $(ARGS)

web: $(VENV)/.installed
	@exec $(BIN)/python -m baichuan2 web $(if $(MODEL),--model '$(MODEL)') $(ARGS)

space: $(VENV)/.installed-dev
	@$(BIN)/python -m hatchling build --target sdist --directory build/space >&2
	@mv build/space/baichuan2-*.tar.gz spaces/baichuan2.tar.gz

test: $(VENV)/.installed-dev
	@exec $(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.installed-dev
	@exec scripts/check

demo: $(VENV)/.installed-recipe
	@exec $(BIN)/python -m recipes.demo $(ARGS)

docs: $(VENV)/.installed-dev
	@exec $(BIN)/python scripts/update_docs.py

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo 'error: Python 3.11 or newer is needed; PYTHON=/path/to/python names one' >&2; exit 2; }
	@"$(PYTHON)" -c '$(NEW_ENOUGH)' || { echo 'error: $(PYTHON) is older than Python 3.11' >&2; exit 2; }
	@echo 'creating $(VENV)' >&2
	@"$(PYTHON)" -m venv "$(VENV)" </dev/null >&2

# The stamps say what has been installed; a change of the requirements installs again. No input for pip: it belongs to the chat.
$(VENV)/.installed: requirements.txt pyproject.toml | $(BIN)/python
	@echo 'installing the requirements, once (about a minute, longer on a slow line)' >&2
	@$(PIP) -r requirements.txt </dev/null >&2
	@touch $@

# one run of pip for both: it looks each package up once, and compiles our kernels once
$(VENV)/.installed-dev: requirements.txt pyproject.toml | $(BIN)/python
	@echo 'installing the requirements and the test tools, once (some minutes)' >&2
	@$(PIP) -r requirements.txt -e '.[dev]' </dev/null >&2
	@touch $(VENV)/.installed $@

$(VENV)/.installed-recipe: $(VENV)/.installed
	@$(PIP) -e '.[recipe]' </dev/null >&2
	@touch $@
