# README.md says what the commands do. They share one virtual environment, which the first of them
# makes; when the pins change, the next one brings it up to date.

VENV ?= .venv
PYTHON ?= python3
TORCH_INDEX ?=
ARGS ?=

PIP = $(VENV)/bin/python -m pip install --disable-pip-version-check
# Imported by tests alone and not to lie beside the other packages: MMDetection imports them
# wherever it finds them (requirements-NAME.txt says more).
PEERS = $(addsuffix /.stamp,$(addprefix $(VENV)/peers/,transformers mmpretrain))

.PHONY: help setup demo test lint
help:
	@echo "make setup   make the environment, 6 GB; the others do it by themselves"
	@echo "make demo    train and evaluate a small detector on made-up images: a table of AP, pictures"
	@echo "make test    run the test suite (ARGS='-m slow': the slow tests, which it leaves out; ARGS=FILE: a part)"
	@echo "make lint    check the code's style"
	@echo "VENV=$(VENV)  PYTHON=$(PYTHON)  where the environment is; what a new one is made of: 3.10 to 3.13"
	@echo "TORCH_INDEX=URL  an index to take CPU-only wheels of torch and torchvision from"

setup: $(VENV)/.stamp $(PEERS)
demo: $(VENV)/.stamp
	$(VENV)/bin/python tools/demo.py $(ARGS)
test: setup
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist worksteal $(or $(ARGS),-m "not slow")
lint: $(VENV)/.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(VENV)/bin/pip:
	@$(PYTHON) -c "import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))" || { echo \
	  "PYTHON=$(PYTHON) is not Python 3.10 to 3.13, which torch and MMEngine need: name one that is, for example PYTHON=python3.12." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) && echo "*" >$(VENV)/.gitignore
$(VENV)/.stamp: requirements.txt setup.py pyproject.toml | $(VENV)/bin/pip
	$(if $(TORCH_INDEX),$(PIP) --no-deps --index-url $(TORCH_INDEX) $(shell grep -E "^torch(vision)?==" $<))
	$(PIP) -r $<
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@
$(VENV)/peers/%/.stamp: requirements-%.txt | $(VENV)/bin/pip
	rm -rf $(@D)
	$(PIP) --no-deps --target $(@D) -r $<
	touch $@
