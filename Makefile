# `make quickstart` and `make test` set everything up in .venv themselves; they need Python 3.11 and a package registry.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: quickstart test test-all gpu lint clean

quickstart: .venv/installed
	$(BIN)/copypaste train recipes/quickstart.yaml

# On the CPU, also where there is a GPU: a process has one kind of device. Bytecode is kept also where the environment
# says otherwise: without it each process that imports torch and Composer compiles for ten seconds. Modules run in their
# order: pytest-xdist would leave those of a few long tests to the end, where one of the two processes waits.
PYTEST := CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= \
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: .venv/developing
	$(PYTEST) -m "not slow"

# the slow tests as well; `make test test-all` runs nothing twice
test-all: test
	$(PYTEST) -m slow

gpu: .venv/developing
	$(BIN)/python benchmarks/gpu.py

lint: .venv/developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/typed_usage.py

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "composer-copypaste needs Python 3.11 or 3.12, found " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable .
	touch $@

.venv/developing: .venv/installed
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv
