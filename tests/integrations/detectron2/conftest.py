"""The tests of this folder run with the real Detectron2, in the environment that `make test-detectron2` sets up."""

import importlib.util
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FOUND = importlib.util.find_spec("detectron2")
MISSING = FOUND is None or FOUND.origin is None  # without a file it is this folder


def pytest_pycollect_makemodule(module_path: Path):
    """Skips the folder where Detectron2 is missing: its modules import it at their top."""
    if MISSING and HERE in module_path.parents:
        pytest.skip("Detectron2 is not installed: make test-detectron2")


def pytest_collection_modifyitems(items: list[pytest.Item]):
    """Marks the folder's tests."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.detectron2)
