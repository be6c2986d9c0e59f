# The commands of the project; README.md says more. All of them share one environment, which
# tools/setup_env.py makes at the first call.

VENV ?= .venv
PYTHON ?= python3
TORCH_INDEX ?=
ARGS ?=

# Who names a Python gets it; otherwise an environment that is there already keeps its own.
ifneq ($(origin PYTHON),file)
  CHOSEN = --python-chosen
endif
RUN = $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint

help:
	@echo "make demo    train and evaluate a small detector on made-up images: a table of AP, pictures"
	@echo "make test    run the whole test suite (ARGS='-k name' for a part of it)"
	@echo "make lint    check the code's style"
	@echo "make setup   only make the environment, which the others do by themselves"
	@echo
	@echo "VENV=$(VENV)       where the environment is"
	@echo "PYTHON=$(PYTHON)   what it is made of: Python 3.10 to 3.13"
	@echo "TORCH_INDEX=URL    an index to take CPU-only wheels of torch and torchvision from"

setup:
	@[ -n "$(PYTHON)" ] && command -v $(PYTHON) >/dev/null 2>&1 || { echo "PYTHON=$(PYTHON) is not to be found:" \
	  "name a Python of version 3.10 to 3.13, for example: make demo PYTHON=python3.12." >&2; exit 1; }
	@$(PYTHON) tools/setup_env.py --venv $(VENV) $(CHOSEN) \
	  $(if $(TORCH_INDEX),--torch-index "$(TORCH_INDEX)")

demo: setup
	$(RUN) tools/demo.py $(ARGS)

test: setup
	$(RUN) -m pytest $(ARGS)

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
