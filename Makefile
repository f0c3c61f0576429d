# `make quickstart` and `make test` set everything up in .venv themselves; they need Python 3.11 and a package registry.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
UV := .uv/bin/uv

.PHONY: quickstart test test-all test-core test-newest test-detectron2 test-extras dist docs docs-links gpu lint clean

quickstart: .venv/installed
	$(BIN)/copypaste train recipes/quickstart.yaml
	@echo; echo "'source $(BIN)/activate' makes copypaste a command of your shell; docs/first_training.md goes on."

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

# the tests that need Detectron2, in an environment of their own
test-detectron2: .detectron2/installed
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= \
	.detectron2/bin/python -m pytest -n 2 tests/integrations/detectron2

# The tests of what needs no Composer, with the newest torch and torchvision, in an environment of their own. On Linux
# PyPI's torch is one for CUDA, and cannot be imported without CUDA's packages (libcudnn.so.9): 6.5 GB when installed.
# Where PyTorch's own index is reached, UV_TORCH_BACKEND=cpu makes uv take its build for the CPU.
CORE_TESTS := tests/functional tests/data tests/metrics tests/models tests/visualize tests/integrations \
	tests/test_compact_masks.py tests/test_examples.py tests/test_extras.py tests/test_instances.py tests/test_settings.py tests/test_validation.py
test-core: .core/installed
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= \
	.core/bin/python -m pytest -n 2 --dist loadfile -m "not slow" $(CORE_TESTS)

# The site, in docs/_build/html. Warnings are errors, among them links within it that lead nowhere.
docs: .venv/documenting
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --builder html docs docs/_build/html

# Links to other sites, which need a network
docs-links: .venv/documenting
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m sphinx --keep-going --quiet --builder linkcheck docs docs/_build/links

# Composer on the newest torch, torchvision and NumPy, which its pins forbid, in an environment of its own
NEWEST_TESTS := tests/integrations/composer tests/models tests/metrics tests/data tests/runs/test_training.py \
	tests/runs/test_training_process.py tests/runs/test_best_and_early.py tests/runs/test_streaming_runs.py \
	tests/runs/test_tampered_runs.py tests/runs/test_killed_runs.py
test-newest: .newest/installed
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= \
	.newest/bin/python -m pytest -n 2 --dist loadfile -m "not slow" $(NEWEST_TESTS)

# The wheel and the source distribution, checked as PyPI does
dist: .uv/installed
	rm -rf dist
	$(UV) build --quiet --out-dir dist
	$(UV) tool run --quiet twine check --strict dist/*
	$(UV) tool run --quiet check-wheel-contents dist/*.whl

# The wheel in empty environments, without extras and with each alone; uv fetches a Python that is missing
test-extras: dist
	$(PYTHON) tests/installation/run.py dist/*.whl --uv $(UV)
	$(PYTHON) tests/installation/run.py dist/*.whl --uv $(UV) --only core --python 3.12 3.13

gpu: .venv/developing
	$(BIN)/python benchmarks/gpu.py

lint: .venv/developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/typed_usage.py

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13) and "Composer needs Python 3.11 or 3.12, found " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[composer]'
	touch $@

.venv/developing: .venv/installed
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[dev]'
	touch $@

# The reference is made from the package as it is installed, so the site is built where that is.
.venv/documenting: .venv/installed
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[docs]'
	touch $@

.uv/installed:
	$(PYTHON) -m venv --clear .uv
	.uv/bin/python -m pip install --quiet uv
	touch $@

# Lightning, Transformers and Datasets are what the tests of tests/integrations need that are skipped without them. An empty
# environment gets the newest of all without --upgrade, which would also unpack torch's 6.5 GB into uv's cache once more.
.core/installed: pyproject.toml | .uv/installed
	$(UV) venv --quiet --clear --python $(PYTHON) .core
	$(UV) pip install --quiet --python .core/bin/python --editable '.[test]' lightning transformers datasets
	touch $@

.newest/installed: pyproject.toml tests/installation/newest.txt | .uv/installed
	$(UV) venv --quiet --clear --python $(PYTHON) .newest
	$(UV) pip install --quiet --python .newest/bin/python --override tests/installation/newest.txt --editable '.[dev]'
	touch $@

# Detectron2 is built from source by those who use it. Its Python files are also in a wheel of a third party, whose
# compiled part, for Python 3.10, is not loaded here: Detectron2 does without. Of the paths that the environment adds to
# .venv's packages the wheel's is the last, since it brings a package named `tools`.
.detectron2/installed: .venv/developing tests/integrations/detectron2/requirements.txt
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .detectron2
	$(BIN)/uv pip install --quiet --require-hashes --no-deps --python-version 3.10 --target .detectron2/packages \
	-r tests/integrations/detectron2/requirements.txt
	$(BIN)/python -c 'import site, sysconfig; packages = sysconfig.get_path("purelib"); \
	print(f"import site; site.addsitedir({packages!r})", "$(CURDIR)/.detectron2/packages", sep="\n")' \
	> $$(.detectron2/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/packages.pth
	touch $@

clean:
	rm -rf .venv .core .newest .detectron2 .uv dist docs/_build
